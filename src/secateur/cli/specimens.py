"""Specimens made one after the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from secateur.cli.console import output_console, printable, say
from secateur.cli.display import display
from secateur.cli.summary import measured
from secateur.progress import Log

if TYPE_CHECKING:
    from secateur.specimens import Data, SpecimenRecipe


def make_all(
    jobs: "Mapping[Path, SpecimenRecipe]",
    device: str,
    log: Log | None,
    *,
    quiet: bool,
    force: bool,
    tell: bool,
) -> dict[Path, dict[str, Any]]:
    """Make one specimen after the other and return their cards; images that they share are read once.

    One that is there already, of the same recipe, images and code, is kept unless `force` is given.
    """
    from torch import distributed

    from secateur.specimens import finished, make_specimen, open_data

    data: tuple[object, Data] | None = None
    cards = {}
    for folder, recipe in jobs.items():
        with display(quiet=quiet) as progress:
            source = (recipe.data, recipe.root, recipe.size, recipe.channels)
            if data is None or data[0] != source:
                data = (source, open_data(recipe, progress))
            card = None if force else finished(folder, recipe.digest(data[1].train.digest))
            if card is None:
                card = make_specimen(recipe, folder, data=data[1], device=device, progress=progress, log=log)
        cards[folder] = card
        if tell:
            show(folder, card)
    if distributed.is_initialized():
        # An interpreter that ends while the group's threads live may abort.
        distributed.destroy_process_group()
    return cards


def show(folder: Path, card: dict[str, Any]) -> None:
    """Print what a specimen came to."""
    style = "bold green" if card["verdict"] == "works" else "bold yellow"
    say(f"{card['recipe']['attack']}: {card['verdict']}", style=style)
    table = Table.grid(padding=(0, 2))
    for name in ("acc", "asr", "ra"):
        if name in card["measured"]:
            share = card["measured"][name]
            table.add_row(name.upper(), measured(share["value"], share["low"], share["high"], share["n"]))
    table.add_row("card", printable(str(folder / "card.json")))
    output_console().print(table)
