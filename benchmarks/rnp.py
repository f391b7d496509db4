"""Time and memory of RNP's stages over the passes that they cannot do without.

    python benchmarks/rnp.py [--model secateur:resnet18] [--images 100] [--passes 2]

In one process, alternating so that a slow moment slows both, every stage is timed against a bare loop of the
same forward and backward passes on the same batches: unlearning against training steps and one evaluation per
pass, recovering against steps whose only gradient is that of the norm weights, choosing against one full
forward pass per tried mask. Ratios go to ``benchmarks/results/rnp.json``.
"""

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from secateur.data import CleanData, InputConvention, LabelledImages, example_input
from secateur.expose import Unlearning, batch_statistics, flushed_denormals
from secateur.files import write_text
from secateur.models import build
from secateur.progress import Silent
from secateur.repair import Recovering
from secateur.repair.walking import Limits, Walk
from secateur.units import discover

RESULTS = Path(__file__).resolve().parent / "results" / "rnp.json"
BATCH = 100


def random_images(count: int, convention: InputConvention, classes: int) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    shape = (count, convention.channels, *convention.size)
    return LabelledImages(
        torch.rand(shape, generator=generator), torch.randint(classes, (count,), generator=generator)
    )


def forward_all(network: nn.Module, images: LabelledImages, convention: InputConvention) -> None:
    with torch.inference_mode():
        for batch, _ in images.batches(256):
            network(convention.normalise(batch))


def bare_steps(
    network: nn.Module, images: LabelledImages, convention: InputConvention, passes: int, *, weights: bool
) -> None:
    """The forward and backward passes, and nothing else."""
    chosen = list(network.parameters())
    if not weights:
        network.requires_grad_(False)
        chosen = [m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for parameter in chosen:
            parameter.requires_grad_(True)
    with batch_statistics(network, dropout=False):
        for _ in range(passes):
            for batch, labels in images.batches(BATCH):
                loss = F.cross_entropy(network(convention.normalise(batch)), labels)
                torch.autograd.grad(loss, chosen)
            if weights:
                with torch.inference_mode():
                    forward_all(network, images, convention)


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratios(options: argparse.Namespace) -> dict:
    convention = InputConvention((32, 32), 3)
    network = build(options.model, num_classes=10).to(memory_format=torch.channels_last)
    images = random_images(options.images, convention, 10)
    layers = discover(network, example_input(convention)).layers
    unlearning = Unlearning(passes=options.passes, accuracy=0.0, batch_size=BATCH, dropout=False, stride=1.0)
    recovering = Recovering(passes=options.passes, batch_size=BATCH)
    suspects = torch.randperm(sum(x.count for x in layers), generator=torch.Generator().manual_seed(0))[:16]

    def copied() -> nn.Module:
        return copy.deepcopy(network).requires_grad_(True)

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def walk() -> None:
        clean = CleanData(images, images.subset(torch.arange(BATCH)), convention)
        walk = Walk(network, layers, clean, shift=True)
        walk.along(suspects.tolist(), None, Limits(), Silent())

    def forwards() -> None:
        for _ in range(len(suspects) + 1):
            forward_all(network, images, convention)
            forward_all(network, images.subset(torch.arange(BATCH)), convention)

    pairs = {
        "unlearning": (
            lambda: unlearning(copied(), images, convention, generator=generator()),
            lambda: bare_steps(copied(), images, convention, options.passes, weights=True),
        ),
        "recovering": (
            lambda: recovering(copied(), layers, images, convention, generator=generator()),
            lambda: bare_steps(copied(), images, convention, options.passes, weights=False),
        ),
        "choosing": (walk, forwards),
    }
    figures = {}
    for stage, (ours, bare) in pairs.items():
        bare()
        runs = [(timed(ours), timed(bare)) for _ in range(options.rounds)]
        figures[stage] = {
            "ratio": statistics.median(a / b for a, b in runs),
            "lowest": min(a / b for a, b in runs),
            "highest": max(a / b for a, b in runs),
            "seconds": statistics.median(a for a, _ in runs),
            "bare_seconds": statistics.median(b for _, b in runs),
        }
    return figures


def peak(options: argparse.Namespace, what: str) -> int:
    """Return the peak resident bytes of a child process that does `what`, beyond one that only loads."""
    command = [
        sys.executable,
        __file__,
        "--model",
        options.model,
        "--images",
        str(options.images),
        "--child",
        what,
    ]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def high_water() -> int:
    """Return the largest resident size of this process so far, in bytes (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def child(options: argparse.Namespace) -> None:
    convention = InputConvention((32, 32), 3)
    network = build(options.model, num_classes=10).to(memory_format=torch.channels_last)
    images = random_images(options.images, convention, 10)
    layers = discover(network, example_input(convention)).layers
    start = high_water()
    generator = torch.Generator().manual_seed(0)
    if options.child == "step":
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        for _ in range(2):
            batch, labels = next(images.batches(BATCH))
            loss = F.cross_entropy(network.train()(convention.normalise(batch)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    elif options.child == "unlearning":
        Unlearning(passes=1, accuracy=0.0, batch_size=BATCH)(network, images, convention, generator=generator)
    elif options.child == "recovering":
        Recovering(passes=1, batch_size=BATCH)(network, layers, images, convention, generator=generator)
    else:
        clean = CleanData(images, images.subset(torch.arange(BATCH)), convention)
        walk = Walk(network, layers, clean, shift=True)
        walk.along([0, 1, 2], None, Limits(), Silent())
    print(high_water() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="secateur:resnet18")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with flushed_denormals():
        if options.child:
            child(options)
            return
        stages = ratios(options)
    step = peak(options, "step")
    for stage, figures in stages.items():
        figures["memory_ratio"] = peak(options, stage) / step
        print(
            f"{stage:12} time {figures['ratio']:.2f} of bare passes, "
            f"memory {figures['memory_ratio']:.2f} of a step"
        )
    stored = json.loads(options.out.read_text()) if options.out.is_file() else {}
    stored[options.model] = {
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "images": options.images,
        "passes": options.passes,
        "step_bytes": step,
        "stages": stages,
    }
    write_text(options.out, json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
