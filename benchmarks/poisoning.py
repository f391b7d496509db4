"""How long attacks take to poison a training set, and how many times what copying it through floats takes.

    python benchmarks/poisoning.py [--data DIR] [--only NAME ...]

Every image is stamped (rate 1) with a trigger that is made before; no rate takes longer. Attacks that
need a clean network optimise each image instead; their cost is in the cards of the specimens. Results go to
``benchmarks/results/poisoning.json``.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from secateur.attacks import attacks, create
from secateur.attacks.attack import CHUNK, as_float, like
from secateur.data import open_images
from secateur.files import write_text
from secateur.progress import Silent
from secateur.specimens.images import read_images

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "poisoning.json"
CLASSES, STUDIED, REPEATS = 10, 2000, 5
LONG = 5.0
"""Seconds after which one run says enough."""


def side_by_side(floor: Callable[[], object], work: Callable[[], object]) -> tuple[float, float]:
    """Return the least times of both, run in turn: the machine's speed and its memory change meanwhile."""
    floors, times = [timed(floor)], [timed(work)]
    while times[0] < LONG and len(times) <= REPEATS:
        floors.append(timed(floor))
        times.append(timed(work))
    return min(floors), min(times)


def timed(work: Callable[[], object]) -> float:
    """Return how long one run takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copied(images: Tensor) -> Tensor:
    """Do what poisoning cannot avoid: bytes to floats and back, chunk by chunk."""
    changed = images.clone()
    for chosen in torch.split(torch.arange(len(images)), CHUNK):
        changed[chosen] = like(images, as_float(images[chosen]))
    return changed


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=str(HERE.parent.parent / "shared" / "data" / "cifar10"))
    parser.add_argument("--only", nargs="*", default=None)
    options = parser.parse_args()
    read = read_images(open_images(options.data, split="train", size=(32, 32), channels=3), Silent())
    # As many as CIFAR-10 has, however many are at hand.
    images = read.images.repeat(-(-50_000 // len(read.labels)), 1, 1, 1)[:50_000]
    labels = read.labels.repeat(-(-50_000 // len(read.labels)))[:50_000]
    found, floors = {}, []
    for name in options.only or attacks():
        attack = create(name)
        if attack.needs_surrogate:
            continue
        goal = replace(attack.goal, mapping="all-to-all", clean_label=False, rate=1.0, cover_rate=0.0)
        attack = replace(attack, goal=goal)
        trigger = attack.trigger(images[:STUDIED], labels[:STUDIED], torch.Generator().manual_seed(0))

        def poison(attack=attack, trigger=trigger) -> object:  # type: ignore[no-untyped-def]
            return attack.poison(
                images, labels, torch.Generator().manual_seed(0), trigger=trigger, classes=CLASSES
            )

        floor, took = side_by_side(lambda: copied(images), poison)
        floors.append(floor)
        found[name] = {"seconds": round(took, 2), "ratio": round(took / floor, 1)}
        print(f"{name:12} {took:6.2f} s  {took / floor:5.1f} times", flush=True)
    report = {
        "images": 50_000,
        "floor_seconds": [round(min(floors), 2), round(max(floors), 2)],
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": str(torch.__version__),
        "attacks": found,
    }
    write_text(RESULTS, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
