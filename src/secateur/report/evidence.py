"""What a report says of a repair, as plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch

from secateur.data import CleanData
from secateur.expose import Look, judge
from secateur.models import LoadedModel
from secateur.repair.result import CurvePoint, Repair
from secateur.report import wording
from secateur.report.exposed import checks_section, exposure_section, trigger_section
from secateur.report.frame import Evidence, difference, frame, plain, proportion
from secateur.statistics import PairedLoss, Proportion
from secateur.units import all_units, state_sha256

SCORE_BINS = 20
ON_CHOOSE = (
    "on the clean images that decided how far to prune or which choice to take, not fitted to them; Wilson "
    "score interval"
)
PAIRED = (
    "fall of the accuracy on the same images, before minus after; adjusted Wald interval for paired "
    "proportions (Agresti and Min 2005)"
)


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
    evidence = frame(
        model,
        clean,
        inputs=inputs,
        outputs=outputs,
        clean_accuracy=clean_accuracy,
        command=command,
        device=device,
        method=(repair.method, repair.hyperparameters),
        seconds=repair.seconds,
        notes=repair.notes,
    )
    end = repair.tuned or chosen
    accuracy = {
        "before": {**proportion(repair.curve[0].accuracy), "how": ON_CHOOSE} if chosen else None,
        "after": {**proportion(end.accuracy), "how": ON_CHOOSE} if end else None,
    }
    verdict = None if repair.findings is None else judge(repair.findings)
    evidence |= {
        "outcome": repair.outcome,
        "statement": wording.outcome_statement(
            repair.outcome, pruned, repair.discovery.total, tuned=repair.tuned is not None
        ),
        "accuracy": {**evidence["accuracy"], **accuracy},
        "loss": _loss(end, repair.budget, changed=pruned > 0 or repair.tuned is not None),
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
        "looks": [_look(look) for look in repair.looks],
        "learning": _learning(repair),
        "trigger": trigger_section(repair.trigger, clean.class_names),
        "exposure": exposure_section(repair.exposure, repair.labels, repair.trigger, clean.class_names),
        "checks": [
            *checks_section(repair.exposure, repair.labels, verdict, clean.class_names),
            *wording.needs_trigger(evaluated=evaluation is not None),
            wording.NEVER_RUN,
        ],
        "evaluation": _evaluation(evaluation) if evaluation else None,
        "limits": wording.LIMITS,
        "weights": {
            "original_sha256": repair.recipe.original_sha256,
            "repaired_sha256": repair.recipe.repaired_sha256
            if repair.tuned is None
            else state_sha256(repair.state(model.checkpoint.state)),
            "fitted": repair.tuned is not None,
        },
    }
    return {key: plain(value) for key, value in evidence.items()}


def _loss(end: CurvePoint | None, budget: float, *, changed: bool) -> Evidence | None:
    if end is None:
        return None
    # If nothing changed it is the same network, and no chance is involved.
    measured = end.loss if changed else PairedLoss(0.0, 0.0, 0.0)
    loss: Evidence = plain(difference(measured)) | {
        "n": end.accuracy.total,
        "how": PAIRED,
        "budget": budget,
        "upper_end_exceeds_budget": measured.high > budget,
    }
    return loss | {"statement": wording.loss_statement(loss) if changed else wording.UNCHANGED}


def _look(look: Look) -> dict[str, object]:
    """Return what a look for triggers on a pruned network came to."""
    return {
        "pruned": look.pruned,
        "polished": look.polished,
        "kind": look.smallest.form,
        "norm": look.smallest.norm,
        "success": look.smallest.success,
        "typical": look.typical if math.isfinite(look.typical) else None,
        "cheap": look.cheap,
    }


def _learning(repair: Repair) -> dict[str, object] | None:
    """Return how an agent searched, and what its graph joins with pruned units: layer, place, twice."""
    if not repair.learning:
        return None
    places = {layer.name: place for place, layer in enumerate(repair.discovery.layers)}
    return {
        "rounds": [
            {"evaluations": one.evaluations, "seconds": one.seconds, "curve": [list(at) for at in one.curve]}
            for one in repair.learning
        ],
        "joined": [
            [place for unit in pair for place in (places[unit.layer], unit.index)] for pair in repair.joined
        ],
    }


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
