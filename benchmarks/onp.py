"""What ONP costs: seconds for a graph and a search, and for an evaluation and a look ahead over full passes.

    python benchmarks/onp.py [--models secateur:wrn16_1 secateur:resnet18 torchvision:resnet50] [--images 300]

Random weights and images of 32x32 pixels. An evaluation measures a choice that differs from the best so far
in one unit, on the clean and stamped images of a search; the look ahead tells what all single changes would
do. Both are timed against one full pass of as many images, alternating, so that a slow moment slows both.
Results go to ``benchmarks/results/onp.json``; seconds are those of the machine, ratios carry over.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from checkpoints import HERE
from rnp import random_images, timed

from secateur.data import CleanData, InputConvention, Trigger, example_input
from secateur.expose import InvertedTrigger, flushed_denormals
from secateur.files import write_text
from secateur.models import build
from secateur.progress import Silent
from secateur.repair.activity import activity
from secateur.repair.choosing import network_inputs
from secateur.repair.onp import Agent, Graphing
from secateur.repair.onp.environment import EXPECTING, Pruning
from secateur.repair.onp.features import features
from secateur.repair.onp.graph import build_graph
from secateur.repair.onp.learning import learn
from secateur.repair.trials import TRIED, Trials
from secateur.units import connect, discover

RESULTS = HERE / "results" / "onp.json"
SIZE, CLASSES, PATCH = 32, 10, 3
SEARCHED = 100
"""Evaluations of a search, learning and looks ahead included, from which that of a whole one is told."""


def patch() -> InvertedTrigger:
    """Return a white patch in a corner."""
    keep, add = torch.ones(3, SIZE, SIZE), torch.zeros(3, SIZE, SIZE)
    keep[:, :PATCH, :PATCH], add[:, :PATCH, :PATCH] = 0.0, 1.0
    return InvertedTrigger(0, Trigger(keep, add), float(PATCH**2), 1.0, True)


def costs(model: str, count: int, rounds: int) -> dict[str, Any]:
    """Measure one architecture."""
    convention = InputConvention((SIZE, SIZE), 3)
    network = build(model, num_classes=CLASSES).eval().requires_grad_(False)
    example = example_input(convention)
    discovery = discover(network, example)
    total, layers = discovery.total, discovery.layers
    images = random_images(count, convention, CLASSES)
    stamped = patch().trigger.stamp(images.images)
    start = time.perf_counter()
    connections = connect(network, discovery, example, strongest=Graphing().strongest)
    inputs, marked = (network_inputs(part[:TRIED], convention, "cpu") for part in (images.images, stamped))
    passed = activity(network, layers, inputs, marked)
    known = features(network, layers, example, connections, passed, unlearned=None, masks=None)
    graph = build_graph(Graphing(), layers, connections, known)
    building = time.perf_counter() - start

    clean = CleanData(images, images, convention)
    ones = torch.ones(total)
    trials = Trials(network, layers, clean, [patch()], group=1, shift=True, temperature=2.0)
    agent = Agent()
    environment = Pruning(
        trials,
        [[unit] for unit in range(total)],
        total,
        agent,
        most=total,
        generator=torch.Generator().manual_seed(0),
    )
    units = iter(torch.randperm(total, generator=torch.Generator().manual_seed(0)).tolist())

    def full() -> None:
        with torch.inference_mode():
            for batch in network_inputs(images.images.repeat(2, 1, 1, 1)[: trials.images], convention, "cpu"):
                network(batch)

    def evaluate() -> None:
        environment.visit(environment.best.pruned ^ {next(units)})

    def look() -> None:
        trials.expect(ones, torch.Generator().manual_seed(0))

    evaluate()
    figures = {name: against(full, work, rounds) for name, work in (("evaluate", evaluate), ("look", look))}
    start = time.perf_counter()
    learned = learn(
        replace(agent, evaluations=SEARCHED, patience=SEARCHED),
        trials,
        graph,
        (),
        groups=[[unit] for unit in range(total)],
        suspicion=torch.rand(total, generator=torch.Generator().manual_seed(0)),
        most=total // 5,
        generator=torch.Generator().manual_seed(0),
        progress=Silent(),
    )
    searching = time.perf_counter() - start
    return {
        "units": total,
        "edges": graph.edge_index.shape[1] // 2,
        "graph_seconds": round(building, 2),
        "images": trials.images,
        **figures,
        "look_in_evaluations": figures["look"]["seconds"] / figures["evaluate"]["seconds"],
        "searched": learned.evaluations,
        "search_seconds": round(searching, 1),
        "seconds_for_all": agent.evaluations * searching / learned.evaluations,
    }


def against(bare: Callable[[], None], work: Callable[[], None], rounds: int) -> dict[str, float]:
    """Return the median seconds of `work`, and its ratio over `bare` with the range."""
    runs = [(timed(work), timed(bare)) for _ in range(rounds)]
    shares = [mine / floor for mine, floor in runs]
    return {
        "seconds": statistics.median(mine for mine, _ in runs),
        "ratio": statistics.median(shares),
        "lowest": min(shares),
        "highest": max(shares),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ["secateur:wrn16_1", "secateur:resnet18", "torchvision:resnet50"]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    stored = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for model in options.models:
        with flushed_denormals():
            found = costs(model, options.images, options.rounds)
        stored[model] = found | {
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "counted": EXPECTING,
        }
        write_text(options.out, json.dumps(stored, indent=1) + "\n")
        print(model, json.dumps(stored[model]), flush=True)


if __name__ == "__main__":
    main()
