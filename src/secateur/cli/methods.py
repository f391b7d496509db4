"""``secateur methods``, ``secateur attacks`` and ``secateur detectors``."""

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.table import Table

from secateur.cli.console import output_console, printable
from secateur.cli.options import Json

if TYPE_CHECKING:
    from secateur.registry import Entry


def methods(*, as_json: Json = False) -> None:
    """List the repair methods, their presets and the papers that they come from.

    Example: [cyan]secateur methods[/]
    """
    from secateur.repair import methods as registered

    _list("method", registered().values(), as_json=as_json)


def attacks(*, as_json: Json = False) -> None:
    """List the attacks of specimens, which exist to measure repairs, and the papers that they come from.

    Example: [cyan]secateur attacks[/]
    """
    from secateur.attacks import attacks as registered

    _list("attack", registered().values(), as_json=as_json)


def detectors(*, as_json: Json = False) -> None:
    """List what can score images for triggers, and the papers that they come from.

    Example: [cyan]secateur detectors[/]
    """
    from secateur.expose.samples import detectors as registered

    _list("detector", registered().values(), as_json=as_json)


def _list(kind: str, entries: "Iterable[Entry[Any]]", *, as_json: bool) -> None:
    if as_json:
        listed = [
            {
                "name": entry.name,
                "presets": list(entry.presets),
                "title": entry.title,
                "paper": entry.paper,
                "year": entry.year,
                "settings": _numbers(entry),
            }
            for entry in entries
        ]
        sys.stdout.write(json.dumps(listed, indent=1) + "\n")
        return
    about = "presets" if kind == "method" else "settings"
    table = Table(kind, about, "title", "paper", box=None, pad_edge=False, header_style="bold")
    for entry in entries:
        told = list(entry.presets)
        if kind != "method":
            told = [f"{name}={value:.4g}" for name, value in _numbers(entry).items()]
        cells = (entry.name, ", ".join(told), f"{entry.title} ({entry.year})", entry.paper)
        table.add_row(*map(printable, cells))
    output_console().print(table)


def _numbers(entry: "Entry[Any]") -> dict[str, Any]:
    """Return the hyperparameters that are numbers, with their defaults."""
    return {name: value for name, value in entry.settings.items() if isinstance(value, int | float)}
