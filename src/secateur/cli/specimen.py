"""``secateur specimen``."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from secateur.cli import parsing
from secateur.cli.codes import INCONCLUSIVE
from secateur.cli.logs import tensorboard as logging
from secateur.cli.opening import prepare_device
from secateur.cli.options import (
    ATTACK,
    DATA,
    Channels,
    Device,
    Force,
    Json,
    Mapping,
    Mean,
    Quiet,
    Root,
    RunOn,
    Size,
    Sources,
    Std,
    Threads,
)
from secateur.cli.specimens import make_all
from secateur.cli.writing import check_folder
from secateur.errors import InputError

TRAINING = "Training"
OUTPUTS = ("card.json", "weights.safetensors", "trigger.safetensors")
LISTED = "--list"
WITH_A_LIST = {
    *("--out", "--list", "--only", "--force", "--tensorboard"),
    *("--device", "--threads", "--quiet", "--json"),
}


def specimen(
    context: typer.Context,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for weights.safetensors, trigger.safetensors and card.json; with --list a folder "
            "that gets one of these per specimen.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--arch",
            "-a",
            metavar="A",
            help="The network: timm:NAME, torchvision:NAME, secateur:NAME, path/to/file.py:factory or "
            "package.module:factory.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            metavar="D",
            help="Images with labels in two splits, train and test: a folder, Parquet, an .npz file, or "
            "torchvision:NAME together with --root.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    recipes: Annotated[
        Path | None,
        typer.Option(
            LISTED,
            metavar="FILE",
            help="Make all specimens of a TOML list, instead of one from options; those that are there "
            "already are kept. A list may name Python files of architectures, which are run.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of the list; may be repeated.", show_default=False),
    ] = None,
    force: Force = False,
    attack: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="See secateur attacks; none trains a clean model.", rich_help_panel=ATTACK
        ),
    ] = "none",
    target: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=0,
            help="The label that the trigger causes. \\[default: 0]",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="Poisoned share of the training images. \\[default: the attack's]",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    cover_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="Share of images with the trigger and their own label.",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    mapping: Mapping = None,
    source: Sources = None,
    clean_label: Annotated[
        bool | None,
        typer.Option(
            "--clean-label/--dirty-label",
            help="Poison images that have the target label already, or change labels. "
            "\\[default: the attack's]",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A hyperparameter of the attack; may be repeated.",
            show_default=False,
            rich_help_panel=ATTACK,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Checkpoint of a clean model to start from: a few epochs are enough then.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    surrogate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Checkpoint of a clean model for attacks that need one. \\[default: --from]",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Passes over the training images.", rich_help_panel=TRAINING),
    ] = 60,
    learning_rate: Annotated[
        float,
        typer.Option(metavar="X", help="The highest; about 0.02 suits --from.", rich_help_panel=TRAINING),
    ] = 0.1,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=2, help="Images per step.", rich_help_panel=TRAINING)
    ] = 128,
    flip: Annotated[
        bool,
        typer.Option(
            help="Whether half of the images are mirrored; not for digits or signs.", rich_help_panel=TRAINING
        ),
    ] = True,
    precision: Annotated[
        str, typer.Option(metavar="P", help="auto, float32 or bfloat16.", rich_help_panel=TRAINING)
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the network; pays for long runs on a GPU.", rich_help_panel=TRAINING
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Decides all that is left to chance.", rich_help_panel=TRAINING
        ),
    ] = 0,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for TensorBoard; needs secateur\\[tensorboard].",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    root: Root = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    device: RunOn = Device.AUTO,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model with a known backdoor, to measure repairs on.

    Writes the weights, the trigger and a card: the recipe, versions, hashes, and ACC, ASR and RA with their
    intervals. A run that was interrupted goes on from its last epoch when started again. For several GPUs:
    torchrun --nproc-per-node N -m secateur specimen and the options. Exit code 0: the specimen works; 2:
    something given cannot be used; 3: the attack did not take (ASR below 80 %) or the model is ruined; the
    card says which.

    Example: [cyan]secateur specimen --attack wanet --model secateur:resnet18 --data cifar10/ --out wanet/[/]
    """
    from secateur.specimens import UNFINISHED, SpecimenRecipe, Training, read_list

    # Of the processes that torchrun starts, the first one talks.
    silent = os.environ.get("RANK", "0") != "0"
    quiet, as_json = quiet or silent, as_json and not silent

    given = _given(context)
    if recipes is not None:
        if told := sorted(given - WITH_A_LIST):
            raise InputError(f"{LISTED} {recipes}: says what to train; {', '.join(told)} would be ignored")
        jobs = {out / name: recipe for name, recipe in read_list(recipes, only or (), made=out).items()}
    elif "--only" in given:
        raise InputError(f"--only takes names from a list: give {LISTED}")
    elif model is None or data is None:
        raise InputError(f"give --model and --data, or {LISTED}")
    else:
        goal = {
            "target": target,
            "rate": rate,
            "cover_rate": cover_rate,
            "mapping": mapping,
            "sources": tuple(source) if source else None,
            "clean_label": clean_label,
        }
        recipe = SpecimenRecipe(
            model=model,
            data=data,
            attack=attack,
            goal={name: value for name, value in goal.items() if value is not None},
            settings=parsing.settings("--set", setting or ()),
            training=Training(
                epochs=epochs,
                batch_size=batch_size,
                rate=learning_rate,
                flip=flip,
                precision=cast(Any, precision),
                compile=compiled,
            ),
            seed=seed,
            start=start,
            surrogate=surrogate,
            root=root,
            size=parsing.height_and_width("--size", size),
            channels=channels,
            mean=parsing.numbers("--mean", mean),
            std=parsing.numbers("--std", std),
        )
        if not (out / UNFINISHED).is_dir():
            check_folder(out, OUTPUTS, force=force)
        jobs = {out: recipe}
    runs_on = prepare_device(device, threads)
    with logging(tensorboard) as log:
        cards = make_all(jobs, runs_on, log, quiet=quiet, force=force, tell=not (quiet or as_json))
    if as_json:
        plain = list(cards.values())
        sys.stdout.write(json.dumps(plain if recipes else plain[0], indent=1) + "\n")
    if any(card["verdict"] != "works" for card in cards.values()):
        raise typer.Exit(INCONCLUSIVE)


def _given(context: typer.Context) -> set[str]:
    """Return the options on the command line, by their long names."""
    sources = {
        max(parameter.opts, key=len): context.get_parameter_source(parameter.name or "")
        for parameter in context.command.params
    }
    return {option for option, source in sources.items() if source and source.name == "COMMANDLINE"}
