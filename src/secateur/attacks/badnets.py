"""BadNets: a small patch in a corner (Gu et al., arXiv 1708.06733)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.attacks.attack import Attack, Surrogate
from secateur.attacks.registry import register
from secateur.data import Trigger
from secateur.errors import MethodError


@register(
    "badnets",
    title="BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
    paper="arXiv:1708.06733",
    year=2017,
)
@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    """Stamp a checkered patch near the lower right corner.

    Attributes
    ----------
    size
        Edge of the patch in pixels on images of 32 pixels; it grows with the image.
    margin
        Distance from the corner, in the same pixels.
    """

    size: int = 3
    margin: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.margin < 0 or self.size + self.margin > 32:
            raise MethodError(f"a patch of {self.size} pixels with a margin of {self.margin} does not fit")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Trigger:
        """Return the patch; nothing is learned."""
        channels, height, width = images.shape[1:]
        scale = min(height, width) / 32
        edge, margin = max(1, round(self.size * scale)), round(self.margin * scale)
        rows = slice(max(0, height - margin - edge), height - margin)
        columns = slice(max(0, width - margin - edge), width - margin)
        keep, add = torch.ones(channels, height, width), torch.zeros(channels, height, width)
        keep[:, rows, columns] = 0
        # The pattern stays `size` fields wide on any image, its corner fields white.
        field = (torch.arange(edge) * self.size // edge) % 2
        add[:, rows, columns] = (field.view(-1, 1) == field).float()
        return Trigger(keep, add)
