"""What stands in for a trigger where none stands out."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Dominance:
    """What unlearning points to, in place of a trigger: the unlearned network gives a label to most images.

    Attributes
    ----------
    label
        That dominates.
    unlearned
        The network after unlearning its clean task.
    """

    label: int
    unlearned: nn.Module

    def present(self, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
        """Return the unlearned network, and the images as they are."""
        return self.unlearned, images
