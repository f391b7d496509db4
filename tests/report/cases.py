"""Repairs put together by hand from a tiny network, so that every number in a report is known."""

import dataclasses
import math
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import CleanData, InputConvention, LabelledImages, Trigger
from secateur.expose import (
    Exposed,
    Exposure,
    Findings,
    InvertedTrigger,
    LabelScores,
    LatentTrigger,
    Look,
    judge,
)
from secateur.models import LoadedModel
from secateur.models.checkpoint import Checkpoint
from secateur.repair.result import CurvePoint, Learning, Repair
from secateur.report import collect, collect_scan
from secateur.statistics import Proportion, paired_loss
from secateur.units import Recipe, ScoredUnit, all_units, discover, prune

CONVENTION = InputConvention((4, 4), 1)
LEARN, CHOOSE = 300, 200


def network(layers: int = 2, width: int = 8, classes: int = 10) -> nn.Module:
    """Return a chain of convolutions with batch normalisation, in evaluation mode."""
    blocks: list[nn.Module] = []
    for index in range(layers):
        blocks += [
            nn.Conv2d(width if index else 1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)).eval()


def correct(hits: int, total: int = CHOOSE) -> Tensor:
    return torch.arange(total) < hits


def curve_point(pruned: int, hits: int, before: int = 170, total: int = CHOOSE) -> CurvePoint:
    return CurvePoint(
        pruned, Proportion(hits, total), paired_loss(correct(before, total), correct(hits, total))
    )


def exposure(classes: int = 10, label: int = 3, share: float = 0.9, *, reached: bool = True) -> Exposure:
    """Return an exposure where `label` takes its share of the answers and class 0 or 1 the rest."""
    top = round(share * LEARN) if classes > 1 else LEARN
    answers = [0] * classes
    answers[label] = top
    if classes > 1:
        answers[1 if label == 0 else 0] += LEARN - top
    images = [LEARN // classes + (k < LEARN % classes) for k in range(classes)]
    return Exposure(
        {},
        reached,
        (0.9, 0.5, 0.17),
        (tuple(images), tuple(images), tuple(answers)),
        tuple(images),
        1.0,
        tuple(images),
    )


def scored(
    classes: int = 10, label: int = 3, score: float = 0.75, *, seconded: bool | None = True
) -> LabelScores:
    """Return scores where `label` gains and others lose alike; its row moved farthest, or the next one."""
    gained = [-score / (classes - 1)] * classes
    gained[label] = score
    farthest = label if seconded else (label + 1) % classes
    moved = tuple(9.5 if k == farthest else 0.25 for k in range(classes))
    return LabelScores(tuple(gained), None if seconded is None else moved)


def make_repair(
    *,
    outcome: Any = "repaired",
    pruned: int = 3,
    layers: int = 2,
    width: int = 8,
    classes: int = 10,
    revealed: Exposure | None = None,
    curve: tuple[CurvePoint, ...] | None = None,
    **changes: Any,
) -> Repair:
    """Return a repair that prunes the first `pruned` units of a spread-out order."""
    torch.manual_seed(0)
    original = network(layers, width, classes)
    discovery = discover(original, torch.zeros(1, 1, 4, 4))
    units = list(all_units(discovery.layers))
    scores = torch.ones(discovery.total)
    order = [(7 * k + 1) % discovery.total for k in range(discovery.total)]
    for rank, position in enumerate(order[: max(pruned, 6)]):
        scores[position] = 0.05 + 0.1 * min(rank, 8)
    chosen = [ScoredUnit(units[k], float(scores[k])) for k in order[:pruned]]
    if curve is None:
        curve = tuple(curve_point(k, max(20, 170 - k * k // 4)) for k in range(max(12, pruned + 2)))
    fields: dict[str, Any] = {
        "method": "rnp (default)",
        "outcome": outcome,
        "network": prune(original, discovery.layers, [scored.unit for scored in chosen]),
        "recipe": Recipe.record(
            original.state_dict(),
            discovery.layers,
            chosen,
            method="rnp",
            architecture="tiny",
            gamma_only=False,
        ),
        "discovery": discovery,
        "scores": scores,
        "curve": curve,
        "chosen": pruned if curve else 0,
        "budget": 0.02,
        "exposure": revealed,
        "seconds": {"unlearning": 12.345, "recovering": 8.5, "choosing": 0.25},
        "hyperparameters": {"recover_rate": 0.2, "milestones": (10, 20), "step_length": None},
        "notes": (),
        "labels": scored(classes, revealed.label) if revealed and classes > 1 else None,
    }
    return Repair(**(fields | changes))


def make_evidence(
    repair: Repair, *, class_names: tuple[str, ...] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return the evidence of a repair of a checkpoint that is never read."""
    classes = repair.network[-1].out_features  # type: ignore[index, union-attr]
    model = make_model(repair.network, classes, changes.pop("path", Path("somewhere/model.pth")))
    arguments: dict[str, Any] = {
        "inputs": {"source": "images/cifar10", "split": "train", "samples": 500, "seed": 0},
        "outputs": {"repaired.safetensors": "b" * 64, "recipe.json": "c" * 64},
        "clean_accuracy": Proportion(430, 500),
        "command": ["secateur", "repair", "model.pth", "--arch", "tiny", "--data", "a folder"],
    }
    return collect(repair, model, make_clean(class_names), **(arguments | changes))


def make_model(built: nn.Module, classes: int, path: Path) -> LoadedModel:
    return LoadedModel(built, CONVENTION, classes, "tiny", Checkpoint({}, "state_dict", path, "a" * 64))


def make_clean(class_names: tuple[str, ...] | None) -> CleanData:
    def images(count: int) -> LabelledImages:
        return LabelledImages(torch.zeros(count, 1, 4, 4), torch.zeros(count, dtype=torch.int64))

    return CleanData(images(LEARN), images(CHOOSE), CONVENTION, class_names)


def patches(*norms: float, converged: bool = True) -> tuple[InvertedTrigger, ...]:
    """Return a patch of one white corner for each label, with the norms given."""
    keep, add = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    keep[0, 3, 3], add[0, 3, 3] = 0.0, 1.0
    trigger = Trigger(keep, add)
    return tuple(InvertedTrigger(k, trigger, norm, 0.97, converged) for k, norm in enumerate(norms))


def outlasting(*multiples: float) -> tuple[InvertedTrigger, ...]:
    """Return a faint pattern for each label, with what it takes once its class is forgotten."""
    trigger = Trigger(torch.ones(1, 4, 4), torch.full((1, 4, 4), 0.1))
    return tuple(
        InvertedTrigger(k, trigger, times, 0.97, True, "outlasting") for k, times in enumerate(multiples)
    )


def shifts(*norms: float) -> tuple[LatentTrigger, ...]:
    return tuple(LatentTrigger(k, {}, norm, 0.97, True) for k, norm in enumerate(norms))


def make_scan(
    findings: Findings,
    *,
    revealed: Exposure | None = None,
    class_names: tuple[str, ...] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return the evidence of a scan of a checkpoint that is never read."""
    model = make_model(network(), 10, changes.pop("path", Path("somewhere/model.pth")))
    notes, labels = changes.pop("notes", ()), changes.pop("labels", scored() if revealed else None)
    exposed = Exposed(revealed, None, findings, {"unlearning": 12.3, "inverting": 45.6}, notes, labels)
    verdict = changes.pop("verdict", None) or judge(findings)
    arguments: dict[str, Any] = {
        "inputs": {"source": "images/cifar10", "split": "train", "samples": 500, "seed": 0},
        "outputs": {"trigger.safetensors": "b" * 64},
        "clean_accuracy": Proportion(430, 500),
        "settings": {"point": 1.0},
        "command": ["secateur", "scan", "model.pth", "--arch", "tiny", "--data", "a folder"],
    }
    return collect_scan(verdict, exposed, model, make_clean(class_names), **(arguments | changes))


def make_learned() -> dict[str, Any]:
    """Return the evidence of a repair by an agent that searched in two rounds."""
    rounds = (
        Learning(400, 80.0, ((1, 0.1), (40, 0.6), (300, 0.8))),
        Learning(100, 20.0, ((1, 0.7), (60, 0.9))),
    )
    repair = make_repair(method="onp")
    units = list(all_units(repair.discovery.layers))
    pruned = [scored.unit for scored in repair.recipe.units]
    joined = tuple((units[0], unit) if unit.layer != units[0].layer else (unit, units[-1]) for unit in pruned)
    looks = (
        Look(6, False, patches(4.5)[0], 20.0, True),
        Look(9, False, shifts(8.1)[0], 9.0, False),
        Look(9, True, patches(21.0)[0], math.inf, False),
    )
    return make_evidence(dataclasses.replace(repair, looks=looks, learning=rounds, joined=joined))


USUAL = (30.0, 31.0, 28.0, 29.0, 32.0, 33.0, 30.5, 29.5, 31.5, 30.2)
GROWTH = (1.4, 1.45, 1.5, 1.1, 1.42, 1.47, 1.52, 1.39, 1.6, 1.48)
SMALL = (30.0, 31.0, 28.0, 4.0, 32.0, 33.0, 30.5, 29.5, 31.5, 30.2)
LESS = (30.0, 31.0, 28.0, 20.0, 32.0, 33.0, 30.5, 29.5, 31.5, 30.2)


def make_supported() -> dict[str, Any]:
    """Return the evidence of a scan whose patch is evidence only because unlearning points to its label."""
    found = patches(*LESS)
    findings = Findings(found[3], found, {"patch": found}, labels=scored(score=0.4))
    return make_scan(findings, revealed=exposure(), class_names=CIFAR)


def make_drawn() -> dict[str, Any]:
    """Return the evidence of a scan that drew the shift it found."""
    found = shifts(*SMALL)
    findings = Findings(found[3], found, {"shift": found})
    (drawn,) = patches(0.7)
    drawn = dataclasses.replace(drawn, label=3, form="additive")
    verdict = dataclasses.replace(judge(findings), drawn=drawn)
    return make_scan(findings, verdict=verdict, revealed=exposure())


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Every situation that a report must cope with.
SITUATIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "repaired": lambda: make_evidence(make_repair(revealed=exposure()), class_names=CIFAR),
    "learned": lambda: make_learned(),
    "evaluated": lambda: make_evidence(
        make_repair(revealed=exposure()),
        evaluation={
            "trigger": "corner.safetensors",
            "target": 3,
            "images": "1,000 test images",
            "before": {"ACC": Proportion(850, 1000), "ASR": Proportion(900, 900)},
            "after": {"ACC": Proportion(840, 1000), "ASR": Proportion(9, 900)},
        },
    ),
    "nothing found": lambda: make_evidence(
        make_repair(
            outcome="nothing found", pruned=0, revealed=exposure(share=0.4), labels=scored(score=0.25)
        )
    ),
    "inconclusive": lambda: make_evidence(
        make_repair(
            outcome="inconclusive",
            pruned=0,
            curve=(),
            revealed=exposure(reached=False),
            labels=scored(seconded=None),
            notes=("Unlearning never reached its stop.",),
        )
    ),
    "no exposure": lambda: make_evidence(make_repair()),
    "one class": lambda: make_evidence(
        make_repair(classes=1, revealed=exposure(classes=1, label=0)), class_names=("only",)
    ),
    "nothing tried": lambda: make_evidence(
        make_repair(outcome="nothing found", pruned=0, curve=(curve_point(0, 170),), revealed=exposure())
    ),
    "1000 classes": lambda: make_evidence(
        make_repair(classes=1000, revealed=exposure(classes=1000, label=998)),
        class_names=tuple(f"class number {k}" for k in range(1000)),
    ),
    "60 layers": lambda: make_evidence(
        make_repair(layers=60, pruned=40, revealed=exposure()), class_names=CIFAR
    ),
    "polished": lambda: make_evidence(
        make_repair(revealed=exposure(), tuned=curve_point(3, 172), notes=("It was polished.",))
    ),
}

# The same for scans.
SCANS: dict[str, Callable[[], dict[str, Any]]] = {
    "evidence": lambda: make_scan(
        Findings(
            patches(*SMALL)[3],
            patches(*SMALL),
            {"patch": patches(*SMALL)},
            dict.fromkeys(("change", "shift", "outlasting"), "found before"),
        ),
        revealed=exposure(),
        class_names=CIFAR,
    ),
    "supported": make_supported,
    "outlasting": lambda: make_scan(
        Findings(
            outlasting(*GROWTH)[3],
            outlasting(*GROWTH),
            {"patch": patches(*USUAL), "shift": shifts(*USUAL), "outlasting": outlasting(*GROWTH)},
        ),
        revealed=exposure(),
    ),
    "shift": lambda: make_scan(
        Findings(
            shifts(*SMALL)[3],
            shifts(*SMALL),
            {
                "patch": patches(*USUAL),
                "change": (*patches(*USUAL), dataclasses.replace(patches(29.0)[0], label=None)),
                "shift": shifts(*SMALL),
            },
        ),
        revealed=exposure(),
    ),
    "drawn": make_drawn,
    "no evidence": lambda: make_scan(
        Findings(None, patches(*USUAL), {"patch": patches(*USUAL)}, {"change": "no normalisation"}),
        notes=("A note.",),
    ),
    "nothing searched": lambda: make_scan(Findings.none("too many classes"), command=()),
    "nothing converged": lambda: make_scan(
        Findings(None, (), {"patch": patches(*USUAL, converged=False)}),
        revealed=exposure(reached=False),
        labels=scored(score=0.25, seconded=False),
    ),
    "nothing lost": lambda: make_scan(
        Findings(None, patches(*USUAL), {"patch": patches(*USUAL)}),
        revealed=exposure(reached=False),
        labels=None,
    ),
}


@cache
def _evidence(name: str) -> dict[str, Any]:
    return (SITUATIONS | SCANS)[name]()


def situation(name: str) -> dict[str, Any]:
    """Return the evidence of a situation, to be changed freely."""
    return deepcopy(_evidence(name))
