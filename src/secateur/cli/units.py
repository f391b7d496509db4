"""``secateur units``."""

import json
import sys
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from secateur.cli.console import output_console, printable
from secateur.cli.opening import ModelChoice
from secateur.cli.options import Architecture, Channels, Classes, Json, Model, Size, StateKey

if TYPE_CHECKING:
    from secateur.units import Discovery


def units(
    model: Model,
    arch: Architecture,
    *,
    state_key: StateKey = None,
    classes: Classes = None,
    size: Size = None,
    channels: Channels = None,
    as_json: Json = False,
) -> None:
    """List what can be pruned in a network, layer by layer, and why the rest cannot.

    A unit is a channel of a normalisation or convolution, a hidden neuron, or a head of an attention.

    Example: [cyan]secateur units model.pth --arch timm:resnet18[/]
    """
    loaded = ModelChoice(model, arch, state_key, classes, size, channels).load()
    from secateur.data import example_input
    from secateur.units import discover

    discovery = discover(loaded.network, example_input(loaded.convention))
    if as_json:
        sys.stdout.write(json.dumps(_plain(discovery), indent=1) + "\n")
    else:
        _show(discovery)


def _plain(discovery: "Discovery") -> dict[str, object]:
    return {
        "total": discovery.total,
        "layers": [
            {"name": layer.name, "kind": layer.kind, "count": layer.count} for layer in discovery.layers
        ],
        "refused": discovery.refused,
    }


def _show(discovery: "Discovery") -> None:
    console = output_console()
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("layer", overflow="fold")
    found.add_column("kind")
    found.add_column("units", justify="right")
    for layer in discovery.layers:
        found.add_row(printable(layer.name), layer.kind, f"{layer.count:,}")
    console.print(found)
    console.print(Text(f"\n{discovery.total:,} units in {len(discovery.layers)} layers", "bold"))
    if discovery.refused:
        refused = Table(box=None, pad_edge=False, header_style="bold")
        refused.add_column("not prunable", overflow="fold")
        refused.add_column("because", overflow="fold")
        for name, reason in discovery.refused.items():
            refused.add_row(printable(name or "(the network itself)"), printable(reason))
        console.print()
        console.print(refused)
