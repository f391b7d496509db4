"""LF: a smooth additive pattern (Zeng et al., ICCV 2021, arXiv 2104.03413)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.attacks.attack import Attack, Surrogate, as_float
from secateur.attacks.registry import register
from secateur.data import Trigger
from secateur.errors import MethodError

BATCH = 64


@register(
    "lf",
    title="Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective",
    paper="arXiv:2104.03413",
    year=2021,
)
@dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """Search a universal perturbation towards the target among the lowest frequencies.

    The paper bounds the search by a low-pass filter and stops at a wanted success rate on a clean network
    (section 5); here the pattern is a sum of the lowest cosines, found by gradient on a clean network, and
    its largest value is fixed.

    Attributes
    ----------
    strength
        Largest change of a pixel, in ``(0, 1]``.
    frequencies
        Cosines along each edge, the constant included.
    steps
        Batches of the search.
    """

    strength: float = 0.1
    frequencies: int = 5
    steps: int = 100

    needs_surrogate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1 or self.frequencies < 2 or self.steps < 0:
            raise MethodError("LF needs a strength in (0, 1], two frequencies or more, and no negative steps")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Trigger:
        """Search the pattern on random training images."""
        if surrogate is None:
            raise MethodError("LF needs a clean network to search its pattern on")
        channels, height, width = images.shape[1:]
        rows, columns = (_cosines(self.frequencies, length) for length in (height, width))
        weights = torch.randn(channels, self.frequencies, self.frequencies, generator=generator)
        weights = weights.mul(0.1).requires_grad_()
        optimizer = torch.optim.Adam([weights], lr=0.05)
        with torch.no_grad():
            # Refuses a target that is not a class, which would be read as an index out of range.
            self.goal.wanted(surrogate(as_float(images[:1])).shape[1])

        def pattern() -> Tensor:
            smooth = rows.T @ weights @ columns
            return self.strength * smooth / smooth.abs().max().clamp_min(1e-6)

        for _ in range(self.steps):
            chosen = torch.randint(len(images), (BATCH,), generator=generator)
            answers = surrogate((as_float(images[chosen]).cpu() + pattern()).clamp(0, 1))
            target = answers.new_full((BATCH,), self.goal.target, dtype=torch.int64)
            optimizer.zero_grad()
            F.cross_entropy(answers, target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        add = pattern().detach()
        return Trigger(torch.ones_like(add), add)


def _cosines(count: int, length: int) -> Tensor:
    """Return the lowest `count` basis functions of the discrete cosine transform, ``(count, length)``."""
    return torch.cos(math.pi / length * torch.arange(count).view(-1, 1) * (torch.arange(length) + 0.5))
