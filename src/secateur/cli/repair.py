"""``secateur repair``."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.codes import INCONCLUSIVE
from secateur.cli.logs import tensorboard as logging
from secateur.cli.opening import DataChoice, ModelChoice
from secateur.cli.options import (
    Architecture,
    Channels,
    Classes,
    Data,
    Device,
    Force,
    Json,
    Mean,
    Model,
    PerClass,
    Quiet,
    Range,
    Root,
    RunOn,
    Samples,
    Seed,
    Size,
    Split,
    StateKey,
    Std,
    Threads,
)
from secateur.cli.repairing import MethodChoice, Request, carry_out
from secateur.cli.sampling import Sampling

METHOD = "Method"


def repair(
    context: typer.Context,
    model: Model,
    *,
    arch: Architecture,
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for repaired.safetensors, recipe.json, report.json and report.html.",
            show_default=False,
        ),
    ],
    force: Force = False,
    state_key: StateKey = None,
    classes: Classes = None,
    split: Split = "train",
    root: Root = None,
    samples: Samples = 500,
    per_class: PerClass = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="See secateur methods.", rich_help_panel=METHOD)
    ] = "rnp",
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Settings of the method; paper takes the published ones.",
            rich_help_panel=METHOD,
        ),
    ] = "default",
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            min=0,
            max=100,
            help="Largest loss of clean accuracy to accept, in percentage points. Where a trigger was found, "
            "up to twice as much may be spent to finish. \\[default: 2; none with --preset paper]",
            show_default=False,
            rich_help_panel=METHOD,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="Units with masks above this are no suspects. --preset paper prunes all suspects, whatever "
            "it costs; the default only where no trigger is found, and within the budget.",
            show_default=False,
            rich_help_panel=METHOD,
        ),
    ] = None,
    polish: Annotated[
        bool | None,
        typer.Option(
            "--polish/--no-polish",
            help="After pruning, fit the weights that are left gently to the answers of the network as it "
            "came. Only where a trigger was found, and kept only if it costs no accuracy beyond chance, no "
            "known trigger succeeds on more than 10 % again, and inverting again finds no cheap one. By "
            "default as the preset says. For --method rnp and onp.",
            show_default=False,
            rich_help_panel=METHOD,
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the figures of every step; needs secateur\\[tensorboard].",
            rich_help_panel=METHOD,
        ),
    ] = None,
    seed: Seed = 0,
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
    """Repair a network with a few hundred clean images, and write down the evidence.

    The clean accuracy is measured first: if the network does no better than guessing, its input is not what
    it was trained on, and nothing is done. Exit code 0: repaired, or nothing found to repair (the report says
    which); 2: something given cannot be used; 3: inconclusive.

    Example: [cyan]secateur repair model.pth --arch timm:resnet18 --data photos/ --out repaired/[/]
    """
    request = Request(
        ModelChoice(model, arch, state_key, classes, size, channels, mean, std, pixel_range),
        DataChoice(data, split, root),
        Sampling(samples, per_class, seed),
        MethodChoice(method, preset, budget, threshold, polish),
        out,
        force,
        device,
        threads,
        ("secateur", *context.find_root().obj),
    )
    with logging(tensorboard) as log:
        evidence = carry_out(request, tell=not (quiet or as_json), quiet=quiet, log=log)
    if as_json:
        sys.stdout.write(json.dumps(evidence, indent=1, allow_nan=False) + "\n")
    if evidence["outcome"] == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)
