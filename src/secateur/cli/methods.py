"""``secateur methods``."""

import json
import sys

from rich.table import Table

from secateur.cli.console import output_console, printable
from secateur.cli.options import Json


def methods(*, as_json: Json = False) -> None:
    """List the repair methods, their presets and the papers that they come from.

    Example: [cyan]secateur methods[/]
    """
    from secateur.repair import methods as registered

    entries = registered().values()
    if as_json:
        listed = [
            {
                "name": entry.name,
                "presets": list(entry.presets),
                "title": entry.title,
                "paper": entry.paper,
                "year": entry.year,
            }
            for entry in entries
        ]
        sys.stdout.write(json.dumps(listed, indent=1) + "\n")
        return
    table = Table("method", "presets", "title", "paper", box=None, pad_edge=False, header_style="bold")
    for entry in entries:
        cells = (entry.name, ", ".join(entry.presets), f"{entry.title} ({entry.year})", entry.paper)
        table.add_row(*map(printable, cells))
    output_console().print(table)
