"""Erasing a backdoor through the triggers that can be inverted from the network, one after the other.

Pruning until one inverted trigger fails is not enough: it often differs from the planted one, which still
works. So triggers are inverted again on the pruned network, until none is cheaper than for other labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose import Found, Succeeding, Successors
from secateur.progress import Progress
from secateur.repair.choosing import Choice, HeldOut
from secateur.repair.dominance import Dominance
from secateur.repair.trials import FREE, Trials
from secateur.units import UnitLayer, all_units, prune

UNITS_PER_GROUP = 1024
"""Of so many units in all, each group that is tried holds one."""


IMPROVEMENTS = 3
"""So often a better choice is looked for, each time with the triggers that the last one let through."""


class Improving(Protocol):
    """Finds a better choice of units than the one that erasing came to."""

    def __call__(
        self, trials: Trials, held: Trials, kept: Sequence[int], carried: Tensor, *, most: int
    ) -> list[int]:
        """Return the units to take out.

        Parameters
        ----------
        trials, held
            Measure choices against all triggers so far, on learning and on held-out images.
        kept
            Units taken out so far, in order.
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
    scores
        ``(total,)`` in ``[0, 1]``: 1 less the largest share of a trigger's margin that the unit carried when
        it was looked at, to first order.
    triggers
        The trigger found, and the smallest of each look for others.
    known
        Every trigger that units were taken out for.
    successors
        What looked for others.
    settled
        Whether its last look was at the network without the units chosen, and found none that is cheap.
    """

    choice: Choice
    scores: Tensor
    triggers: tuple[Found, ...]
    known: tuple[Found, ...]
    successors: Successors
    settled: bool


@dataclass(frozen=True)
class Erasing:
    """Take out the units that carry inverted triggers at the least cost to clean answers.

    A trigger's strength is what is left of the mean margin of its label (of the best that changes the answer,
    if it has none) over the best other one, on stamped learning images, see `Measured`. The cost is the
    divergence of the pruned network's answers from those of the network as it came on clean images, both
    softened by `temperature` (its accuracy on images that it was trained on would not tell). What each unit
    would change is computed first (see `Trials.expect`); `candidates` groups of those with the best ratio of
    what of the triggers goes to what that costs are taken out for trial. The `taken` ones with the best ratio
    of what the strength falls by to what the cost rises by go, and what to expect is computed anew. Where
    unlearning points to the same label, up to half of the images are shown to the unlearned network instead:
    it knows the planted trigger, of which those inverted are only likenesses. Once the triggers fail, or no
    unit weakens them any more, units are put back that cost far more than the others for the margin that they
    take away. Then others are inverted on the pruned network, and so on, while any is cheap and once if any
    is doubtful, for at most `rounds` rounds.

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
        if not 1 <= self.overrun < math.inf:
            raise MethodError(f"overrun {self.overrun} must be finite and at least 1")

    def __call__(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        found: Found,
        clean: CleanData,
        *,
        triggers: Sequence[Found],
        budget: float,
        shift: bool,
        generator: torch.Generator,
        progress: Progress,
        pointed: Dominance | None = None,
        improve: Improving | None = None,
    ) -> Erased:
        """Choose what to prune.

        Parameters
        ----------
        network
            Answers with logits, in evaluation mode, without gradients in its parameters; not changed.
        layers
            Its layers with units.
        found
            The first trigger and the suspect label.
        clean
            Units are chosen on ``clean.learn``; ``clean.choose`` decides when to stop.
        triggers
            What `found` was compared with; among them must be one for another label.
        budget
            Loss of held-out accuracy that must not be exceeded for sure, in ``[0, 1]``, but for `overrun`.
        shift
            Whether a pruned norm loses its bias too.
        generator
            Decides how triggers are inverted again.
        progress
            Told about every step.
        pointed
            What unlearning points to, if that is the label of `found`.
        improve
            Goes on from the units taken out once no other trigger is cheap, or nothing more can be done. What
            it finds is taken if no trigger that is inverted without these units is cheap; if one is, it goes
            on from the same units with that trigger, too, `IMPROVEMENTS` times in all.
        """
        held = HeldOut(network, layers, clean, shift=shift)
        units = list(all_units(layers))
        most = math.floor(self.share * held.total)
        group = max(1, held.total // UNITS_PER_GROUP)
        flat = torch.ones(held.total, device=next(network.parameters()).device)
        carried = torch.zeros_like(flat)
        kept: list[int] = []
        erased: list[Found] = []
        successors = Successors(
            self.succeeding,
            found,
            triggers,
            layers,
            clean,
            shift=shift,
            generator=generator,
            progress=progress,
        )
        tried_on = partial(
            Trials,
            network,
            layers,
            flat=flat,
            pointed=pointed,
            group=group,
            shift=shift,
            temperature=self.temperature,
        )

        def without(kept: Sequence[int]) -> nn.Module:
            return prune(network, layers, [units[unit] for unit in kept], shift=shift)

        settled = doubted = False
        for _ in range(self.rounds):
            if not kept:
                known = successors.beside(without(kept))
            elif doubted:
                known = successors.cheap(without(kept))
            else:
                known = successors.doubtful(without(kept))
                doubted = not any(map(successors.is_cheap, known))
            if not known:
                settled = True
                break
            before = set(kept)
            trials = tried_on(clean, known)
            progress.start("erasing", math.ceil(most / group))
            while trials.now.success > self.success:
                expected = trials.expect(flat, generator)
                carried = torch.maximum(carried, flat * expected.strength / max(trials.now.strength, FREE))
                taken = trials.best(flat, expected, candidates=self.candidates, taken=self.taken)
                taken = taken[: max(0, most - len(kept))]
                if not taken:
                    break
                flat[taken] = 0
                kept += taken
                trials.settle(flat)
                point = held.point(flat, len(kept))
                progress.advance(pruned=len(kept), accuracy=point.accuracy.value, trigger=trials.now.success)
                if point.loss.low > self.overrun * budget:
                    break
            erased += known
            if len(erased) > len(known):
                trials = tried_on(clean, erased)
            needless = trials.needless(flat, kept, success=self.success)
            flat[needless] = 1
            kept = [unit for unit in kept if unit not in needless]
            if set(kept) == before or held.point(flat, len(kept)).loss.low > self.overrun * budget:
                break
        for _ in range(IMPROVEMENTS if improve else 0):
            assert improve
            trials, held_out = (
                tried_on(images, erased) for images in (clean, replace(clean, learn=clean.choose))
            )
            better = improve(trials, held_out, kept, carried, most=most)
            if set(better) == set(kept):
                break
            known = successors.cheap(without(better))
            settled = not known
            if settled:
                kept = better
                break
            erased += known
        curve = held.curve(kept, self.taken * group)
        choice = Choice.within(budget, kept, curve, whole=self.overrun * budget)
        return Erased(
            choice,
            (1 - carried.clamp(0, 1)).cpu(),
            (found, *successors.seen),
            tuple(erased),
            successors,
            settled and choice.pruned == choice.kept,
        )
