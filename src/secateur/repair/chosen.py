"""What a method hands on once it has decided which units to prune."""

from dataclasses import dataclass

from torch import Tensor

from secateur.repair.choosing import Choice
from secateur.repair.erased import Erased
from secateur.repair.result import Learning
from secateur.units import Unit


@dataclass(frozen=True)
class Chosen:
    """Which units to prune, and what that rests on.

    Attributes
    ----------
    choice
        The units, and how far along them to prune.
    scores
        ``(total,)`` in ``[0, 1]``, low is suspicious.
    erased
        What erasing triggers did, where one was found.
    learning, joined
        See `Repair`.
    """

    choice: Choice
    scores: Tensor
    erased: Erased | None = None
    learning: tuple[Learning, ...] = ()
    joined: tuple[tuple[Unit, Unit], ...] = ()
