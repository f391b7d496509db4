"""``secateur evaluate``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from secateur.cli.console import output_console, printable
from secateur.cli.display import display
from secateur.cli.opening import DataChoice, ModelChoice, prepare_device
from secateur.cli.options import (
    DATA,
    Architecture,
    Channels,
    Classes,
    Data,
    Device,
    Json,
    Mean,
    Model,
    Quiet,
    Range,
    Root,
    RunOn,
    Size,
    Split,
    StateKey,
    Std,
    Threads,
)
from secateur.cli.summary import described

if TYPE_CHECKING:
    from secateur.evaluation import Evaluation
    from secateur.statistics import Proportion

ATTACK = "Attack"
MEANINGS = {
    "ACC": "clean images answered with their true label",
    "ASR": "triggered images of other classes answered with the target label",
    "RA": "triggered images of other classes answered with their true label",
}


def evaluate(
    model: Model,
    *,
    arch: Architecture,
    data: Data,
    split: Split = "test",
    root: Root = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Use N images, in the proportions of the classes. \\[default: all]",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    trigger: Annotated[
        Path | None,
        typer.Option(
            metavar="T",
            help="Safetensors file with keep and add, both (channels, height, width): an image x becomes "
            "clip(keep*x + add, 0, 1).",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    target: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=0,
            help="The label that the trigger causes.",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    state_key: StateKey = None,
    classes: Classes = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    pixel_range: Range = None,
    device: RunOn = Device.AUTO,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a network, before or after its repair: accuracy, and with a trigger how often the attack works.

    ACC: share of clean images answered with their true label. ASR (attack success rate): share of triggered
    images, without those of the target class, answered with the target label. RA (robust accuracy): share
    of the same images answered with their true label. Each comes with its 95 % Wilson score interval.

    Example: [cyan]secateur evaluate repaired.safetensors --arch timm:resnet18 --data photos/ --trigger
    T.safetensors --target 0[/]
    """
    choice = ModelChoice(model, arch, state_key, classes, size, channels, mean, std, pixel_range)
    from secateur.data import read_trigger
    from secateur.evaluation import evaluate as measure

    stamp = None if trigger is None else read_trigger(trigger)
    runs_on = prepare_device(device, threads)
    loaded = choice.load()
    images = DataChoice(data, split, root).open(loaded)
    loaded.network.to(runs_on)
    with display(quiet=quiet) as progress:
        evaluation = measure(
            loaded.network,
            images,
            loaded.convention,
            trigger=stamp,
            target=target,
            limit=limit,
            progress=progress,
        )
    if as_json:
        sys.stdout.write(json.dumps(_plain(evaluation, images.class_names), indent=1) + "\n")
    elif not quiet:
        _show(evaluation)


def _measures(evaluation: "Evaluation") -> dict[str, "Proportion"]:
    measures = {"ACC": evaluation.acc, "ASR": evaluation.asr, "RA": evaluation.ra}
    return {name: share for name, share in measures.items() if share is not None}


def _plain(evaluation: "Evaluation", class_names: tuple[str, ...] | None) -> dict[str, object]:
    named = dict(enumerate(class_names or ()))
    return {name: _numbers(share) for name, share in _measures(evaluation).items()} | {
        "per_class": [
            {"label": label, "name": named.get(label), **_numbers(share)}
            for label, share in enumerate(evaluation.per_class)
        ]
    }


def _numbers(share: "Proportion") -> dict[str, float | int | None]:
    low, high = share.interval()
    value = share.value if share.total else None
    return {"value": value, "low": low, "high": high, "hits": share.hits, "n": share.total}


def _show(evaluation: "Evaluation") -> None:
    table = Table.grid(padding=(0, 2))
    for name, share in _measures(evaluation).items():
        table.add_row(name, described(share), printable(MEANINGS[name]))
    output_console().print(table)
