"""``secateur apply``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.console import say
from secateur.cli.options import Force, Model, Quiet, StateKey
from secateur.cli.writing import check_file, save_weights
from secateur.errors import InputError, RecipeError


def apply(
    recipe: Annotated[
        Path,
        typer.Argument(help="The recipe.json that secateur repair wrote.", show_default=False),
    ],
    model: Model,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE", help="The .safetensors file to write.", show_default=False
        ),
    ],
    state_key: StateKey = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Prune the original checkpoint as a recipe says, bit for bit; a polish is not repeated.

    Neither the architecture nor any image is needed. A recipe for other weights is refused.

    Example: [cyan]secateur apply out/recipe.json model.pth --out repaired.safetensors[/]
    """
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: give --out a name that ends in .safetensors")
    check_file(out, force=force)
    from secateur.models import read_checkpoint
    from secateur.units import Recipe

    try:
        text = recipe.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{recipe}: is not a recipe, which is a JSON text") from error
    try:
        parsed = Recipe.from_json(text)
    except RecipeError as error:
        raise RecipeError(f"{recipe}: {error}; give the recipe.json that secateur repair wrote") from error
    try:
        repaired = parsed.apply(read_checkpoint(model, state_key=state_key).state)
    except RecipeError as error:
        raise RecipeError(f"{recipe}: {error}") from error
    save_weights(out, repaired)
    if not quiet:
        count = len(parsed.units)
        say(f"{count} {'unit' if count == 1 else 'units'} pruned; the weights are in {out}")
