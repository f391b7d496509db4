"""What an inverted trigger may do to an image."""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from secateur.data import Trigger

Kind = Literal["patch", "additive"]
OPAQUE = 2.0
"""Masks start nearly opaque, so that no pixel stays below the threshold of a unit that waits for it."""
OUTLINE = 0.5
"""What a step of the mask from one pixel to the next counts, against a pixel that is covered."""
FAINT = 0.01
"""Standard deviation of an additive pattern's start: at zero its norm has no gradient."""


class Form(Protocol):
    """A family of triggers that gradients can search; `R` of them are held together.

    Attributes
    ----------
    kind
        What its triggers are.
    """

    kind: Kind

    def planes(self, channels: int) -> int:
        """Return how many planes of the image's size describe a trigger."""
        ...

    def start(self, noise: Tensor) -> Tensor:
        """Return where to start, from standard normal `noise` ``(R, planes, H, W)``."""
        ...

    def opened(self, raw: Tensor) -> Tensor:
        """Return the triggers that unbounded values ``(R, planes, H, W)`` stand for; differentiable."""
        ...

    def stamped(self, opened: Tensor, images: Tensor) -> Tensor:
        """Return images ``(R, N, C, H, W)`` in ``[0, 1]``, each row with its trigger; differentiable."""
        ...

    def sizes(self, opened: Tensor) -> Tensor:
        """Return what is minimised, ``(R,)``; differentiable."""
        ...

    def trigger(self, opened: Tensor) -> tuple[Trigger, float]:
        """Return one trigger ``(planes, H, W)`` as data, and its size."""
        ...


class Patch:
    """A mask ``m`` and a pattern ``p``, both in ``[0, 1]``: ``x' = (1 - m) * x + m * p``.

    Its size is the sum of the mask over all pixels, in ``[0, H * W]`` (Neural Cleanse, equations 2 and 3).
    """

    kind: Kind = "patch"

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

    def stamped(self, opened: Tensor, images: Tensor) -> Tensor:
        """Lay the pattern over the images."""
        mask, pattern = opened[:, None, :1], opened[:, None, 1:]
        return (1 - mask) * images + mask * pattern

    def sizes(self, opened: Tensor) -> Tensor:
        """Return the sums of the masks."""
        return opened[:, 0].sum((1, 2))

    def trigger(self, opened: Tensor) -> tuple[Trigger, float]:
        """Return mask and pattern as what is kept and what is added."""
        mask, pattern = opened[:1].float(), opened[1:].float()
        return Trigger((1 - mask).expand_as(pattern).contiguous(), mask * pattern), float(mask.sum())


class Compact(Patch):
    """A patch in one piece: while it is searched, the outline of its mask counts as well as its pixels.

    The smallest patch is a few scattered pixels of the planted one; people plant patches in one piece. The
    outline is the mask's total variation (TABOR, Guo et al., arXiv 1908.01763). It makes a patch more like
    the planted one, and sizes harder to compare: how small a patch can be is asked of `Patch`.
    """

    def sizes(self, opened: Tensor) -> Tensor:
        """Return the sums of the masks, and of their steps."""
        mask = opened[:, 0]
        outline = mask.diff(dim=1).abs().sum((1, 2)) + mask.diff(dim=2).abs().sum((1, 2))
        return super().sizes(opened) + OUTLINE * outline


class Additive:
    """A pattern that is added to every pixel: ``x' = clip(x + d, 0, 1)``.

    Its size is the Euclidean norm of ``d``, pixels in ``[0, 1]``. It stands for triggers that cover the
    image: blended, periodic or faint ones.
    """

    kind: Kind = "additive"

    def planes(self, channels: int) -> int:
        """Return the pattern's."""
        return channels

    def start(self, noise: Tensor) -> Tensor:
        """Return faint noise."""
        return FAINT * noise

    def opened(self, raw: Tensor) -> Tensor:
        """Return the pattern as it is."""
        return raw

    def stamped(self, opened: Tensor, images: Tensor) -> Tensor:
        """Add the pattern to the images."""
        return (images + opened[:, None]).clamp(0, 1)

    def sizes(self, opened: Tensor) -> Tensor:
        """Return the norms of the patterns."""
        norms: Tensor = torch.linalg.vector_norm(opened.flatten(1), dim=1)
        return norms

    def trigger(self, opened: Tensor) -> tuple[Trigger, float]:
        """Return the pattern as what is added."""
        pattern = opened.float()
        return Trigger(torch.ones_like(pattern), pattern), float(torch.linalg.vector_norm(pattern))


FormName = Literal["patch", "compact", "additive"]
FORMS: Mapping[FormName, Form] = {"patch": Patch(), "compact": Compact(), "additive": Additive()}
