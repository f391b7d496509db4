"""Clean data: all that a repair may see besides the network."""

from dataclasses import dataclass

import torch

from secateur.data.convention import InputConvention
from secateur.data.images import LabelledImages


@dataclass(frozen=True)
class CleanData:
    """Trusted images, split into what a method learns from and what only chooses the threshold.

    Attributes
    ----------
    learn, choose
        Disjoint. Nothing that is judged by `choose` was fitted to it.
    convention
        How the images become network input.
    class_names
        In label order, where the source names them.
    """

    learn: LabelledImages
    choose: LabelledImages
    convention: InputConvention
    class_names: tuple[str, ...] | None = None

    def together(self) -> LabelledImages:
        """Return all trusted images, those of `learn` first."""
        return LabelledImages(
            torch.cat([self.learn.images, self.choose.images]),
            torch.cat([self.learn.labels, self.choose.labels]),
        )
