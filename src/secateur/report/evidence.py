"""Everything that a report says, as plain values."""

import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

import torch

from secateur._version import __version__
from secateur.data import CleanData
from secateur.expose import Exposure, Found, LatentTrigger
from secateur.models import LoadedModel
from secateur.repair.result import CurvePoint, Repair
from secateur.report import wording
from secateur.statistics import LEVEL, PairedLoss, Proportion
from secateur.units import all_units

FORMAT = "secateur-report"
FORMAT_VERSION = 1
SCORE_BINS = 20
ON_CHOOSE = "on the clean images that only chose how far to prune; Wilson score interval"
ON_GIVEN = "on the clean images, as the network came; Wilson score interval"
ON_LEARN = "on the clean images that the method learned from; Wilson score interval"
PAIRED = (
    "fall of the accuracy on the same images, before minus after; adjusted Wald interval for paired "
    "proportions (Agresti and Min 2005)"
)

Evidence = dict[str, Any]
"""The content of ``report.json``, as ``report.schema.json`` describes it: JSON types only, no NaN."""


class Evaluation(TypedDict):
    """What was measured with the trigger, apart from the repair.

    `before` and `after` have the same keys: the names of the measures (ACC, ASR, RA).
    """

    trigger: str
    target: int
    images: str
    before: Mapping[str, Proportion]
    after: Mapping[str, Proportion]


def collect(
    repair: Repair,
    model: LoadedModel,
    clean: CleanData,
    *,
    inputs: Mapping[str, object],
    outputs: Mapping[str, str],
    clean_accuracy: Proportion,
    evaluation: Evaluation | None = None,
    command: Sequence[str] = (),
    device: str = "cpu",
) -> Evidence:
    """Assemble the evidence of a repair.

    Parameters
    ----------
    repair, model, clean
        What was done, to which network, with which images.
    inputs
        Where the images came from: source, split, samples, seed; any plain values, shown in this order.
    outputs
        Name of each file written to its SHA-256.
    clean_accuracy
        Of the network as it came, on the clean images.
    evaluation
        What was measured with the trigger, if anything was.
    command
        The command line that repeats the work, as separate arguments.
    device
        Where the network ran.

    Raises
    ------
    ValueError
        The parts of `repair` contradict each other: a report must not be made of them.
    """
    if repair.curve and repair.curve[repair.chosen].pruned != len(repair.recipe.units):
        raise ValueError(
            f"the chosen point prunes {repair.curve[repair.chosen].pruned} units "
            f"and the recipe {len(repair.recipe.units)}"
        )
    if repair.scores.shape != (repair.discovery.total,):
        raise ValueError(f"{tuple(repair.scores.shape)} scores for {repair.discovery.total} units")
    chosen = repair.curve[repair.chosen] if repair.curve else None
    pruned = len(repair.recipe.units)
    exposure = repair.exposure if repair.exposure and repair.exposure.finite else None
    evidence = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "outcome": repair.outcome,
        "statement": wording.outcome_statement(repair.outcome, pruned, repair.discovery.total),
        "software": {
            "secateur": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": device,
            "threads": torch.get_num_threads(),
        },
        "command": shlex.join(command) if command else None,
        "inputs": {
            "checkpoint": {
                "file": model.checkpoint.path.name,
                "sha256": model.checkpoint.sha256,
                "state_key": model.checkpoint.state_key,
            },
            "architecture": model.architecture,
            "classes": model.num_classes,
            "class_names": clean.class_names,
            "convention": model.convention.describe(),
            "data": inputs,
            "images": {"learn": len(clean.learn), "choose": len(clean.choose)},
        },
        "method": {"name": repair.method, "hyperparameters": repair.hyperparameters},
        "accuracy": {
            "given": {**proportion(clean_accuracy), "how": ON_GIVEN},
            "before": {**proportion(repair.curve[0].accuracy), "how": ON_CHOOSE} if chosen else None,
            "after": {**proportion(chosen.accuracy), "how": ON_CHOOSE} if chosen else None,
        },
        "loss": _loss(chosen, repair.budget),
        "curve": {
            "how": ON_CHOOSE,
            "chosen": repair.chosen if chosen else None,
            "budget": repair.budget,
            "points": [
                {
                    "pruned": point.pruned,
                    "accuracy": proportion(point.accuracy),
                    "loss": difference(point.loss),
                }
                for point in repair.curve
            ],
        },
        "units": _units(repair),
        "trigger": _trigger(repair.trigger, clean.class_names) if repair.trigger else None,
        "exposure": _exposure(exposure, repair.trigger, clean.class_names) if exposure else None,
        "evaluation": _evaluation(evaluation) if evaluation else None,
        "seconds": repair.seconds,
        "notes": repair.notes,
        "not_run": wording.not_run(
            unlearned=repair.exposure is not None,
            diverged=repair.exposure is not None and exposure is None,
            inverted="inverting" in repair.seconds,
            evaluated=evaluation is not None,
        ),
        "limits": wording.LIMITS,
        "references": wording.REFERENCES,
        "weights": {
            "original_sha256": repair.recipe.original_sha256,
            "repaired_sha256": repair.recipe.repaired_sha256,
        },
        "outputs": outputs,
    }
    return {key: plain(value) for key, value in evidence.items()}


def proportion(measured: Proportion) -> dict[str, float | int]:
    """Return a proportion with its interval."""
    low, high = measured.interval(LEVEL)
    return {
        "value": measured.value,
        "low": low,
        "high": high,
        "level": LEVEL,
        "hits": measured.hits,
        "n": measured.total,
    }


def difference(loss: PairedLoss) -> dict[str, float]:
    """Return a loss with its interval."""
    return {"value": loss.value, "low": loss.low, "high": loss.high, "level": LEVEL}


def plain(value: object) -> Any:
    """Return `value` made of JSON types only.

    What is not finite becomes None, tuples become lists, text that is not Unicode is escaped, and
    anything unknown becomes its text.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # File names that are no text reach Python as lone surrogates, which no encoding can write.
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _loss(chosen: CurvePoint | None, budget: float) -> Evidence | None:
    if chosen is None:
        return None
    # With nothing pruned it is the same network, and no chance is involved.
    measured = chosen.loss if chosen.pruned else PairedLoss(0.0, 0.0, 0.0)
    loss: Evidence = plain(difference(measured)) | {
        "n": chosen.accuracy.total,
        "how": PAIRED,
        "budget": budget,
        "upper_end_exceeds_budget": measured.high > budget,
    }
    return loss | {"statement": wording.loss_statement(loss) if chosen.pruned else wording.UNCHANGED}


def _units(repair: Repair) -> dict[str, object]:
    chosen = {scored.unit for scored in repair.recipe.units}
    is_pruned = torch.tensor(
        [unit in chosen for unit in all_units(repair.discovery.layers)], dtype=torch.bool
    )
    scores = repair.scores.detach().cpu().double()
    layers, start = [], 0
    for layer in repair.discovery.layers:
        mine = slice(start, start + layer.count)
        start += layer.count
        indices = is_pruned[mine].nonzero().flatten().tolist()
        layers.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "total": layer.count,
                "pruned": len(indices),
                "indices": indices,
                "scores": histogram(scores[mine]),
                "pruned_scores": histogram(scores[mine][is_pruned[mine]]),
            }
        )
    return {
        "total": repair.discovery.total,
        "pruned": len(repair.recipe.units),
        "gamma_only": repair.recipe.gamma_only,
        "score_edges": [edge / SCORE_BINS for edge in range(SCORE_BINS + 1)],
        "layers": layers,
        "refused": repair.discovery.refused,
    }


def histogram(scores: torch.Tensor) -> list[int]:
    """Count scores in equal bins of ``[0, 1]``, the last one closed; what is not finite is in none."""
    finite = scores[scores.isfinite()].clamp(0, 1)
    bins = (finite * SCORE_BINS).long().clamp(max=SCORE_BINS - 1)
    return [int(count) for count in torch.bincount(bins, minlength=SCORE_BINS)]


def _trigger(trigger: Found, class_names: Sequence[str] | None) -> dict[str, object]:
    found: Evidence = {
        "kind": "shift" if isinstance(trigger, LatentTrigger) else "patch",
        "label": trigger.label,
        "name": None if trigger.label is None else _name(trigger.label, class_names),
        "norm": trigger.norm,
        "success": trigger.success,
    }
    return found | {"statement": wording.trigger_statement(found)}


def _exposure(
    exposure: Exposure, trigger: Found | None, class_names: Sequence[str] | None
) -> dict[str, object]:
    images = sum(exposure.answers)
    others = [count for label, count in enumerate(exposure.answers) if label != exposure.label]
    found: Evidence = {
        "reached": exposure.reached,
        "label": exposure.label,
        "name": _name(exposure.label, class_names),
        "share": {**proportion(Proportion(exposure.answers[exposure.label], images)), "how": ON_LEARN},
        "runner_up": {**proportion(Proportion(max(others), images)), "how": ON_LEARN} if others else None,
        "answers": [
            {"label": label, "name": _name(label, class_names), "answers": answers, "images": occurs}
            for label, (answers, occurs) in enumerate(zip(exposure.answers, exposure.labels, strict=True))
        ],
        "path": {
            "how": ON_LEARN,
            "accuracies": [
                proportion(Proportion(round(accuracy * images), images)) for accuracy in exposure.accuracies
            ],
        },
    }
    confirmed = None if trigger is None else trigger.label == exposure.label
    return found | {"statement": wording.exposure_statement(found, confirmed=confirmed)}


def _name(label: int, class_names: Sequence[str] | None) -> str | None:
    return class_names[label] if class_names and label < len(class_names) else None


def _evaluation(evaluation: Evaluation) -> dict[str, object]:
    return {
        "trigger": evaluation["trigger"],
        "target": evaluation["target"],
        "images": evaluation["images"],
        "measures": [
            {
                "name": name,
                "before": proportion(before),
                "after": proportion(evaluation["after"][name]),
            }
            for name, before in evaluation["before"].items()
        ],
    }
