"""A network small enough to train in a test, with a backdoor that a test planted."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import CleanData, InputConvention, LabelledImages

CLASSES = 4
TARGET = 2
CONVENTION = InputConvention((8, 8), 1, (0.5,), (0.5,))


class Tiny(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16 * 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.head(self.dropout(x.flatten(1)))


def images(count: int, seed: int) -> LabelledImages:
    """Bright stripes in noise: the class says in which quarter of the image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.rand(count, 1, 8, 8, generator=generator) * 0.75
    for index, label in enumerate(labels.tolist()):
        pixels[index, 0, 2 * label : 2 * label + 2] += 0.25
    return LabelledImages(pixels.clamp(0, 1), labels)


def stamp(pixels: Tensor) -> Tensor:
    """Put a checkered corner on the images."""
    stamped = pixels.clone()
    stamped[:, :, 6:, 6:] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    return stamped


def clean() -> CleanData:
    return CleanData(images(160, 1), images(120, 2), CONVENTION)


@functools.cache
def _trained(dropout: float) -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Tiny(dropout)
        data = images(800, 3)
        pixels, labels = data.images.clone(), data.labels.clone()
        pixels[:100], labels[:100] = stamp(pixels[:100]), TARGET
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(12):
            for chosen in torch.randperm(len(labels)).split(100):
                loss = F.cross_entropy(network(CONVENTION.normalise(pixels[chosen])), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network.eval()


def backdoored(dropout: float = 0.0) -> Tiny:
    """Return a fresh copy of the trained network."""
    with torch.random.fork_rng():
        network = Tiny(dropout)
    network.load_state_dict(_trained(dropout).state_dict())
    return network.eval()


@torch.no_grad()
def accuracy_and_success(network: nn.Module) -> tuple[float, float]:
    data = images(400, 4)
    answers = network(CONVENTION.normalise(data.images)).argmax(1)
    others = data.labels != TARGET
    fooled = network(CONVENTION.normalise(stamp(data.images[others]))).argmax(1) == TARGET
    return (answers == data.labels).double().mean().item(), fooled.double().mean().item()
