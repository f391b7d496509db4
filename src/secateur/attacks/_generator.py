"""The small network that draws learned triggers, and how it is trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks.goal import Goal
from secateur.data import SPARED

STUDIED = 32
"""Images of a batch that a generator learns from at most, so that it costs less than the classifier."""
WIDTH = 16


class Translator(nn.Module):
    """A U-Net with two halvings, for images of any size; what it answers does not depend on the batch.

    Parameters
    ----------
    inputs, outputs
        Channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # Layers draw their first weights from the global state, which is not ours to advance.
        with torch.random.fork_rng(devices=[]):
            self.first = convolution(inputs, WIDTH, 2)
            self.deep = nn.Sequential(convolution(WIDTH, 2 * WIDTH, 2), convolution(2 * WIDTH, 2 * WIDTH, 1))
            self.joined = convolution(3 * WIDTH, WIDTH, 1)
            self.last = nn.Conv2d(WIDTH + inputs, outputs, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, outputs, H, W)``, unbounded, for ``(N, inputs, H, W)`` in ``[0, 1]``."""
        images = images * 2 - 1
        half = self.first(images)
        joined = self.joined(torch.cat([_enlarged(self.deep(half), half), half], 1))
        return self.last(torch.cat([_enlarged(joined, images), images], 1))  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.last.weight.device


def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 3x3 convolution, a normalisation of each image by itself, and a rectifier."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(4, outputs),
        nn.ReLU(),
    )


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of `network` from `generator` and freeze them, until `learning`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    network.requires_grad_(False)


@contextmanager
def learning(*networks: nn.Module) -> Iterator[None]:
    """Let the weights of `networks` have gradients; frozen again afterwards, as stamping wants them."""
    try:
        for network in networks:
            network.requires_grad_(True)
        yield
    finally:
        for network in networks:
            network.requires_grad_(False)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step down `loss`."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()


def batches(images: Tensor, steps: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield `steps` random batches of `size` images, or of all where there are fewer, as they are stored."""
    for _ in range(steps):
        chosen = torch.randint(len(images), (min(size, len(images)),), generator=generator)
        yield images[chosen.to(images.device)]


def attacked(images: Tensor, labels: Tensor, goal: Goal, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first attacked images of a batch, `STUDIED` at most, their labels, and the wanted ones."""
    wanted = goal.wanted(classes).to(labels.device)[labels]
    chosen = (wanted != SPARED).nonzero().flatten()[:STUDIED]
    return images[chosen], labels[chosen], wanted[chosen]


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[2:], mode="nearest")
