"""What was done to a network and what that rests on: as JSON for programs, as a page for people."""

from secateur.report.evidence import Evaluation, Evidence, collect
from secateur.report.page import render, write_report

__all__ = ["Evaluation", "Evidence", "collect", "render", "write_report"]
