"""Text for people: results on standard output, everything else on standard error."""

import sys

from rich.console import Console
from rich.text import Text

WIDE = 240


def printable(text: str) -> str:
    """Return `text` without characters that a terminal would obey.

    Names come out of files that anyone may have written; escape sequences in them could rewrite the screen.
    """
    harmless = "\n\N{NO-BREAK SPACE}"
    return "".join(c if c.isprintable() or c in harmless else "\N{REPLACEMENT CHARACTER}" for c in text)


def output_console() -> Console:
    """Return the console for results; it writes no escape codes unless it is a terminal."""
    return _console(error=False)


def error_console() -> Console:
    """Return the console for progress, warnings and errors."""
    return _console(error=True)


def say(text: str, *, style: str = "") -> None:
    """Print one paragraph of a result."""
    output_console().print(Text(printable(text), style), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning."""
    _labelled("warning: ", "yellow", text)


def complain(text: str) -> None:
    """Print the error that ends the command."""
    _labelled("error: ", "bold red", text)


def _labelled(label: str, style: str, text: str) -> None:
    error_console().print(Text.assemble((label, style), printable(text)), soft_wrap=True)


def _console(*, error: bool) -> Console:
    stream = sys.stderr if error else sys.stdout
    # Without a terminal nothing says how wide a line may be, and wrapped lines are hard to read by programs.
    width = None if stream.isatty() else WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
