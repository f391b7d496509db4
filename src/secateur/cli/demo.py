"""``secateur demo``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import Force


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the outputs.")] = Path(
        "secateur-demo"
    ),
    force: Force = False,
) -> None:
    raise NotImplementedError
