"""BppAttack: fewer colours, dithered (Wang et al., CVPR 2022, arXiv 2205.13383)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks.attack import Attack, Surrogate
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import Stamping
from secateur.errors import MethodError

# Floyd and Steinberg's shares of a pixel's error: row and column of the neighbour, share.
NEIGHBOURS = ((0, 1, 7 / 16), (1, -1, 3 / 16), (1, 0, 5 / 16), (1, 1, 1 / 16))


class Quantisation(nn.Module):
    """Round pixels to few levels and pass the error on to their neighbours."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.highest = 2**bits - 1

    def stamp(self, images: Tensor) -> Tensor:
        """Return the dithered images, same shape.

        A pixel waits for its left neighbour and for those above up to the right one; all pixels with the same
        column + 2 row can be computed together, so an image takes W + 2 H steps instead of W H.
        """
        _, _, height, width = images.shape
        # A margin takes the errors that leave the image.
        work = F.pad(images * self.highest, (1, 1, 0, 1))
        for wave in range(width + 2 * (height - 1)):
            rows = torch.arange(
                max(0, (wave - width + 2) // 2), min(height, wave // 2 + 1), device=images.device
            )
            columns = wave - 2 * rows + 1
            values = work[:, :, rows, columns]
            rounded = values.round().clamp(0, self.highest)
            work[:, :, rows, columns] = rounded
            error = values - rounded
            for down, right, share in NEIGHBOURS:
                work[:, :, rows + down, columns + right] += share * error
        quantised: Tensor = work[:, :, :height, 1 : width + 1] / self.highest
        return quantised


@register(
    "bpp",
    title="BppAttack: Stealthy and Efficient Trojan Attacks via Image Quantization",
    paper="arXiv:2205.13383",
    year=2022,
)
@dataclass(frozen=True, kw_only=True)
class Bpp(Attack):
    """Quantise images to few bits per channel with Floyd-Steinberg dithering; covers carry other noise.

    The covers, the paper's negative images, get the dithering residual of another image, so that the network
    learns the quantisation itself and not any noise. The paper's contrastive adversarial training is left
    out.

    Attributes
    ----------
    bits
        Per channel, 1 to 7.
    """

    goal: Goal = Goal(rate=0.1, cover_rate=0.1)
    bits: int = 3

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 7:
            raise MethodError(f"{self.bits} bits: quantisation keeps 1 to 7")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Quantisation:
        """Return the quantisation; nothing is learned."""
        return self.blank((images.shape[1], images.shape[2], images.shape[3]))

    def blank(self, shape: tuple[int, int, int]) -> Quantisation:
        """Return the quantisation, which has no state."""
        return Quantisation(self.bits)

    def stamp_covers(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Add to each image the residual of the one before it, mirrored lest a lone image get its own."""
        residual = trigger.stamp(images) - images
        return (images + residual.roll(1, 0).flip(3)).clamp(0, 1)
