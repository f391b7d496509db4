"""``secateur scan``."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.codes import DONE, EVIDENCE, INCONCLUSIVE
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
from secateur.cli.sampling import Sampling, measure_clean
from secateur.cli.summary import show_scan
from secateur.cli.writing import check_folder, published
from secateur.files import atomic_path, sha256, write_text

if TYPE_CHECKING:
    from secateur.expose import Verdict

REPORT_DATA, REPORT, SARIF = "report.json", "report.html", "report.sarif"
TRIGGER, PICTURE = "trigger.safetensors", "trigger.png"
OUTPUTS = (REPORT_DATA, REPORT, SARIF, TRIGGER, PICTURE)
CODES = {"no evidence": DONE, "evidence": EVIDENCE, "inconclusive": INCONCLUSIVE}


def scan(
    context: typer.Context,
    model: Model,
    *,
    arch: Architecture,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for report.html, report.json and report.sarif, and for the trigger if one stands "
            "out: trigger.safetensors and trigger.png. \\[default: write nothing]",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    state_key: StateKey = None,
    classes: Classes = None,
    split: Split = "train",
    root: Root = None,
    samples: Samples = 500,
    per_class: PerClass = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            metavar=FLAG,
            help="Search for every kind of trigger, also after one stood out.",
        ),
    ] = False,
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
    """Look for evidence of a backdoor, with a few hundred clean images; the network is left as it is.

    The network is made to forget its task, and triggers are inverted for every label. One that is far smaller
    than those for other labels is evidence; for the label that forgetting points to, a less small one is as
    well. Exit code 0: no evidence found, which does not mean clean; 1: evidence; 2: something given cannot be
    used; 3: inconclusive.

    Example: [cyan]secateur scan model.pth --arch timm:resnet18 --data photos/ --out scanned/[/]
    """
    if out is not None:
        check_folder(out, OUTPUTS, force=force)
    choice = ModelChoice(model, arch, state_key, classes, size, channels, mean, std, pixel_range)
    images = DataChoice(data, split, root)
    sampling = Sampling(samples, per_class, seed)
    runs_on = prepare_device(device, threads)
    loaded = choice.load()
    clean = sampling.draw(images, loaded)
    tell = not (quiet or as_json)
    accuracy = measure_clean(choice, loaded, clean, tell=tell, quiet=quiet)

    import torch

    from secateur.expose import Scan
    from secateur.report import collect_scan

    loaded.network.to(runs_on)
    method = Scan()
    method = replace(method, search=replace(method.search, thorough=thorough))
    with display(quiet=quiet) as progress:
        verdict, exposed = method(
            loaded.network, clean, generator=torch.Generator().manual_seed(seed), progress=progress
        )

    def evidence(outputs: dict[str, str]) -> dict[str, Any]:
        return collect_scan(
            verdict,
            exposed,
            loaded,
            clean,
            inputs=sampling.described(images),
            outputs=outputs,
            clean_accuracy=accuracy,
            settings=asdict(method),
            command=("secateur", *context.find_root().obj),
            device=runs_on,
        )

    if out is None:
        found = evidence({})
    else:
        with published(out, OUTPUTS) as staging:
            found = evidence(_write_trigger(staging, verdict))
            _write_reports(staging, found)
    if tell:
        show_scan(found, None if out is None else out / REPORT)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    raise typer.Exit(CODES[verdict.conclusion])


def _write_trigger(staging: Path, verdict: "Verdict") -> dict[str, str]:
    """Write the trigger as images carry it, if one was inverted; return the SHA-256 of each file."""
    from secateur.data import write_trigger
    from secateur.report import picture

    if verdict.pixels is None:
        return {}
    write_trigger(staging / TRIGGER, verdict.pixels.trigger)
    with atomic_path(staging / PICTURE) as temporary:
        picture(verdict.pixels.trigger).save(temporary, format="PNG")
    return {name: sha256(staging / name) for name in (TRIGGER, PICTURE)}


def _write_reports(staging: Path, evidence: dict[str, Any]) -> None:
    from secateur.report import sarif, write_report

    write_report(staging, evidence)
    write_text(staging / SARIF, json.dumps(sarif(evidence), indent=1, allow_nan=False) + "\n")
