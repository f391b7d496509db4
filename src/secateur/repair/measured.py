"""What trying groups of units is about: what is shown, and what a trial, a look and a comparison come to."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Measured:
    """What a trial came to.

    Attributes
    ----------
    cost
        Divergence of the answers to clean images, each mixed with another, from those of the network as it
        came, in nats. On images that it was trained on, as clean ones often are, it is so sure that units
        cost little which new images need; what lies between two images is new to it.
    agreement
        Share of these images that are answered as by the network as it came; nothing is decided by it.
    strength
        What is left of the margins: 1 with all units, 0 with every image safe. An image is safe at the margin
        that clean ones have on average, with all units: a planted trigger can be stronger than those inverted
        are, which only just work. Beyond it nothing counts. Margins of triggers count in parts of their
        mean with all units, and those of what unlearning points to in parts of theirs: an unlearned network
        can be far surer than any trigger makes the network.
    success
        Share of stamped images on which a trigger succeeds; what unlearning points to does not count.
    risk
        The same in expectation, for images like these: the mean logistic of their margins, 1 with all units.
        Success says the same of a few images alone, and a search would fit these.
    """

    cost: float
    agreement: float
    strength: float
    success: float
    risk: float

    @property
    def left(self) -> float:
        """What is left of the triggers, 1 with all units.

        The strength falls with every unit that matters, long before any image is safe; once it is low, what
        is left of it says less of the backdoor than the images on which a trigger may still succeed.
        """
        return (self.strength + self.risk) / 2


@dataclass(frozen=True)
class Expected:
    """What changing the mask of a single unit would do, near some masks; ``(total,)`` each.

    Attributes
    ----------
    strength, risk
        Gradients of what is left of the triggers, see `Measured`.
    cost
        Gradient of the cost.
    curvature
        Second derivative of the cost.
    """

    strength: Tensor
    risk: Tensor
    cost: Tensor
    curvature: Tensor

    @property
    def left(self) -> Tensor:
        """Gradient of what is left of the triggers."""
        return (self.strength + self.risk) / 2


@dataclass(frozen=True)
class Compared:
    """A choice of units and by how much it is better than another.

    Attributes
    ----------
    measured
        What it came to.
    gain
        What is less left of the triggers, and what it costs less at the price of a nat.
    error
        Standard error of the gain, infinite where too few images tell it.
    """

    measured: Measured
    gain: float
    error: float


class Shown(Protocol):
    """What makes a network answer with a label, as a trigger does."""

    @property
    def label(self) -> int | None:
        """The answer; None for any but the network's own."""
        ...

    def present(self, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
        """Return a network and images, ``(N, C, H, W)`` in ``[0, 1]``, on which it is at work."""
        ...
