"""Figures as SVG that can stand inside a page, several at a time, whatever text they contain."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.dom import minidom

import matplotlib
from matplotlib.figure import Figure

INK = "#1b1f24"
QUIET = "#57606a"
GRID = "#d8dee4"
BLUE = "#0072b2"
ORANGE = "#d55e00"
GREY = "#b6bdc5"
# Blue, vermilion and grey of the Okabe-Ito palette: told apart with any colour vision, and in print.
STYLE: dict[Any, object] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "secateur",
}
# The widest figure then fills the text column of the page.
PIXELS_PER_POINT = 1.465
RASTER = 150
"""Pixels per inch of what is a picture within a figure, for sharp screens."""
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style inside the block; matplotlib's settings are as before afterwards."""
    with matplotlib.rc_context():
        # Defaults first: a user's own style must not change a report. This leaves the backend alone.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def inline(figure: Figure, name: str, description: str) -> str:
    """Return a figure as one ``<svg>`` element.

    Parameters
    ----------
    figure
        Drawn in `style`.
    name
        Prefix of the element's identifiers, unique in the page.
    description
        What a reader who cannot see the figure should know.

    Returns
    -------
    str
        The same text for the same figure. It loads nothing and scales with its container.
    """
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, dpi=RASTER)
    root = minidom.parseString(buffer.getvalue()).documentElement
    assert root is not None
    used = {reference for element in _elements(root) for reference in _references(element)}
    for element in _elements(root):
        for key, value in list(element.attributes.items()):
            if key == "id":
                if value in used:
                    element.setAttribute("id", f"{name}-{value}")
                else:
                    element.removeAttribute("id")
            elif key == "xlink:href" and value.startswith("#"):
                element.setAttribute(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.setAttribute(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
    width = root.getAttribute("width").removesuffix("pt")
    root.removeAttribute("width")
    root.removeAttribute("height")
    root.setAttribute("style", f"width:100%;max-width:{float(width) * PIXELS_PER_POINT:.0f}px;height:auto")
    root.setAttribute("role", "img")
    root.setAttribute("aria-label", description)
    return root.toxml()


def printable(text: str, limit: int = 10_000) -> str:
    """Replace control, direction-changing and unassigned characters, and shorten in the middle.

    Parameters
    ----------
    text
        From anywhere.
    limit
        Longest result, in characters, at least 3.
    """
    visible = "".join(
        character
        if character.isprintable() or character == "\N{NO-BREAK SPACE}"
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
    if len(visible) <= limit:
        return visible
    tail = (limit - 1) // 2
    return f"{visible[: limit - 1 - tail]}…{visible[len(visible) - tail :]}"


def _elements(root: minidom.Element) -> Iterator[minidom.Element]:
    yield root
    yield from root.getElementsByTagName("*")


def _references(element: minidom.Element) -> Iterator[str]:
    for key, value in element.attributes.items():
        if key == "xlink:href" and value.startswith("#"):
            yield value[1:]
        yield from _REFERENCE.findall(value)
