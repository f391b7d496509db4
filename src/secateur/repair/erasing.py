"""Erasing a backdoor through the triggers that can be inverted from the network, one after the other.

Pruning until one inverted trigger fails is not enough: it often differs from the planted one, which still
works. So triggers are inverted again on the pruned network, until none is cheaper than for other labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose import Case, Found, Succeeding, Successors
from secateur.repair.choosing import Choice, HeldOut
from secateur.repair.dominance import Dominance
from secateur.repair.erased import Erased, Improving
from secateur.repair.measured import Shown
from secateur.repair.trials import FREE, Trials
from secateur.units import UnitLayer, all_units, prune

UNITS_PER_GROUP = 1024
"""Of so many units in all, each group that is tried holds one."""
WORKING = 0.25
"""While a trigger works, a unit may cost four times as much."""
IMPROVEMENTS = 3
"""So often a better choice is looked for, each time with the triggers that the last one let through."""


@dataclass(frozen=True)
class Erasing:
    """Take out the units that carry inverted triggers at the least cost to clean answers.

    A trigger's strength is what is left of the mean margin of its label (of the best that changes the
    answer, if it has none) over the best other one, on stamped learning images, see `Measured`. The cost
    is the divergence of the pruned network's answers from those of the network as it came on clean images
    that are mixed with each other, both softened by `temperature` (images that it was trained on would
    not tell). What each unit would change is computed first (see `Trials.expect`); `candidates` groups of
    those with the best ratio of what of the triggers goes to what that costs are taken out for trial. The
    `taken` ones with the best ratio of what the strength falls by to what the cost rises by go, if worth
    it, and what to expect is computed anew. Where unlearning points to the same label, up to half of the
    images are shown to the unlearned network instead: it knows the planted trigger, of which those
    inverted are only likenesses. Once the triggers fail, units must be worth more (`price`), but go on:
    the planted trigger may be stronger. Then units are put back that are not worth it now that the others
    are out. Others are inverted on the pruned network, and so on, while any is cheap, for at most
    `rounds` rounds.

    Attributes
    ----------
    succeeding
        How other triggers are inverted, and which are small enough to be worth a round. Each image is stamped
        with one of them: what they have in common is the backdoor.
    rounds
        At most so many.
    candidates, taken
        Groups that are tried, and taken out, with one look at what to expect.
    success
        Triggers have failed once they succeed on no more than this share of stamped images, in ``[0, 1)``.
    price
        Units go only for so much of the strength per nat of the cost once they have, and for `WORKING` of
        that before: the last of a trigger that is hardly one can cost more than all the rest. Not negative.
    temperature
        Above 0; the answers of a saturated network say more when it is above 1.
    share
        Of all units, how many may be pruned, in ``(0, 1]``.
    overrun
        All units that carry the triggers are pruned as long as the loss is not shown to exceed so many times
        the budget, at least 1: without the last few a backdoor often still works, and a loss on images that
        the network was trained on is larger than on others.
    """

    succeeding: Succeeding = field(default_factory=Succeeding)
    rounds: int = 5
    candidates: int = 16
    taken: int = 2
    success: float = 0.01
    price: float = 2.0
    temperature: float = 2.0
    share: float = 0.2
    overrun: float = 2.0

    def __post_init__(self) -> None:
        if min(self.rounds, self.taken) < 1 or self.candidates < self.taken:
            raise MethodError("erasing needs rounds and candidates, and takes no more than it tries")
        if not (0 < self.temperature < math.inf and 0 <= self.success < 1):
            raise MethodError("erasing needs a finite temperature > 0 and 0 <= success < 1")
        if not 0 < self.share <= 1:
            raise MethodError(f"share {self.share} must be above 0 and at most 1")
        if not 0 <= self.price < math.inf:
            raise MethodError(f"price {self.price} must be finite and not negative")
        if not 1 <= self.overrun < math.inf:
            raise MethodError(f"overrun {self.overrun} must be finite and at least 1")

    def __call__(
        self,
        case: Case,
        found: Found,
        *,
        triggers: Sequence[Found],
        budget: float,
        shift: bool,
        pointed: Dominance | None = None,
    ) -> Erased:
        """Choose what to prune.

        Parameters
        ----------
        case
            The network, answering with logits, and its clean images: units are chosen on ``clean.learn``;
            ``clean.choose`` decides when to stop.
        found
            The first trigger and the suspect label.
        triggers
            What `found` was compared with; among them must be one for another label.
        budget
            Loss of held-out accuracy that must not be exceeded for sure, in ``[0, 1]``, but for `overrun`.
        shift
            Whether a pruned norm loses its bias too.
        pointed
            What unlearning points to, if that is the label of `found`.
        """
        successors = Successors(self.succeeding, case, found, triggers, shift=shift)
        run = _Run(self, case, successors, budget=budget, shift=shift, pointed=pointed)
        run.erase()
        return run.erased(found)

    def taken_over(
        self,
        case: Case,
        found: Found,
        kept: Sequence[int],
        *,
        triggers: Sequence[Found],
        budget: float,
        shift: bool,
    ) -> Erased:
        """Take over units that were taken out for a trigger in another way, be they more than may be.

        Parameters
        ----------
        kept
            The units, in order.
        case, found, triggers, budget, shift
            As above.
        """
        successors = Successors(self.succeeding, case, found, triggers, shift=shift)
        run = _Run(self, case, successors, budget=budget, shift=shift, pointed=None)
        run.take_over(kept, found)
        return run.erased(found)

    def improved(
        self,
        case: Case,
        erased: Erased,
        improve: Improving,
        *,
        budget: float,
        shift: bool,
        pointed: Dominance | None = None,
    ) -> Erased:
        """Go on from the units that can be paid, once no other trigger is cheap or nothing more can be done.

        A choice is taken if no trigger that is inverted without its units is cheap; if one is, the search
        goes on from the same units with that trigger, too, `IMPROVEMENTS` times in all.

        Parameters
        ----------
        erased
            What erasing came to; stays as it is.
        improve
            Finds better choices.
        case, budget, shift, pointed
            As above.
        """
        successors = erased.successors.apart(case)
        run = _Run(self, case, successors, budget=budget, shift=shift, pointed=pointed)
        run.resume(erased)
        run.improve(improve)
        return run.erased(erased.triggers[0])

    def trials(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        clean: CleanData,
        triggers: Sequence[Shown],
        *,
        pointed: Dominance | None = None,
        shift: bool,
    ) -> Trials:
        """Return what groups of units are tried on; see `Trials`."""
        return Trials(
            network,
            layers,
            clean,
            triggers,
            pointed=pointed,
            group=_group(layers),
            shift=shift,
            temperature=self.temperature,
        )


class _Run:
    """Erasing on one network.

    It keeps the units taken out so far (``kept``), the triggers they were taken out for (``defeated``),
    whether the last look for others was at the network without them and found none cheap (``settled``), and
    what was doubtful where none was cheap (``doubtful``).
    """

    def __init__(
        self,
        settings: Erasing,
        case: Case,
        successors: Successors,
        *,
        budget: float,
        shift: bool,
        pointed: Dominance | None,
    ) -> None:
        self._settings, self._case, self._successors = settings, case, successors
        self._layers, self._shift, self._pointed = case.discovery.layers, shift, pointed
        self._held = HeldOut(case.network, self._layers, case.clean, shift=shift)
        self._most = math.floor(settings.share * self._held.total)
        self._budget, self._limit = budget, settings.overrun * budget
        self._flat = torch.ones(self._held.total, device=case.example.device)
        self._carried = torch.zeros_like(self._flat)
        self._kept: list[int] = []
        self._defeated: list[Found] = []
        self._doubtful: list[Found] = []
        self._settled = False

    def take_over(self, kept: Sequence[int], found: Found) -> None:
        """Begin with units that were taken out for a trigger."""
        self._carried = self._trials([found]).slopes(self._flat)[0]
        self._kept, self._defeated = list(kept), [found]

    def resume(self, erased: Erased) -> None:
        """Begin where another run ended."""
        self._carried, self._kept = erased.carried, list(erased.choice.kept)
        self._defeated, self._doubtful = list(erased.defeated), list(erased.doubtful)
        self._settled = erased.settled
        self._most = max(self._most, len(self._kept))

    def erase(self) -> None:
        """Take out one trigger after the other while any is cheap."""
        for _ in range(self._settings.rounds):
            known = self._look(self._kept) if self._kept else self._successors.beside(self._case.network)
            if not known:
                self._settled, self._doubtful = True, self._successors.doubtful
                break
            before = set(self._kept)
            trials = self._trials(known)
            self._take_out(trials)
            self._defeated += known
            self._put_back(trials if len(self._defeated) == len(known) else self._trials(self._defeated))
            if set(self._kept) == before or not self._affords(self._kept):
                break

    def improve(self, improve: Improving) -> None:
        """Look for a better choice that can be paid and lets no trigger through."""
        # What would be pruned else, not what was taken out: that may be more than can be paid, and no
        # choice that costs as much is better.
        start = self._choice().pruned
        elsewhere = replace(self._case.clean, learn=self._case.clean.choose)
        for _ in range(IMPROVEMENTS):
            choices = improve(
                self._trials(self._defeated),
                partial(self._trials, self._defeated, elsewhere),
                start,
                self._carried,
                most=self._most,
            )
            better = next(filter(self._affords, choices), start)
            if set(better) == set(start):
                break
            known = self._look(better)
            if not known:
                self._kept, self._settled = list(better), True
                self._doubtful += self._successors.doubtful
                break
            self._settled = False
            self._defeated += known

    def erased(self, found: Found) -> Erased:
        """Return what was done, from the first trigger on."""
        choice = self._choice()
        return Erased(
            choice,
            self._carried,
            (found, *(look.smallest for look in self._successors.looks)),
            tuple(self._defeated),
            tuple(self._doubtful),
            self._successors,
            self._settled and choice.pruned == choice.kept,
        )

    def _choice(self) -> Choice:
        curve = self._held.curve(self._kept, self._settings.taken * _group(self._layers))
        return Choice.within(self._budget, self._kept, curve, whole=self._limit)

    def _take_out(self, trials: Trials) -> None:
        """Take out units until the triggers fail, or none weakens them, or no more may be spent."""
        settings, flat, progress = self._settings, self._flat, self._case.progress
        trials.settle(flat)
        progress.start("erasing", math.ceil(self._most / _group(self._layers)))
        while len(self._kept) < self._most:
            price = settings.price * (WORKING if trials.now.success > settings.success else 1)
            expected = trials.expect(flat, self._case.generator)
            share = flat * expected.strength / max(trials.now.strength, FREE)
            self._carried = torch.maximum(self._carried, share)
            taken = trials.best(
                flat, expected, candidates=settings.candidates, taken=settings.taken, price=price
            )
            taken = taken[: self._most - len(self._kept)]
            if not taken:
                break
            flat[taken] = 0
            self._kept += taken
            trials.settle(flat)
            point = self._held.point(flat, len(self._kept))
            progress.advance(
                pruned=len(self._kept), accuracy=point.accuracy.value, trigger=trials.now.success
            )
            if point.loss.low > self._limit:
                break

    def _put_back(self, trials: Trials) -> None:
        """Put back the units that are not worth what they cost."""
        trials.settle(self._flat)
        needless = trials.needless(
            self._flat, self._kept, success=self._settings.success, price=self._settings.price
        )
        self._flat[needless] = 1
        self._kept = [unit for unit in self._kept if unit not in needless]

    def _affords(self, kept: Sequence[int]) -> bool:
        """Say whether the loss without these units is not shown to exceed the limit."""
        flat = torch.ones_like(self._flat)
        flat[list(kept)] = 0
        return self._held.point(flat, len(kept)).loss.low <= self._limit

    def _trials(self, triggers: Sequence[Found], clean: CleanData | None = None) -> Trials:
        return self._settings.trials(
            self._case.network,
            self._layers,
            clean or self._case.clean,
            triggers,
            pointed=self._pointed,
            shift=self._shift,
        )

    def _look(self, kept: Sequence[int]) -> list[Found]:
        """Return triggers that are cheap without some units."""
        units = list(all_units(self._layers))
        without = prune(self._case.network, self._layers, [units[unit] for unit in kept], shift=self._shift)
        return self._successors.cheap(without, pruned=len(kept))


def _group(layers: Sequence[UnitLayer]) -> int:
    """Return how many units are tried together."""
    return max(1, sum(layer.count for layer in layers) // UNITS_PER_GROUP)
