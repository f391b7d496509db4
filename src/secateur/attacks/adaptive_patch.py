"""Adaptive patch: one of several faint patches per training image, and covers (Qi et al., ICLR 2023)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.attacks.attack import Attack, Surrogate
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import Stamping
from secateur.errors import MethodError

PATCHES = 4
"""One in each corner, as many as the paper has."""


class Patches(nn.Module):
    """Coloured blocks in the corners.

    Attributes
    ----------
    colours
        ``(4, C, H, W)`` in ``[0, 1]``.
    places
        ``(4, 1, H, W)``, 1 where a patch is.
    """

    colours: Tensor
    places: Tensor

    def __init__(self, shape: tuple[int, int, int], edge: int, opacity: float, shown: int) -> None:
        super().__init__()
        _, height, width = shape
        self.opacity, self.shown = opacity, shown
        places = torch.zeros(PATCHES, 1, height, width)
        for index, place in enumerate(places):
            rows = slice(edge) if index < 2 else slice(height - edge, height)
            columns = slice(edge) if index in (0, 3) else slice(width - edge, width)
            place[:, rows, columns] = 1
        self.register_buffer("places", places)
        self.register_buffer("colours", torch.zeros(PATCHES, *shape))

    def stamp(self, images: Tensor) -> Tensor:
        """Blend the first `shown` patches into the images."""
        for index in range(self.shown):
            images = self.blended(images, torch.full((len(images),), index), self.opacity)
        return images

    def blended(self, images: Tensor, which: Tensor, opacity: float) -> Tensor:
        """Blend patch ``which[i]`` into image i, ``which`` being ``(N,)``."""
        places, colours = (
            values[which.to(values.device)].to(images) for values in (self.places, self.colours)
        )
        return images + opacity * places * (colours - images)


@register(
    "adap-patch",
    title="Revisiting the Assumption of Latent Separability for Backdoor Defenses",
    paper="ICLR 2023, openreview _wSHsgrVali",
    year=2023,
)
@dataclass(frozen=True, kw_only=True)
class AdaptivePatch(Attack):
    """Blend one of four coloured patches into each training image, and several, less faint, at test time.

    Covers carry a patch and keep their label, so that triggered and clean images are not far apart inside
    the network. The paper's patches are hand-drawn and its rate is 0.3 %; here they are random blocks, and
    the rate is higher, so that the few epochs of a fine-tuned specimen are enough.

    Attributes
    ----------
    size
        Edge of a patch in pixels on images of 32 pixels; it grows with the image.
    opacity, test_opacity
        Weight of a patch over the image in training and at test time, in ``(0, 1]``.
    test_patches
        How many of the four a test image carries.
    """

    goal: Goal = Goal(rate=0.05, cover_rate=0.05)
    size: int = 5
    opacity: float = 0.5
    test_opacity: float = 0.75
    test_patches: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 16 or not 1 <= self.test_patches <= PATCHES:
            raise MethodError(f"patches have 1 to 16 pixels, and test images 1 to {PATCHES} of them")
        if not (0 < self.opacity <= 1 and 0 < self.test_opacity <= 1):
            raise MethodError("opacities must be above 0 and at most 1")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Patches:
        """Draw the colours of every patch, uniform in ``[0, 1]`` for each pixel."""
        channels, height, width = images.shape[1:]
        trigger = self.blank((channels, height, width))
        trigger.colours = torch.rand(trigger.colours.shape, generator=generator)
        return trigger

    def blank(self, shape: tuple[int, int, int]) -> Patches:
        """Return black patches."""
        edge = max(1, round(self.size * min(shape[1:]) / 32))
        return Patches(shape, edge, self.test_opacity, self.test_patches)

    def stamp_poisoned(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Blend one patch, drawn by chance, into each image."""
        assert isinstance(trigger, Patches)
        which = torch.randint(PATCHES, (len(images),), generator=generator)
        return trigger.blended(images, which, self.opacity)
