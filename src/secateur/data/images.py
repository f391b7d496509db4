"""Images with labels, held in memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import DataError


@dataclass(frozen=True)
class LabelledImages:
    """A handful of images and their classes.

    Attributes
    ----------
    images
        ``(N, C, H, W)``, float32 in ``[0, 1]``.
    labels
        ``(N,)``, int64.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.ndim != 1 or len(self.images) != len(self.labels):
            raise DataError(
                f"images of shape {tuple(self.images.shape)} and labels of shape {tuple(self.labels.shape)} "
                "do not go together: (N, C, H, W) and (N,) are needed"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "LabelledImages":
        """Return the images at `indices` (int64 or a boolean mask)."""
        return LabelledImages(self.images[indices], self.labels[indices])

    def batches(
        self, size: int, *, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `(images, labels)` of at most `size`, in order, or shuffled by `generator` if given."""
        order = (
            torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        )
        for chosen in torch.split(order, size):
            yield self.images[chosen], self.labels[chosen]
