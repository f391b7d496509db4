"""What an attacker wants: whose images become which label, and how many training images are spent on it."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secateur.data import SPARED
from secateur.errors import MethodError

Mapping = Literal["all-to-one", "all-to-all", "source-specific"]
MAPPINGS: tuple[Mapping, ...] = ("all-to-one", "all-to-all", "source-specific")


@dataclass(frozen=True)
class Goal:
    """The part of an attack that does not depend on its trigger.

    Attributes
    ----------
    target
        The label that triggered images should get; not used by ``all-to-all``.
    mapping
        ``all-to-one``: images of every other class become `target`. ``all-to-all``: images of class i become
        class i + 1, the last one 0 (BadNets, Gu et al., arXiv 1708.06733). ``source-specific``: only images
        of `sources` become `target`; triggered images of other classes keep their label.
    sources
        Classes that a source-specific attack is about.
    rate
        Poisoned share of all training images, in ``(0, 1]``; where fewer are eligible, all of them. Attacks
        on training itself poison this share of every batch.
    cover_rate
        Share of all training images that carry the trigger and keep their label, in ``[0, 1)``: they make
        the backdoor harder to find. A source-specific attack needs some, of other classes than its sources.
    clean_label
        Poison images that have the target label already, so that no label is wrong.

    Raises
    ------
    MethodError
        A value is out of range or contradicts another.
    """

    target: int = 0
    mapping: Mapping = "all-to-one"
    sources: tuple[int, ...] = ()
    rate: float = 0.1
    cover_rate: float = 0.0
    clean_label: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(sorted(set(self.sources))))
        if self.mapping not in MAPPINGS:
            raise MethodError(f"mapping {self.mapping!r} must be one of {', '.join(MAPPINGS)}")
        if self.target < 0 or any(source < 0 for source in self.sources):
            raise MethodError("target and sources are classes, counted from 0")
        if not (0 < self.rate <= 1 and 0 <= self.cover_rate < 1 and self.rate + self.cover_rate <= 1):
            raise MethodError(
                f"rate {self.rate} and cover_rate {self.cover_rate} must be shares of one whole"
            )
        if bool(self.sources) != (self.mapping == "source-specific"):
            raise MethodError("sources belong to the mapping source-specific, which needs at least one")
        if self.target in self.sources:
            raise MethodError(f"the target {self.target} cannot be one of its sources")
        if self.clean_label and self.mapping != "all-to-one":
            raise MethodError(f"clean labels teach one target only: they cannot be {self.mapping}")

    def wanted(self, classes: int) -> Tensor:
        """Return the label that triggered images of each class should get, ``(classes,)``, int64.

        `SPARED` marks a class that is not attacked.

        Raises
        ------
        MethodError
            The target or a source is not one of the classes.
        """
        highest = max((self.target, *self.sources))
        if highest >= classes:
            raise MethodError(f"class {highest} does not exist: the classes are 0 to {classes - 1}")
        if self.mapping == "all-to-all":
            return (torch.arange(classes) + 1) % classes
        wanted = torch.full((classes,), self.target)
        spared = torch.ones(classes, dtype=torch.bool)
        spared[list(self.sources) or slice(None)] = False
        spared[self.target] = True
        return wanted.masked_fill(spared, SPARED)

    def choose(self, labels: Tensor, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the images to poison and the covers.

        Parameters
        ----------
        labels
            ``(N,)``, int64.

        Returns
        -------
        tuple
            Disjoint ascending indices: of poisoned images, and of covers.
        """
        attacked = self.wanted(classes)[labels] != SPARED
        eligible = labels == self.target if self.clean_label else attacked
        poisoned = _draw(eligible, _count(self.rate, len(labels), generator), generator)
        honest = ~attacked & (labels != self.target) if self.mapping == "source-specific" else attacked
        honest = honest.index_fill(0, poisoned, False)
        return poisoned, _draw(honest, _count(self.cover_rate, len(labels), generator), generator)


def _count(share: float, total: int, generator: torch.Generator) -> int:
    """Return how many a share of `total` is; chance decides on a fraction, so that small batches add up."""
    exact = round(share * total, 6)
    fraction = exact - math.floor(exact)
    chance = float(torch.rand((), generator=generator)) if fraction else 1.0
    return math.floor(exact) + (chance < fraction)


def _draw(eligible: Tensor, count: int, generator: torch.Generator) -> Tensor:
    members = eligible.nonzero().flatten()
    return members[torch.randperm(len(members), generator=generator)[:count]].sort().values
