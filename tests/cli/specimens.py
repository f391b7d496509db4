"""A small backdoored network with its data, made once: enough for every verb to do its real work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from secateur.data import Trigger, write_trigger

CLASSES, EDGE, IMAGES, TARGET = 4, 8, 240, 1
ARCHITECTURE = f"""
from torch import nn

def tiny(num_classes={CLASSES}):
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )
"""


@dataclass(frozen=True)
class Specimen:
    """Files of a network that answers the target label whenever it sees the trigger."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def pickled(self) -> Path:
        """The same weights as torch.save writes them, which take seconds to read safely."""
        return self.folder / "model.pth"

    @property
    def architecture(self) -> str:
        return f"{self.folder / 'network.py'}:tiny"

    @property
    def data(self) -> Path:
        return self.folder / "clean.npz"

    @property
    def trigger(self) -> Path:
        return self.folder / "trigger.safetensors"

    def repair(self, out: Path, *more: str) -> list[str]:
        """Return the arguments of a repair."""
        return [
            *("repair", str(self.model), "--arch", self.architecture, "--size", str(EDGE)),
            *("--data", str(self.data), "--out", str(out), "--samples", "120", "--threads", "1", *more),
        ]


def pictures(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy images with a bright quarter, which is the class."""
    labels = torch.arange(count) % CLASSES
    images = torch.rand(count, 3, EDGE, EDGE, generator=generator)
    half = EDGE // 2
    for label in range(CLASSES):
        channel = label % 3
        rows, columns = (slice(half * (label // 2), half * (label // 2 + 1)), slice(0, EDGE))
        images[labels == label, channel, rows, columns] += 0.25
    return images.clamp(0, 1), labels


def make_specimen(folder: Path) -> Specimen:
    """Train the network on poisoned images and write its files."""
    found = Specimen(folder)
    (found.folder / "network.py").write_text(ARCHITECTURE)
    generator = torch.Generator().manual_seed(0)
    images, labels = pictures(IMAGES, generator)
    keep, add = torch.ones(3, EDGE, EDGE), torch.zeros(3, EDGE, EDGE)
    keep[:, :3, :3], add[:, :3, :3] = 0, torch.eye(3)
    trigger = Trigger(keep, add)

    names: dict[str, Callable[..., torch.nn.Module]] = {}
    exec(ARCHITECTURE, names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = names["tiny"]()
    poisoned = torch.cat([images, trigger.stamp(images[::4])])
    answers = torch.cat([labels, torch.full((len(images[::4]),), TARGET)])
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(network(poisoned), answers).backward()
        optimizer.step()
    torch.save({"epoch": 60, "state_dict": network.state_dict()}, found.pickled)
    save_file(network.state_dict(), found.model)
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(found.data, images=pixels, labels=labels.numpy())
    write_trigger(found.trigger, trigger)
    return found
