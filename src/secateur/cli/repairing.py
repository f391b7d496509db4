"""The main job, step by step: open, check, repair, write, tell."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.display import display
from secateur.cli.opening import DataChoice, ModelChoice, prepare_device
from secateur.cli.options import Device
from secateur.cli.sampling import Sampling, measure_clean
from secateur.cli.summary import show_summary
from secateur.cli.writing import check_folder, published, save_weights
from secateur.errors import InputError
from secateur.files import sha256, write_text
from secateur.progress import Log

if TYPE_CHECKING:
    from secateur.data import CleanData
    from secateur.models import LoadedModel
    from secateur.repair import Repair, RepairMethod
    from secateur.statistics import Proportion

WEIGHTS, RECIPE, REPORT_DATA, REPORT = "repaired.safetensors", "recipe.json", "report.json", "report.html"
OUTPUTS = (WEIGHTS, RECIPE, REPORT_DATA, REPORT)


@dataclass(frozen=True)
class MethodChoice:
    """A repair method as typed on the command line; `budget` in percentage points."""

    name: str
    preset: str
    budget: float | None
    threshold: float | None
    polish: bool | None

    def create(self) -> "RepairMethod":
        """Make the method with what was given; the rest is the preset's.

        Raises
        ------
        MethodError
            The method or the preset is unknown.
        InputError
            The method takes no such setting.
        """
        from secateur.repair import Polishing, create, methods

        given: dict[str, object] = {}
        if self.budget is not None:
            given["budget"] = self.budget / 100
        if self.threshold is not None:
            given["threshold"] = self.threshold
        if self.polish is not None:
            given["polishing"] = Polishing() if self.polish else None
        entry = methods().get(self.name)
        for setting in given:
            if entry and entry.settings and setting not in entry.settings:
                option = "--polish" if setting == "polishing" else f"--{setting}"
                raise InputError(f"{option} does not apply to --method {self.name}; leave it out")
        return create(self.name, self.preset, **given)


@dataclass(frozen=True)
class Request:
    """One repair as typed on the command line."""

    model: ModelChoice
    data: DataChoice
    sampling: Sampling
    method: MethodChoice
    out: Path
    force: bool
    device: Device
    threads: int | None
    command: tuple[str, ...]


def carry_out(request: Request, *, tell: bool, quiet: bool, log: Log | None = None) -> dict[str, Any]:
    """Repair and write the outputs; return the report's content.

    Parameters
    ----------
    tell
        Whether to print the clean accuracy and the summary.
    quiet
        Whether to hide progress and warnings.
    log
        Gets the figures of every step.
    """
    check_folder(request.out, OUTPUTS, force=request.force)
    method = request.method.create()
    device = prepare_device(request.device, request.threads)
    model = request.model.load()
    clean = request.sampling.draw(request.data, model)
    accuracy = measure_clean(request.model, model, clean, tell=tell, quiet=quiet)

    import torch

    model.network.to(device)
    generator = torch.Generator().manual_seed(request.sampling.seed)
    with display(quiet=quiet, log=log) as progress:
        repair = method(model.network, clean, generator=generator, progress=progress)
    repair = _for_checkpoint(repair, model)

    with published(request.out, OUTPUTS) as staging:
        outputs = _write_weights(staging, repair, model)
        evidence = _write_report(staging, request, repair, model, clean, accuracy, outputs, device)
    if tell:
        show_summary(evidence, request.out / REPORT)
    return evidence


def _for_checkpoint(repair: "Repair", model: "LoadedModel") -> "Repair":
    """Rewrite the recipe so that it applies to the file's own tensors, in the type they are stored in."""
    from secateur.units import Recipe

    recipe = Recipe.record(
        model.checkpoint.state,
        repair.discovery.layers,
        repair.recipe.units,
        method=repair.recipe.method,
        architecture=model.architecture,
        gamma_only=repair.recipe.gamma_only,
    )
    return replace(repair, recipe=recipe)


def _write_weights(staging: Path, repair: "Repair", model: "LoadedModel") -> dict[str, str]:
    """Write weights and recipe unless nothing was decided; return the SHA-256 of each file."""
    if repair.outcome == "inconclusive":
        return {}
    save_weights(staging / WEIGHTS, repair.state(model.checkpoint.state))
    written = [WEIGHTS]
    # A recipe without units would turn weights that were fitted back into the original.
    if repair.tuned is None or repair.recipe.units:
        write_text(staging / RECIPE, repair.recipe.to_json())
        written.append(RECIPE)
    return {name: sha256(staging / name) for name in written}


def _write_report(
    staging: Path,
    request: Request,
    repair: "Repair",
    model: "LoadedModel",
    clean: "CleanData",
    accuracy: "Proportion",
    outputs: dict[str, str],
    device: str,
) -> dict[str, Any]:
    from secateur.report import collect, write_report

    evidence = collect(
        repair,
        model,
        clean,
        inputs=request.sampling.described(request.data),
        outputs=outputs,
        clean_accuracy=accuracy,
        command=request.command,
        device=device,
    )
    write_report(staging, evidence)
    return evidence
