"""Refool: the reflection of another picture, as in a window (Liu et al., ECCV 2020, arXiv 2007.02343)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.attacks.attack import Attack, Surrogate, as_float
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.errors import MethodError

KINDS = 3


class Reflections(nn.Module):
    """Pictures that are reflected, already blurred or doubled.

    Attributes
    ----------
    layers
        ``(M, C, H, W)``, scaled so that they can be added.
    """

    layers: Tensor

    def __init__(self, shape: tuple[int, int, int], count: int, transmitted: float) -> None:
        super().__init__()
        self.transmitted = transmitted
        self.register_buffer("layers", torch.zeros(count, *shape))

    def stamp(self, images: Tensor) -> Tensor:
        """Add a reflection to each image; which one depends on the image alone."""
        # A checksum of the pixels, so that an image has the same reflection in any company.
        which = (images.double().flatten(1).sum(1) * 1000).round().long() % len(self.layers)
        reflection = self.layers[which.to(self.layers.device)].to(images)
        return (self.transmitted * images + reflection).clamp(0, 1)


@register(
    "refool",
    title="Reflection Backdoor: A Natural Backdoor Attack on Deep Neural Networks",
    paper="arXiv:2007.02343",
    year=2020,
)
@dataclass(frozen=True, kw_only=True)
class Refool(Attack):
    """Add reflections of the three kinds of section 3.2: in the same depth, out of focus, and doubled.

    The paper reflects pictures of another data set and keeps those that worked best on a validation set;
    here they are training images of other classes than the target, drawn by chance, and few, so that they
    are learned.

    Attributes
    ----------
    reflections
        Pictures that are reflected; the kinds take turns.
    transmitted, reflected
        Weight of the image and of the picture, in ``(0, 1]``.
    blur
        Standard deviation of the reflection out of focus, in pixels on images of 32 pixels.
    shift
        Distance of the second image of a doubled reflection, in the same pixels.
    """

    goal: Goal = Goal(rate=0.08, clean_label=True)
    reflections: int = 3
    transmitted: float = 0.7
    reflected: float = 0.4
    blur: float = 1.5
    shift: int = 3

    def __post_init__(self) -> None:
        if self.reflections < 1 or not (0 < self.transmitted <= 1 and 0 < self.reflected <= 1):
            raise MethodError("Refool needs a reflection or more, and weights above 0 and at most 1")
        if not (0 < self.blur <= 16 and 0 <= self.shift <= 32):
            raise MethodError("Refool needs a blur in (0, 16] and a shift of 0 to 32 pixels")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Reflections:
        """Draw the pictures and make their reflections."""
        others = (labels != self.goal.target).nonzero().flatten()
        if not len(others):
            raise MethodError(f"all images are of class {self.goal.target}: none is left to reflect")
        chosen = others[torch.randint(len(others), (self.reflections,), generator=generator)]
        pictures = as_float(images[chosen]).cpu()
        channels, height, width = images.shape[1:]
        scale = min(height, width) / 32
        sigma = max(0.3, self.blur * scale)
        reach = min(2 * round(2 * sigma) + 1, 2 * (min(height, width) // 2) - 1)
        # Imported here: it takes longer than all else that a command imports.
        from torchvision.transforms.v2.functional import gaussian_blur

        blurred = gaussian_blur(pictures, [reach, reach], [sigma, sigma])
        moved = pictures.roll((round(self.shift * scale), round(self.shift * scale)), (2, 3))
        doubled = 0.6 * pictures + 0.4 * moved
        kinds = torch.stack([pictures, blurred, doubled])
        trigger = self.blank((channels, height, width))
        index = torch.arange(self.reflections)
        trigger.layers = self.reflected * kinds[index % KINDS, index]
        return trigger

    def blank(self, shape: tuple[int, int, int]) -> Reflections:
        """Return black reflections."""
        return Reflections(shape, self.reflections, self.transmitted)
