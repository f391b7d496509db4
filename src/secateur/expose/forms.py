"""What an inverted trigger may do to an image."""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from secateur.data import Trigger

OPAQUE = 2.0
"""Masks start nearly opaque, so that no pixel stays below the threshold of a unit that waits for it."""
FAINT = 0.01
"""Standard deviation of an additive pattern's start: at zero its norm has no gradient."""


class Form(Protocol):
    """A family of triggers that gradients can search; `R` of them are held together."""

    def planes(self, channels: int) -> int:
        """Return how many planes of the image's size describe a trigger."""
        ...

    def start(self, noise: Tensor) -> Tensor:
        """Return where to start, from standard normal `noise` ``(R, planes, H, W)``."""
        ...

    def opened(self, raw: Tensor) -> Tensor:
        """Return the triggers that unbounded values ``(R, planes, H, W)`` stand for; differentiable."""
        ...

    def stamped(self, opened: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return images ``(R, N, C, H, W)`` in ``[0, 1]``, each row with its trigger, and their sizes.

        Both are differentiable; the sizes are ``(R,)``.
        """
        ...

    def trigger(self, opened: Tensor) -> tuple[Trigger, float]:
        """Return one trigger ``(planes, H, W)`` as data, and its size."""
        ...


class Patch:
    """A mask ``m`` and a pattern ``p``, both in ``[0, 1]``: ``x' = (1 - m) * x + m * p``.

    Its size is the sum of the mask over all pixels, in ``[0, H * W]`` (Neural Cleanse, equations 2 and 3).
    """

    def planes(self, channels: int) -> int:
        """Return one for the mask, and the pattern's."""
        return 1 + channels

    def start(self, noise: Tensor) -> Tensor:
        """Return nearly opaque noise."""
        noise[:, 0] += OPAQUE
        return noise

    def opened(self, raw: Tensor) -> Tensor:
        """Return mask and pattern."""
        return torch.sigmoid(raw)

    def stamped(self, opened: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Lay the pattern over the images."""
        mask, pattern = opened[:, None, :1], opened[:, None, 1:]
        return (1 - mask) * images + mask * pattern, mask.sum((1, 2, 3, 4))

    def trigger(self, opened: Tensor) -> tuple[Trigger, float]:
        """Return mask and pattern as what is kept and what is added."""
        mask, pattern = opened[:1].float(), opened[1:].float()
        return Trigger((1 - mask).expand_as(pattern).contiguous(), mask * pattern), float(mask.sum())


class Additive:
    """A pattern that is added to every pixel: ``x' = clip(x + d, 0, 1)``.

    Its size is the Euclidean norm of ``d``, pixels in ``[0, 1]``. It stands for triggers that cover the
    image: blended, periodic or faint ones.
    """

    def planes(self, channels: int) -> int:
        """Return the pattern's."""
        return channels

    def start(self, noise: Tensor) -> Tensor:
        """Return faint noise."""
        return FAINT * noise

    def opened(self, raw: Tensor) -> Tensor:
        """Return the pattern as it is."""
        return raw

    def stamped(self, opened: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Add the pattern to the images."""
        return (images + opened[:, None]).clamp(0, 1), torch.linalg.vector_norm(opened.flatten(1), dim=1)

    def trigger(self, opened: Tensor) -> tuple[Trigger, float]:
        """Return the pattern as what is added."""
        pattern = opened.float()
        return Trigger(torch.ones_like(pattern), pattern), float(torch.linalg.vector_norm(pattern))


FormName = Literal["patch", "additive"]
FORMS: Mapping[FormName, Form] = {"patch": Patch(), "additive": Additive()}
