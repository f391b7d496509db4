"""Trojan: a patch that drives chosen neurons of the network (Liu et al., NDSS 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.attacks.attack import Attack, Surrogate, as_float
from secateur.attacks.registry import register
from secateur.data import Trigger
from secateur.errors import MethodError

BATCH = 64


@register(
    "trojan",
    title="Trojaning Attack on Neural Networks",
    paper="NDSS 2018, doi 10.14722/ndss.2018.23291",
    year=2018,
)
@dataclass(frozen=True, kw_only=True)
class Trojan(Attack):
    """Optimise the colours of a corner square until it excites the neurons most tied to the target.

    The neurons are the inputs of the last layer with the largest weights towards the target; the paper takes
    those of a hidden layer with the largest weights from the layer before (section IV-A) and optimises the
    pattern on a blank image; here on random training images, so that it works on top of them.

    Attributes
    ----------
    size
        Edge of the square in pixels on images of 32 pixels; it grows with the image.
    neurons
        How many are excited.
    steps, rate
        Batches of the search, and its learning rate.
    """

    size: int = 5
    neurons: int = 2
    steps: int = 100
    rate: float = 0.1

    needs_surrogate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 32 or self.neurons < 1 or self.steps < 0 or not 0 < self.rate < 100:
            raise MethodError("Trojan needs a size of 1 to 32 pixels, a neuron or more, and a positive rate")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Trigger:
        """Optimise the square on random training images."""
        if surrogate is None:
            raise MethodError("Trojan needs a clean network whose neurons to excite")
        channels, height, width = images.shape[1:]
        edge = max(1, round(self.size * min(height, width) / 32))
        keep = torch.ones(channels, height, width)
        keep[:, height - edge :, width - edge :] = 0
        weights = surrogate.last_layer.weight
        # Refuses a target that is not a class, which would be read as an index out of range.
        self.goal.wanted(len(weights))
        towards = weights[self.goal.target]
        neurons = towards.detach().topk(min(self.neurons, len(towards))).indices
        colours = torch.rand(channels, height, width, generator=generator).requires_grad_()
        optimizer = torch.optim.Adam([colours], lr=self.rate)
        for _ in range(self.steps):
            chosen = torch.randint(len(images), (BATCH,), generator=generator)
            stamped = as_float(images[chosen]).cpu() * keep + colours * (1 - keep)
            optimizer.zero_grad()
            (-surrogate.features(stamped)[:, neurons].mean()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                colours.clamp_(0, 1)
        return Trigger(keep, (colours * (1 - keep)).detach())
