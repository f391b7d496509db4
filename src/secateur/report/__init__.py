"""What was done to a network and what that rests on: as JSON for programs, as a page for people."""

from secateur.report.evidence import Evaluation, collect
from secateur.report.frame import Evidence
from secateur.report.page import render, write_report
from secateur.report.pictures import picture
from secateur.report.sarif import sarif
from secateur.report.scan import collect_scan

__all__ = ["Evaluation", "Evidence", "collect", "collect_scan", "picture", "render", "sarif", "write_report"]
