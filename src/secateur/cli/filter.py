"""``secateur filter``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import say, warn
from secateur.cli.display import display
from secateur.cli.opening import DataChoice, ModelChoice, prepare_device
from secateur.cli.options import (
    FLAG,
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
from secateur.cli.rows import FORMATS, Rows, opened
from secateur.cli.sampling import Sampling, measure_clean
from secateur.cli.summary import described
from secateur.cli.writing import check_file
from secateur.errors import InputError
from secateur.files import atomic_path

if TYPE_CHECKING:
    from secateur.data import ImageDataset
    from secateur.expose.samples import Judge, Threshold
    from secateur.progress import Progress
    from secateur.statistics import Proportion

IMAGES = "Images to be judged"


def filter_(
    model: Model,
    *,
    arch: Architecture,
    data: Data,
    images: Annotated[
        str,
        typer.Option(
            "--images",
            "-i",
            metavar="D",
            help="The images, in any of the forms of --data; a folder need not be divided into classes.",
            show_default=False,
            rich_help_panel=IMAGES,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Table to write, .csv or .parquet: file, label, answer, score, suspicious.",
            show_default=False,
        ),
    ],
    force: Force = False,
    images_split: Annotated[
        str,
        typer.Option(metavar="NAME", help="Part of the images.", rich_help_panel=IMAGES),
    ] = "test",
    labelled: Annotated[
        bool,
        typer.Option(
            "--labelled",
            metavar=FLAG,
            help="The images' labels count, as those of a training set do. Otherwise the network's own "
            "answers stand in for them.",
            rich_help_panel=IMAGES,
        ),
    ] = False,
    detector: Annotated[
        str,
        typer.Option(metavar="NAME", help="What scores images; see secateur detectors."),
    ] = "unlearned",
    rate: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            help="Share of clean images that may be called suspicious, in percent.",
        ),
    ] = 1.0,
    state_key: StateKey = None,
    classes: Classes = None,
    split: Split = "train",
    root: Root = None,
    samples: Samples = 500,
    per_class: PerClass = None,
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
    """Score images by how much they look like triggered ones, and mark those above a threshold.

    The threshold comes from clean images that the detector did not learn from: no more than the share of
    --rate of clean images is expected above it. Files that are no image are marked and passed over. Memory
    does not grow with the number of images.

    Example: [cyan]secateur filter model.pth --arch timm:resnet18 --data clean/ --images uploads/ --out
    scores.csv[/]
    """
    if out.suffix not in FORMATS:
        raise InputError(f"{out}: give --out a name that ends in {' or '.join(FORMATS)}")
    check_file(out, force=force)
    choice = ModelChoice(model, arch, state_key, classes, size, channels, mean, std, pixel_range)
    from secateur.expose.samples import Filter, Threshold, create

    if not 0 < rate < 100:
        raise InputError(f"--rate {rate:g}: give a percentage above 0 and below 100")
    judging = Filter(create(detector), rate=rate / 100, labelled=labelled)
    sampling = Sampling(samples, per_class, seed)
    runs_on = prepare_device(device, threads)
    loaded = choice.load()
    clean = sampling.draw(DataChoice(data, split, root), loaded)
    judged = DataChoice(images, images_split, root).open(loaded, labelled=labelled)
    if labelled:
        judged.check_labels(loaded.num_classes)
    tell = not (quiet or as_json)
    least = Threshold.least(len(clean.choose))
    if tell and rate / 100 < least:
        warn(
            f"--rate {rate:g} needs more held-out clean images than {len(clean.choose)}; "
            f"with those {100 * least:.2g} % is the least"
        )
    measure_clean(choice, loaded, clean, tell=tell, quiet=quiet)

    import torch

    from secateur.statistics import Proportion

    loaded.network.to(runs_on)
    with (
        display(quiet=quiet) as progress,
        judging.prepared(
            loaded.network,
            clean,
            judged,
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
        ) as judge,
        atomic_path(out) as temporary,
    ):
        with opened(temporary, out.suffix) as rows:
            suspicious, unreadable = _judge_all(judge, judged, judging.batch_size, rows, progress)
        if unreadable == len(judged):
            raise InputError(f"{images}: none of the {unreadable:,} images can be read")
        threshold = judge.threshold
    share = Proportion(suspicious, len(judged) - unreadable)
    found = _plain(share, threshold, detector, out) | {"unreadable": unreadable}
    if tell:
        _tell(share, threshold, unreadable, out)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")


def _judge_all(
    judge: "Judge", images: "ImageDataset", batch_size: int, rows: Rows, progress: "Progress"
) -> tuple[int, int]:
    """Write a row for every image, batch by batch; return how many are suspicious and how many unreadable."""
    import torch

    from secateur.expose.samples import decoded

    suspicious = unreadable = 0
    progress.start("scoring", -(-len(images) // batch_size))
    for chosen in torch.split(torch.arange(len(images)), batch_size):
        pixels, read = decoded(images, chosen)
        broken = [images.name_of(int(k)) for k in chosen[~read]]
        nothing = [None] * len(broken)
        rows.write(broken, images.labels[chosen[~read]].tolist(), nothing, nothing, [True] * len(broken))
        unreadable += len(broken)
        if pixels is not None:
            scores = judge(pixels, images.labels[chosen[read]])
            suspicious += int(scores.suspicious.sum())
            rows.write(
                [images.name_of(int(k)) for k in chosen[read]],
                images.labels[chosen[read]].tolist(),
                scores.answers.tolist(),
                scores.values.tolist(),
                scores.suspicious.tolist(),
            )
        progress.advance(suspicious=suspicious)
    return suspicious, unreadable


def _tell(share: "Proportion", threshold: "Threshold", unreadable: int, out: Path) -> None:
    say(f"\n{share.hits:,} of {share.total:,} images are suspicious", style="bold")
    say(f"share above the threshold {described(share)}")
    say(f"the threshold {threshold.value:.4g} comes from {threshold.images} clean images")
    if threshold.holds:
        say(f"of images like them at most {100 * threshold.rate:.2g} % are expected above it")
    else:
        say("this detector learned from the images that it judges, so no rate of clean ones above it holds")
    if unreadable:
        say(f"{unreadable:,} files could not be read; they are marked as suspicious without a score")
    say(f"scores in {out}")


def _plain(share: "Proportion", threshold: "Threshold", detector: str, out: Path) -> dict[str, Any]:
    low, high = share.interval()
    return {
        "detector": detector,
        "images": share.total,
        "suspicious": {"hits": share.hits, "value": share.value, "low": low, "high": high},
        "threshold": {
            "value": threshold.value,
            "rate": threshold.rate,
            "images": threshold.images,
            "holds": threshold.holds,
        },
        "out": str(out),
    }
