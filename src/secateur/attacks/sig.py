"""SIG: a faint sinusoid on images of the target class (Barni et al., ICIP 2019, arXiv 1902.11237)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.attacks.attack import Attack, Surrogate
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import Stamping, Trigger
from secateur.errors import MethodError


@register(
    "sig",
    title="A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning",
    paper="arXiv:1902.11237",
    year=2019,
)
@dataclass(frozen=True, kw_only=True)
class Sig(Attack):
    """Add ``v(i, j) = strength * sin(2 pi j frequency / width)`` to every row (section 3).

    Attributes
    ----------
    strength
        Amplitude on training images, in ``(0, 1]``.
    test_strength
        Amplitude on test images; the paper lets it be larger than in training.
    frequency
        Periods across the image.
    """

    goal: Goal = Goal(rate=0.08, clean_label=True)
    strength: float = 20 / 255
    test_strength: float = 40 / 255
    frequency: float = 6.0

    def __post_init__(self) -> None:
        if not (0 < self.strength <= 1 and 0 < self.test_strength <= 1 and 0 < self.frequency < math.inf):
            raise MethodError("SIG needs strengths in (0, 1] and a positive frequency")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Trigger:
        """Return the sinusoid of test images; nothing is learned."""
        return self._wave(images, self.test_strength)

    def stamp_poisoned(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Add the sinusoid of training images."""
        return self._wave(images, self.strength).stamp(images)

    def _wave(self, images: Tensor, strength: float) -> Trigger:
        _, channels, height, width = images.shape
        phase = 2 * math.pi * self.frequency * torch.arange(width) / width
        wave = (strength * phase.sin()).expand(channels, height, width)
        return Trigger(torch.ones_like(wave), wave.contiguous())
