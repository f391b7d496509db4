"""Blend: a faint image laid over everything (Chen et al., arXiv 1712.05526)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.attacks.attack import Attack, Surrogate
from secateur.attacks.registry import register
from secateur.data import Trigger
from secateur.errors import MethodError


@register(
    "blend",
    title="Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning",
    paper="arXiv:1712.05526",
    year=2017,
)
@dataclass(frozen=True, kw_only=True)
class Blend(Attack):
    """Mix every pixel with a fixed image of noise: ``x' = (1 - ratio) x + ratio k`` (section 4.2).

    Attributes
    ----------
    ratio
        Weight of the noise, in ``(0, 1]``.
    """

    ratio: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise MethodError(f"ratio {self.ratio} must be above 0 and at most 1")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Trigger:
        """Draw the noise, uniform in ``[0, 1]``."""
        noise = torch.rand(images.shape[1:], generator=generator)
        return Trigger(torch.full_like(noise, 1 - self.ratio), self.ratio * noise)
