"""Draw what every attack does to an image: docs/images/attacks.png.

    python benchmarks/pictures.py [--specimens .specimens]

For each attack a clean test image, the same with the trigger, and their difference, amplified so that its
largest value fills the range; clean-label attacks have a poisoned training image as well. Triggers that are
learned during training come from the specimens.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from checkpoints import HERE, SHARED
from torch import Tensor

from secateur.attacks import Surrogate, attacks, create, read_any_trigger
from secateur.data import open_images, stream
from secateur.models import load_model
from secateur.specimens import TRIGGER

OUT = HERE.parent / "docs" / "images" / "attacks.png"
SHOWN = 7
COLUMNS = ("clean", "triggered", "difference", "poisoned\nfor training")
PER_ROW = 3
"""Attacks side by side."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--specimens", type=Path, default=HERE.parent / ".specimens")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_images(str(SHARED / "data" / "cifar10"), split="train", size=(32, 32), channels=3)
    images, labels = next(stream(dataset, 256))
    checkpoint = SHARED / "checkpoints" / "files" / "resnet20-cifar10-clean.th"
    clean = load_model(checkpoint, "secateur:resnet20", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    surrogate = Surrogate(clean.network, clean.convention)
    names = list(attacks())
    rows = -(-len(names) // PER_ROW)
    figure, axes = plt.subplots(
        rows,
        PER_ROW * (len(COLUMNS) + 1) - 1,
        figsize=(13, 1.05 * rows + 0.6),
        gridspec_kw={"wspace": 0.06, "hspace": 0.35},
    )
    for axis in axes.flat:
        axis.axis("off")
    for index, name in enumerate(names):
        row, first = index // PER_ROW, (index % PER_ROW) * (len(COLUMNS) + 1)
        pictures = drawn(name, options.specimens, images, labels, surrogate)
        for offset, picture in enumerate(pictures):
            axis = axes[row, first + offset]
            axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            if row == 0:
                axis.set_title(COLUMNS[offset], fontsize=7, pad=20)
        axes[row, first].text(0, -3, name, fontsize=9, fontweight="bold", va="bottom")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=130, bbox_inches="tight", metadata={"Software": None})


def drawn(name: str, specimens: Path, images: Tensor, labels: Tensor, surrogate: Surrogate) -> list[Tensor]:
    """Return the clean, triggered, difference and, where it is another, poisoned picture."""
    attack, generator = create(name), torch.Generator().manual_seed(0)
    stored = specimens / name / TRIGGER
    trigger = (
        read_any_trigger(stored)
        if stored.is_file()
        else attack.trigger(images, labels, generator, surrogate=surrogate)
    )
    clean = images[SHOWN]
    with torch.no_grad():
        triggered = trigger.stamp(clean.unsqueeze(0))[0]
    change = triggered - clean
    pictures = [clean, triggered, 0.5 + change / change.abs().max().clamp_min(1e-6) / 2]
    poison = attack.poison(images, labels, generator, trigger=trigger, surrogate=surrogate, classes=10)
    if attack.goal.clean_label and len(poison.poisoned):
        pictures.append(poison.images[poison.poisoned[0]])
    return pictures


if __name__ == "__main__":
    main()
