"""``secateur evaluate``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from secateur.cli.console import output_console, printable, warn
from secateur.cli.display import display
from secateur.cli.opening import DataChoice, ModelChoice, prepare_device
from secateur.cli.options import (
    ATTACK,
    DATA,
    Architecture,
    Channels,
    Classes,
    Data,
    Device,
    Json,
    Mapping,
    Mean,
    Model,
    Quiet,
    Range,
    Root,
    RunOn,
    Size,
    Sources,
    Split,
    StateKey,
    Std,
    Threads,
)
from secateur.cli.sampling import measure_clean
from secateur.cli.summary import described
from secateur.errors import ConventionError, InputError

if TYPE_CHECKING:
    from secateur.data import ImageDataset
    from secateur.evaluation import Evaluation
    from secateur.models import LoadedModel
    from secateur.statistics import Proportion

MEANINGS = {
    "ACC": "clean images answered with their true label",
    "ASR": "triggered images of attacked classes answered with the label that the attack wants",
    "RA": "the same images answered with their true label",
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
            help="Safetensors file with keep and add, both (channels, height, width), by which an image x "
            "becomes clip(keep*x + add, 0, 1); or the trigger of a specimen.",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    target: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=0,
            help="The label that the trigger causes; needed with --trigger, but for --mapping all-to-all.",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    mapping: Mapping = None,
    source: Sources = None,
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
    from secateur.attacks import read_any_trigger
    from secateur.evaluation import evaluate as measure

    stamp = None if trigger is None else read_any_trigger(trigger)
    runs_on = prepare_device(device, threads)
    loaded = choice.load()
    wanted = _wanted(target, mapping, tuple(source or ()), loaded.num_classes)
    images = DataChoice(data, split, root).open(loaded)
    if choice.has_usual_values and not quiet and len(images) > 1:
        _check_input(choice, images, loaded)
    loaded.network.to(runs_on)
    with display(quiet=quiet) as progress:
        evaluation = measure(
            loaded.network,
            images,
            loaded.convention,
            trigger=stamp,
            target=wanted,
            limit=limit,
            progress=progress,
        )
    if as_json:
        sys.stdout.write(json.dumps(_plain(evaluation, images.class_names), indent=1) + "\n")
    elif not quiet:
        _show(evaluation)


def _check_input(choice: ModelChoice, images: "ImageDataset", loaded: "LoadedModel") -> None:
    """Warn if the input is not what the network was trained on; it may also be that bad."""
    from secateur.data import sample_clean

    clean = sample_clean(images, loaded.convention, num_classes=loaded.num_classes)
    try:
        measure_clean(choice, loaded, clean, tell=False, quiet=False)
    except ConventionError as error:
        warn(str(error))


def _wanted(
    target: int | None, mapping: str | None, sources: tuple[int, ...], classes: int
) -> list[int] | None:
    """Return the label that the attack wants for each class; None if nothing was said of an attack."""
    if target is None and mapping is None and not sources:
        return None
    from secateur.attacks import Goal

    if target is None and mapping != "all-to-all":
        raise InputError("an attack needs the label that it causes: give --target")
    if target is not None and mapping == "all-to-all":
        raise InputError("--mapping all-to-all has a label for each class: leave out --target")
    kind = cast(Any, mapping or ("source-specific" if sources else "all-to-one"))
    return Goal(target=target or 0, mapping=kind, sources=sources).wanted(classes).tolist()


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
