"""``secateur units``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from secateur.cli.console import output_console, printable
from secateur.cli.opening import ModelChoice
from secateur.cli.options import Architecture, Channels, Classes, Force, Json, Model, Size, StateKey
from secateur.cli.writing import check_file
from secateur.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from secateur.units import Discovery


def units(
    model: Model,
    arch: Architecture,
    *,
    state_key: StateKey = None,
    classes: Classes = None,
    size: Size = None,
    channels: Channels = None,
    graph: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write how the units are connected, the graph of ONP, as GraphML; needs the extra onp.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """List what can be pruned in a network, layer by layer, and why the rest cannot.

    A unit is a channel of a normalisation or convolution, a hidden neuron, or a head of an attention.

    Example: [cyan]secateur units model.pth --arch timm:resnet18[/]
    """
    if graph is not None:
        _check_graph(graph, force)
    loaded = ModelChoice(model, arch, state_key, classes, size, channels).load()
    from secateur.data import example_input
    from secateur.units import discover

    example = example_input(loaded.convention)
    discovery = discover(loaded.network, example)
    if graph is not None:
        _write_graph(loaded.network, discovery, example, graph)
    if as_json:
        sys.stdout.write(json.dumps(_plain(discovery), indent=1) + "\n")
    else:
        _show(discovery)


def _check_graph(path: Path, force: bool) -> None:
    if path.suffix != ".graphml":
        raise InputError(f"{path}: give --graph a name that ends in .graphml")
    check_file(path, force=force, option="--graph")
    from secateur.repair.onp.extra import check_extra

    check_extra()


def _write_graph(network: "nn.Module", discovery: "Discovery", example: "Tensor", path: Path) -> None:
    import torch

    from secateur.repair.onp import Graphing
    from secateur.repair.onp.extra import importing_extra
    from secateur.repair.onp.features import NAMES
    from secateur.units import connect

    with importing_extra():
        from secateur.repair.onp.graph import build_graph, write_graph

    settings = Graphing()
    connections = connect(network, discovery, example, strongest=settings.strongest)
    # What is known of a unit without images.
    strengths = torch.stack([connections.inputs, connections.outputs], 1)
    built = build_graph(settings, discovery.layers, connections, strengths)
    write_graph(built, NAMES[:2], discovery.layers, path)


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
