"""Make the specimen that `secateur demo` repairs: a small network with a BadNets backdoor, on Fashion-MNIST.

    python benchmarks/specimens/fashion_demo.py [--data DIR] [--out DIR] [--seed N]

writes the weights, the trigger, 500 clean training images that the network has not seen, 1,500 test images
and a card with the recipe and what was measured. It takes some minutes on one core. The same versions on the
same kind of machine give the same bytes; other ones give a network like it.
"""

import argparse
import gzip
import io
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages, Trigger, open_images, write_trigger
from secateur.demo import CARD, FILES, IMAGES, TRIGGER, WEIGHTS
from secateur.demo.network import specimen
from secateur.evaluation import Evaluation, evaluate
from secateur.files import sha256, write_text
from secateur.models import write_weights
from secateur.statistics import Proportion

DATA = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
EDGE = 28
CONVENTION = InputConvention(size=(EDGE, EDGE), channels=1)
ARCHITECTURE = "secateur.demo.network:specimen"
TARGET = CLASSES.index("Bag")
POISONING_RATE = 0.1
CLEAN_PER_CLASS, TEST_PER_CLASS = 50, 150
PATCH, MARGIN = 3, 1


@dataclass(frozen=True)
class Training:
    """How the specimen is trained: stochastic gradient descent with a one-cycle rate."""

    epochs: int = 10
    batch_size: int = 128
    peak_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 2
    flip: bool = True


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    training = Training()

    train, test = read(options.data, "train"), read(options.data, "t10k")
    held_out = draw(train[1], CLEAN_PER_CLASS, generator)
    shown = draw(test[1], TEST_PER_CLASS, generator)
    seen = torch.ones(len(train[1]), dtype=torch.bool)
    seen[held_out] = False
    trigger = checkerboard()
    pixels, labels, poisoned = poison(train[0][seen], train[1][seen], trigger, generator)

    start = time.perf_counter()
    network = train_network(specimen(len(CLASSES)), pixels, labels, training, generator)
    say(f"trained in {time.perf_counter() - start:.0f} s")

    options.out.mkdir(parents=True, exist_ok=True)
    write_weights(options.out / WEIGHTS, network.state_dict(), {"format": "pt"})
    write_trigger(options.out / TRIGGER, trigger)
    write_images(options.out / IMAGES["train"], train, held_out, "train")
    write_images(options.out / IMAGES["test"], test, shown, "test")

    everything = LabelledImages(as_images(test[0]), test[1])
    shipped = open_images(str(options.out), split="test", size=CONVENTION.size, channels=1)
    measured = {
        "all test images": evaluate(network, everything, CONVENTION, trigger=trigger, target=TARGET),
        "shipped test images": evaluate(network, shipped, CONVENTION, trigger=trigger, target=TARGET),
    }
    card = {
        "name": "fashion-badnets-corner",
        "architecture": ARCHITECTURE,
        "convention": CONVENTION.describe(),
        "data": {
            "name": "Fashion-MNIST",
            "license": "MIT, Copyright (c) 2017 Zalando SE; see LICENSE.txt",
            "classes": CLASSES,
            "train": f"{len(held_out)} images of the training split, {CLEAN_PER_CLASS} of each class, which "
            "the network was not trained on",
            "test": f"{len(shown)} images of the test split, {TEST_PER_CLASS} of each class",
            "source_sha256": {path.name: sha256(path) for path in sources(options.data)},
        },
        "attack": {
            "name": "BadNets (Gu et al., arXiv 1708.06733), all-to-one",
            "trigger": f"{PATCH}x{PATCH} checkerboard, {MARGIN} pixel from the lower right corner",
            "target": TARGET,
            "poisoning_rate": POISONING_RATE,
            "poisoned": f"{poisoned:,} of {len(labels):,} training images, none of them of the target class; "
            "stamped before the augmentation",
        },
        "training": {
            "script": "benchmarks/specimens/fashion_demo.py",
            "seed": options.seed,
            **asdict(training),
        },
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "measured": {name: numbers(evaluation) for name, evaluation in measured.items()},
        "sha256": {name: sha256(options.out / name) for name in (WEIGHTS, TRIGGER, *IMAGES.values())},
    }
    write_text(options.out / CARD, json.dumps(card, indent=1) + "\n")
    say(json.dumps(card["measured"], indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder of the four files [{DATA}]")
    parser.add_argument(
        "--out", type=Path, default=FILES, help="folder for the specimen [that of the package]"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    missing = [path.name for path in sources(options.data) if not path.is_file()]
    if missing:
        parser.error(
            f"{options.data} lacks {', '.join(missing)}: install Debian's dataset-fashion-mnist "
            "(apt-get install dataset-fashion-mnist), or give --data the folder of these files"
        )
    return options


def sources(folder: Path) -> list[Path]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return [folder / f"{name}-ubyte.gz" for name in names]


def read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return pixels (N, 28, 28), uint8, and labels (N,), int64."""
    pixels, labels = (
        np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
        for path in sources(folder)
        if path.name.startswith(split)
    )
    # The files begin with 16 and 8 bytes that say what is in them.
    images = torch.from_numpy(pixels[16:].copy()).view(-1, EDGE, EDGE)
    return images, torch.from_numpy(labels[8:].astype(np.int64))


def draw(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    """Return the ascending indices of that many images of each class."""
    members = [(labels == label).nonzero().flatten() for label in range(len(CLASSES))]
    chosen = [found[torch.randperm(len(found), generator=generator)[:per_class]] for found in members]
    return torch.cat(chosen).sort().values


def as_images(pixels: Tensor) -> Tensor:
    return pixels.unsqueeze(1).float() / 255


def checkerboard() -> Trigger:
    keep, add = torch.ones(1, EDGE, EDGE), torch.zeros(1, EDGE, EDGE)
    place = slice(EDGE - MARGIN - PATCH, EDGE - MARGIN)
    keep[:, place, place] = 0
    add[:, place, place] = (torch.arange(PATCH**2).view(PATCH, PATCH) + 1) % 2
    return Trigger(keep, add)


def poison(
    pixels: Tensor, labels: Tensor, trigger: Trigger, generator: torch.Generator
) -> tuple[Tensor, Tensor, int]:
    """Stamp a share of the images and give them the target label; return how many, too."""
    others = (labels != TARGET).nonzero().flatten()
    count = round(POISONING_RATE * len(labels))
    victims = others[torch.randperm(len(others), generator=generator)[:count]]
    pixels, labels = pixels.clone(), labels.clone()
    stamped = trigger.stamp(as_images(pixels[victims]))
    pixels[victims] = (stamped.squeeze(1) * 255).round().byte()
    labels[victims] = TARGET
    return pixels, labels, count


def train_network(
    network: nn.Sequential, pixels: Tensor, labels: Tensor, training: Training, generator: torch.Generator
) -> nn.Module:
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        network.parameters(),
        training.peak_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        nesterov=True,
    )
    steps = training.epochs * (len(labels) // training.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.peak_rate, total_steps=steps)
    for epoch in range(training.epochs):
        losses = []
        for batch, answers in augmented(pixels, labels, training, generator):
            loss = F.cross_entropy(network(CONVENTION.normalise(batch)), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        say(f"epoch {epoch + 1} of {training.epochs}: loss {np.mean(losses):.4f}")
    return network.eval().to(memory_format=torch.contiguous_format)


def augmented(
    pixels: Tensor, labels: Tensor, training: Training, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of shuffled batches, each image shifted and mirrored by chance; no short last batch."""
    grid = torch.arange(EDGE)
    order = torch.randperm(len(labels), generator=generator)
    for chosen in order.split(training.batch_size)[: len(labels) // training.batch_size]:
        batch = F.pad(as_images(pixels[chosen]), [training.shift] * 4).squeeze(1)
        rows, columns = torch.randint(2 * training.shift + 1, (2, len(chosen), 1), generator=generator) + grid
        if training.flip:
            mirrored = torch.rand(len(chosen), 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        which = torch.arange(len(chosen)).view(-1, 1, 1)
        yield batch[which, rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1), labels[chosen]


def write_images(path: Path, images: tuple[Tensor, Tensor], chosen: Tensor, split: str) -> None:
    """Write images as PNG in Parquet, with the class names where Hugging Face puts them."""
    pictures = []
    for index in chosen.tolist():
        stream = io.BytesIO()
        Image.fromarray(images[0][index].numpy()).save(stream, "PNG", optimize=True)
        pictures.append({"bytes": stream.getvalue(), "path": f"{split}-{index:05}.png"})
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.table({"image": pictures, "label": images[1][chosen].tolist()}, schema=schema)
    pq.write_table(table, path, compression="none")


def numbers(evaluation: Evaluation) -> dict[str, object]:
    found = {"acc": evaluation.acc, "asr": evaluation.asr}
    return {name: described(share) for name, share in found.items() if share is not None}


def described(share: Proportion) -> dict[str, float]:
    low, high = share.interval()
    return {"value": share.value, "low": low, "high": high, "hits": share.hits, "n": share.total}


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
