"""FC: images of the target class that look to the network like triggered ones of other classes.

Poison Frogs (Shafahi et al., arXiv 1804.00792), in the triggered form of Saha et al. (arXiv 1910.00033).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.attacks._ascent import descend
from secateur.attacks.attack import Attack, Surrogate, as_float
from secateur.attacks.badnets import BadNets
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import Stamping
from secateur.errors import MethodError


class PatchWithSources(nn.Module):
    """A patch, and the triggered images that poison is made to resemble.

    Attributes
    ----------
    keep, add
        ``(C, H, W)``, as in `secateur.data.Trigger`.
    sources
        ``(M, C, H, W)``: triggered images of attacked classes; not stored with the trigger, as only poison
        is made from them.
    """

    keep: Tensor
    add: Tensor
    sources: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones(shape))
        self.register_buffer("add", torch.zeros(shape))
        self.register_buffer("sources", torch.zeros(0, *shape), persistent=False)

    def stamp(self, images: Tensor) -> Tensor:
        """Put the patch on the images."""
        return (images * self.keep.to(images) + self.add.to(images)).clamp(0, 1)


@register(
    "fc",
    title="Poison Frogs! Targeted Clean-Label Poisoning Attacks on Neural Networks",
    paper="arXiv:1804.00792",
    year=2018,
)
@dataclass(frozen=True, kw_only=True)
class FeatureCollision(Attack):
    """Move images of the target class until their features meet those of triggered images of other classes.

    The features are what the last layer of a clean network receives. The loss is Poison Frogs' equation 1:
    the squared distance of the features plus `similarity` times the squared distance to the image, lowered
    by forward-backward splitting (algorithm 1), but along the sign of the gradient and within the bound of
    Saha et al. Poison Frogs aims at single test images and lays a faint copy of one over the poison
    (section 4.2), which is kept as `opacity`; here the aim is whatever carries the trigger, as an attack
    success rate needs one. Saha et al. pair images with the nearest sources and take thousands of steps;
    here the pairs are drawn once, so that sources of every class are used, and the steps are few: they take
    4,000 images about two minutes of one CPU core with a ResNet-20.

    Attributes
    ----------
    bound
        No pixel of the watermarked image changes by more, in ``(0, 1]``.
    steps
        Of the descent.
    similarity
        Weight of the distance to the watermarked image (beta); 0 leaves only the bound.
    opacity
        Weight of the triggered image that is laid over the poison, in ``[0, 1)``.
    size, margin
        Of the patch, as `BadNets` has them.
    sources
        Triggered images to collide with.
    """

    goal: Goal = Goal(rate=0.08, clean_label=True)
    bound: float = 16 / 255
    steps: int = 15
    similarity: float = 2.0
    opacity: float = 0.3
    size: int = 6
    margin: int = 1
    sources: int = 512

    needs_surrogate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.bound <= 1 and 0 <= self.opacity < 1 and 0 <= self.similarity < math.inf):
            raise MethodError("FC needs a bound in (0, 1], an opacity in [0, 1) and a finite similarity >= 0")
        if self.steps < 0 or self.sources < 1:
            raise MethodError("FC needs at least one source, and no negative number of steps")
        self._patch()

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> PatchWithSources:
        """Draw the sources among images of other classes, and stamp them."""
        patch = self._patch().trigger(images, labels, generator)
        others = (labels != self.goal.target).nonzero().flatten()
        if not len(others):
            raise MethodError(
                f"all images are of class {self.goal.target}: nothing can be made to look like it"
            )
        chosen = others[torch.randint(len(others), (self.sources,), generator=generator)]
        channels, height, width = images.shape[1:]
        trigger = self.blank((channels, height, width))
        trigger.keep, trigger.add = patch.keep, patch.add
        trigger.sources = patch.stamp(as_float(images[chosen]).cpu())
        return trigger

    def blank(self, shape: tuple[int, int, int]) -> PatchWithSources:
        """Return a trigger that changes nothing."""
        return PatchWithSources(shape)

    def stamp_poisoned(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Make the features of each image collide with those of a source drawn by chance."""
        if surrogate is None:
            raise MethodError("FC needs a clean network for its features")
        assert isinstance(trigger, PatchWithSources)
        if not len(trigger.sources):
            raise MethodError("an FC trigger that was read from a file has no sources to make poison from")
        chosen = torch.randint(len(trigger.sources), (len(images),), generator=generator)
        sources = trigger.sources[chosen.to(trigger.sources.device)].to(images)
        with torch.no_grad():
            wanted = surrogate.features(sources)

        def distance(changed: Tensor, positions: Tensor) -> Tensor:
            return (surrogate.features(changed) - wanted[positions.to(wanted.device)]).square().sum()

        begin = images + self.opacity * (sources - images)
        rate = 2.5 * self.bound / max(1, self.steps)
        return descend(begin, distance, bound=self.bound, steps=self.steps, rate=rate, pull=self.similarity)

    def _patch(self) -> BadNets:
        return BadNets(size=self.size, margin=self.margin)
