"""Measure RNP on one specimen per attack: the tables of docs/specimens.md.

    secateur specimen --list benchmarks/specimens/small.toml --out .specimens
    python benchmarks/specimens.py --specimens .specimens [--only NAME ...] [--presets paper default]

Every repair starts from 500 clean training images and is measured afterwards on all test images; the
specimen's trigger is read only then. Each specimen's results go to ``benchmarks/results/specimens/NAME.json``
and its card to ``benchmarks/specimens/cards/NAME.json``; what is there already, for the same weights, is not measured again
unless ``--fresh`` is given. Several processes may share the work by different ``--only``.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from checkpoints import HERE, row

from secateur.attacks import Goal, read_any_trigger
from secateur.data import LabelledImages, Stamping, open_images, sample_clean
from secateur.evaluation import evaluate
from secateur.models import LoadedModel, load_model
from secateur.repair import Repair, create
from secateur.specimens import CARD, TRIGGER, WEIGHTS

RESULTS = HERE / "results" / "specimens"
CARDS = HERE / "specimens" / "cards"
PRESETS = ("paper", "default")
SAMPLES = 500
SHOWN_UNITS = 20


class Specimen:
    """A specimen as a repair sees it, and apart from that its trigger."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.folder = folder
        self.card: dict[str, Any] = json.loads((folder / CARD).read_text())

    def load(self) -> LoadedModel:
        convention = self.card["convention"]
        return load_model(
            self.folder / WEIGHTS,
            self.card["recipe"]["model"],
            num_classes=self.card["data"]["classes"],
            size=tuple(convention["size"]),
            channels=convention["channels"],
            mean=convention["mean"],
            std=convention["std"],
        )

    @property
    def wanted(self) -> list[int] | None:
        goal = self.card["recipe"]["goal"]
        if goal is None:
            return None
        return Goal(**goal).wanted(self.card["data"]["classes"]).tolist()

    @property
    def trigger(self) -> Stamping | None:
        return None if self.wanted is None else read_any_trigger(self.folder / TRIGGER)


def repair(specimen: Specimen, preset: str, seed: int, data: str) -> tuple[Repair, float]:
    model = specimen.load()
    dataset = open_images(data, split="train", size=model.convention.size, channels=model.convention.channels)
    clean = sample_clean(dataset, model.convention, samples=SAMPLES, seed=seed, num_classes=model.num_classes)
    start = time.perf_counter()
    result = create("rnp", preset)(model.network, clean, generator=torch.Generator().manual_seed(seed))
    return result, time.perf_counter() - start


def measure(network: torch.nn.Module, specimen: Specimen, test: LabelledImages) -> dict[str, Any]:
    convention = specimen.load().convention
    return row(evaluate(network, test, convention, trigger=specimen.trigger, target=specimen.wanted))
