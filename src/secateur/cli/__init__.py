"""The command line: one thin file per verb. Importing it does not import torch."""

from secateur.cli.application import app, main

__all__ = ["app", "main"]
