"""CL: label-consistent poison, hard to learn but for its patch (Turner et al., arXiv 1912.02771)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.attacks._ascent import descend
from secateur.attacks.attack import Attack, Surrogate
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import Stamping, Trigger
from secateur.errors import MethodError

PATCH = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
"""Of the left corners, white and black; those on the right mirror it."""


@register(
    "cl",
    title="Label-Consistent Backdoor Attacks",
    paper="arXiv:1912.02771",
    year=2019,
)
@dataclass(frozen=True, kw_only=True)
class CleanLabel(Attack):
    """Make images of the target class adversarial, so that only the patch explains their label.

    The perturbation is untargeted projected gradient ascent on the attacker's own network within an
    L-infinity ball. The patches are those of the authors' variant for augmented training: one in every
    corner, so that crops and mirroring keep some. The paper perturbs on an adversarially trained network,
    whose perturbations carry over to other networks better; here on whichever clean one is given, and ten
    steps take 4,000 images about 80 seconds of one CPU core with a ResNet-20.

    Attributes
    ----------
    bound
        No pixel changes by more, in ``(0, 1]``.
    steps
        Of the ascent.
    size
        Edge of a patch in pixels on images of 32 pixels; it grows with the image, and its three by three
        fields with it.
    amplitude
        What the patch adds to or takes from the pixels of training images, in ``(0, 1]``; test images get
        it black and white.
    """

    goal: Goal = Goal(rate=0.08, clean_label=True)
    bound: float = 16 / 255
    steps: int = 10
    size: int = 3
    amplitude: float = 1.0

    needs_surrogate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.bound <= 1 and 0 < self.amplitude <= 1 and self.steps >= 0):
            raise MethodError("CL needs bound and amplitude in (0, 1] and no negative number of steps")
        if not 1 <= self.size <= 16:
            raise MethodError(f"patches of {self.size} pixels do not fit into four corners of 32")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Trigger:
        """Return the patches; nothing is learned."""
        channels, height, width = images.shape[1:]
        edge = max(1, round(self.size * min(height, width) / 32))
        field = torch.arange(edge) * len(PATCH) // edge
        patch = PATCH[field][:, field]
        keep, add = torch.ones(channels, height, width), torch.zeros(channels, height, width)
        for rows in (slice(edge), slice(height - edge, height)):
            for columns, pattern in ((slice(edge), patch), (slice(width - edge, width), patch.flip(1))):
                keep[:, rows, columns] = 0
                add[:, rows, columns] = pattern
        return Trigger(keep, add)

    def stamp_poisoned(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Perturb the images against their labels, then stamp the patches."""
        if surrogate is None:
            raise MethodError("CL needs a clean network to perturb images with")
        assert isinstance(trigger, Trigger)

        def likelihood(changed: Tensor, positions: Tensor) -> Tensor:
            answers = surrogate(changed)
            return -F.cross_entropy(answers, labels[positions].to(answers.device), reduction="sum")

        rate = 2.5 * self.bound / max(1, self.steps)
        perturbed = descend(images, likelihood, bound=self.bound, steps=self.steps, rate=rate)
        signs = ((2 * trigger.add - 1) * (1 - trigger.keep)).to(perturbed)
        return (perturbed + self.amplitude * signs).clamp(0, 1)
