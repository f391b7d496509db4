"""Proportions and what they are uncertain by."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

LEVEL = 0.95


@dataclass(frozen=True)
class Proportion:
    """A count out of a total.

    Attributes
    ----------
    hits, total
        ``0 <= hits <= total``.
    """

    hits: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.total:
            raise ValueError(f"{self.hits} of {self.total} is not a proportion")

    @property
    def value(self) -> float:
        """The share in ``[0, 1]``; NaN when the total is 0."""
        return self.hits / self.total if self.total else math.nan

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the Wilson score interval (Wilson 1927); ``(0, 1)`` when the total is 0."""
        if not self.total:
            return 0.0, 1.0
        z = NormalDist().inv_cdf(0.5 + level / 2)
        n, p = self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return (
            0.0 if self.hits == 0 else max(0.0, centre - half),
            1.0 if self.hits == n else min(1.0, centre + half),
        )

    @classmethod
    def of(cls, flags: Tensor) -> "Proportion":
        """Count the true values of a boolean tensor."""
        return cls(int(flags.sum()), flags.numel())


@dataclass(frozen=True)
class PairedLoss:
    """How much a proportion fell between two answers to the same questions; negative when it rose.

    Attributes
    ----------
    value
        The fall, in ``[-1, 1]``.
    low, high
        The interval around it.
    """

    value: float
    low: float
    high: float


def paired_loss(before: Tensor, after: Tensor, level: float = LEVEL) -> PairedLoss:
    """Return the loss from `before` to `after` and its interval.

    The adjusted Wald interval for paired proportions (Agresti and Min, Statistics in Medicine 24, 2005):
    half an observation is added to each cell of the two-by-two table.

    Parameters
    ----------
    before, after
        Boolean, ``(N,)``, the same questions in the same order.
    """
    if before.shape != after.shape:
        raise ValueError(f"{tuple(before.shape)} and {tuple(after.shape)} are not pairs")
    n = before.numel()
    if not n:
        return PairedLoss(math.nan, -1.0, 1.0)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    adjusted_lost, adjusted_gained, size = lost + 0.5, gained + 0.5, n + 2
    centre = (adjusted_lost - adjusted_gained) / size
    variance = adjusted_lost + adjusted_gained - (adjusted_lost - adjusted_gained) ** 2 / size
    half = NormalDist().inv_cdf(0.5 + level / 2) * math.sqrt(variance) / size
    return PairedLoss((lost - gained) / n, max(-1.0, centre - half), min(1.0, centre + half))
