"""Repair the embedded specimen and measure what that did to its backdoor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from secateur.data import CleanData, read_trigger, sample_clean
from secateur.demo.embedded import IMAGES, Specimen, open_specimen
from secateur.evaluation import Evaluation, evaluate
from secateur.files import sha256, write_text
from secateur.models import LoadedModel, check_convention, write_weights
from secateur.progress import Progress, Silent
from secateur.repair import Repair, create
from secateur.report import Evidence, collect, write_report
from secateur.statistics import Proportion

METHOD = "rnp"
SAMPLES = 500
REPAIRED, RECIPE = "repaired.safetensors", "recipe.json"
OUTPUTS = (REPAIRED, RECIPE, "report.json", "report.html")


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration came to.

    Attributes
    ----------
    before, after
        The specimen and the repaired network on the embedded test images, with the trigger and without.
    repair
        As the method returned it.
    evidence
        The content of the report.
    paths
        File name to path, of everything that was written.
    """

    before: Evaluation
    after: Evaluation
    repair: Repair
    evidence: Evidence
    paths: Mapping[str, Path]


def run(
    out: Path, *, seed: int = 0, progress: Progress | None = None, command: Sequence[str] = ()
) -> DemoResult:
    """Repair the embedded specimen, then measure it before and after, and write files and report.

    The trigger is read when the repair is over.

    Parameters
    ----------
    out
        Folder for `OUTPUTS`; created if need be.
    seed
        Splits the clean images and orders the batches.
    progress
        Told about every stage.
    command
        The command line that repeats the work, for the report.
    """
    progress = progress or Silent()
    specimen = open_specimen()
    model = specimen.model
    clean = sample_clean(
        specimen.train, model.convention, samples=SAMPLES, seed=seed, num_classes=model.num_classes
    )
    accuracy = _accuracy(model, clean)
    generator = torch.Generator().manual_seed(seed)
    repair = create(METHOD)(model.network, clean, generator=generator, progress=progress)
    repair = replace(repair, recipe=replace(repair.recipe, architecture=model.architecture))
    before = _evaluate(specimen, model.network, progress)
    after = _evaluate(specimen, repair.network, progress)

    write_weights(out / REPAIRED, repair.state(model.checkpoint.state), {"format": "pt"})
    write_text(out / RECIPE, repair.recipe.to_json())
    evidence = collect(
        repair,
        model,
        clean,
        inputs={"source": IMAGES["train"], "split": "train", "samples": SAMPLES, "seed": seed},
        outputs={name: sha256(out / name) for name in (REPAIRED, RECIPE)},
        clean_accuracy=accuracy,
        evaluation={
            "trigger": specimen.card["attack"]["trigger"],
            "target": specimen.target,
            "images": f"{len(specimen.test):,} test images that come with the specimen",
            "before": _measures(before),
            "after": _measures(after),
        },
        command=command,
    )
    write_report(out, evidence)
    return DemoResult(before, after, repair, evidence, {name: out / name for name in OUTPUTS})


def _accuracy(model: LoadedModel, clean: CleanData) -> Proportion:
    images = clean.together()
    return Proportion(round(check_convention(model, images) * len(images)), len(images))


def _evaluate(specimen: Specimen, network: nn.Module, progress: Progress) -> Evaluation:
    return evaluate(
        network,
        specimen.test,
        specimen.model.convention,
        trigger=read_trigger(specimen.trigger_path),
        target=specimen.target,
        progress=progress,
    )


def _measures(evaluation: Evaluation) -> dict[str, Proportion]:
    found = {"ACC": evaluation.acc, "ASR": evaluation.asr, "RA": evaluation.ra}
    return {name: share for name, share in found.items() if share is not None}
