"""Adaptive blend: pieces of a faint image, never the whole, and covers (Qi et al., ICLR 2023)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.attacks.attack import Attack, Surrogate
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import Stamping, Trigger
from secateur.errors import MethodError, TriggerError


@register(
    "a-blend",
    title="Revisiting the Assumption of Latent Separability for Backdoor Defenses",
    paper="ICLR 2023, openreview _wSHsgrVali",
    year=2023,
)
@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(Attack):
    """Blend a random part of the pieces of a noise image into each training image, all of them at test time.

    As many covers as poisoned images carry pieces too and keep their label, so that triggered and clean
    images are not far apart inside the network. The paper poisons 0.3 % of the images and trains from
    scratch; the default here is higher, so that the few epochs of a fine-tuned specimen are enough.

    Attributes
    ----------
    ratio, test_ratio
        Weight of the noise in training and test images, in ``(0, 1]``.
    pieces
        Pieces along each edge.
    shown
        Share of the pieces that a training image carries, in ``(0, 1]``.
    """

    goal: Goal = Goal(rate=0.02, cover_rate=0.02)
    ratio: float = 0.15
    test_ratio: float = 0.2
    pieces: int = 4
    shown: float = 0.5

    def __post_init__(self) -> None:
        if not all(0 < share <= 1 for share in (self.ratio, self.test_ratio, self.shown)) or self.pieces < 1:
            raise MethodError("adaptive blend needs ratios and shown in (0, 1] and at least one piece")

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
        return Trigger(torch.full_like(noise, 1 - self.test_ratio), self.test_ratio * noise)

    def stamp_poisoned(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Blend a random choice of pieces into each image."""
        if not isinstance(trigger, Trigger):
            raise TriggerError("adaptive blend cuts a trigger with keep and add into pieces")
        count, _, height, width = images.shape
        order = torch.rand(count, self.pieces**2, generator=generator).argsort(1)
        grid = (order < round(self.shown * self.pieces**2)).float().view(-1, 1, self.pieces, self.pieces)
        shown = F.interpolate(grid, (height, width), mode="nearest").to(images)
        noise = trigger.add.to(images) / self.test_ratio
        return images + self.ratio * shown * (noise - images)
