"""What erasing came to, and what may improve on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from secateur.expose import Found, Successors
from secateur.repair.choosing import Choice
from secateur.repair.trials import Trials


class Improving(Protocol):
    """Finds a better choice of units than the one that erasing came to."""

    def __call__(
        self, trials: Trials, held: Callable[[], Trials], kept: Sequence[int], carried: Tensor, *, most: int
    ) -> Sequence[Sequence[int]]:
        """Return choices of units to take out, the best first.

        Parameters
        ----------
        trials, held
            Measure choices against all triggers so far, on learning and, once they are needed, on held-out
            images.
        kept
            Units taken out so far, in order, that can be paid.
        carried
            ``(total,)``, the largest share of a trigger's margin that each unit carried, to first order.
        most
            Units that may be taken out.
        """


@dataclass(frozen=True)
class Erased:
    """What erasing did.

    Attributes
    ----------
    choice
        The units, in order, and how far along them to prune.
    carried
        ``(total,)``, the largest share of a trigger's margin that each unit carried when it was looked at, to
        first order.
    triggers
        The trigger found, and the smallest of each look for others.
    defeated
        Every trigger that units were taken out for.
    doubtful
        Those that were doubtful once none was cheap: to take out units for them costs more than they may be
        worth.
    successors
        What looked for others.
    settled
        Whether its last look was at the network without the units chosen, and found none that is cheap.
    """

    choice: Choice
    carried: Tensor
    triggers: tuple[Found, ...]
    defeated: tuple[Found, ...]
    doubtful: tuple[Found, ...]
    successors: Successors
    settled: bool

    @property
    def scores(self) -> Tensor:
        """``(total,)`` in ``[0, 1]``: what of a trigger's margin each unit did not carry."""
        return (1 - self.carried.clamp(0, 1)).cpu()
