"""Erasing a backdoor through the triggers that can be inverted from the network, one after the other.

Pruning until one inverted trigger fails is not enough: it often differs from the planted one, which still
works. So a trigger is inverted again on the pruned network, until that is no cheaper than for other labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import CleanData, Trigger
from secateur.errors import MethodError
from secateur.expose import Inversion, InvertedTrigger
from secateur.progress import Progress
from secateur.repair.choosing import Choice
from secateur.repair.result import CurvePoint
from secateur.statistics import Proportion, paired_loss
from secateur.units import Replay, UnitLayer, masked

UNITS_PER_GROUP = 1024
"""Of so many units in all, each group that is tried holds one."""
TRIED = 128
"""Units are tried on about so many clean and as many stamped images."""
DEFEATED = -2.0
"""Margin at which a stamped image counts as safe; to push it further is worth nothing."""
FREE = 0.002
"""Clean divergence, in nats, that costs as good as nothing; keeps the worth of a cheap unit finite."""


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
        The smallest one of each round; if the last is not cheap, that is why it ended.
    """

    choice: Choice
    scores: Tensor
    triggers: tuple[InvertedTrigger, ...]


@dataclass(frozen=True)
class Erasing:
    """Take out the units that carry inverted triggers at the least cost to clean answers.

    A trigger's strength is the mean margin of its label over the best other one, on stamped learning images
    and no less than `DEFEATED` for each. The cost is the divergence of the pruned network's answers from
    those of the network as it came on clean images, both softened by `temperature` (its accuracy on images
    that it was trained on would not tell). Of the groups of units with the steepest gradient of the strength
    in their masks, `candidates` are taken out for trial; the `taken` ones with the best ratio of what the
    strength falls by to what the cost rises by go, and the gradient is computed anew. Once the triggers fail,
    others are inverted on the pruned network, and so on, while one of them is as cheap as `cheap` times the
    typical one, for at most `rounds` rounds.

    Attributes
    ----------
    inversion
        How triggers are inverted again, for one label; on a pruned network they take more steps to become
        small.
    triggers
        Triggers in one round, from different starts. Each image is stamped with one of them: what they have
        in common is the backdoor.
    rounds
        At most so many.
    cheap
        A trigger inverted again is worth erasing if its norm is at most this part of the typical norm, in
        ``(0, 1]``.
    candidates, taken
        Groups that are tried, and taken out, with one gradient.
    success
        Triggers have failed once they succeed on no more than this share of stamped images, in ``[0, 1)``.
    temperature
        Above 0; the answers of a saturated network say more when it is above 1.
    share
        Of all units, how many may be pruned, in ``(0, 1]``.
    """

    inversion: Inversion = field(default_factory=lambda: Inversion(steps=200))
    triggers: int = 3
    rounds: int = 5
    cheap: float = 0.4
    candidates: int = 32
    taken: int = 2
    success: float = 0.03
    temperature: float = 2.0
    share: float = 0.2

    def __post_init__(self) -> None:
        if min(self.rounds, self.triggers, self.taken) < 1 or self.candidates < self.taken:
            raise MethodError(
                "erasing needs rounds, triggers and candidates, and takes no more than it tries"
            )
        if not (0 < self.temperature < math.inf and 0 <= self.success < 1):
            raise MethodError("erasing needs a finite temperature > 0 and 0 <= success < 1")
        if not (0 < self.share <= 1 and 0 < self.cheap <= 1):
            raise MethodError("erasing needs 0 < share <= 1 and 0 < cheap <= 1")

    def __call__(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        found: InvertedTrigger,
        clean: CleanData,
        *,
        typical: float,
        budget: float,
        shift: bool,
        generator: torch.Generator,
        progress: Progress,
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
        typical
            Norm of triggers for other labels.
        budget
            Loss of held-out accuracy that must not be exceeded for sure, in ``[0, 1]``.
        shift
            Whether a pruned norm loses its bias too.
        generator
            Decides how triggers are inverted again.
        progress
            Told about every step.
        """
        held = _HeldOut(network, layers, clean, shift)
        most = math.floor(self.share * held.total)
        flat = torch.ones(held.total, device=next(network.parameters()).device)
        carried = torch.zeros_like(flat)
        kept: list[int] = []
        curve, cheapest = [held.point(flat, 0)], [found]
        known: tuple[InvertedTrigger, ...] = (found,)
        for _ in range(self.rounds):
            with masked(network, layers, flat, shift=shift):
                known += self._invert(
                    network, clean, found.label, self.triggers - len(known), generator, progress
                )
            worth_erasing = [
                t.trigger for t in known if t.converged and (not kept or t.norm <= self.cheap * typical)
            ]
            if kept:
                cheapest.append(min(known, key=lambda t: (not t.converged, t.norm)))
            known = ()
            if not worth_erasing:
                break
            stage = _Stage(self, network, layers, clean, found.label, worth_erasing, flat, shift)
            progress.start("erasing", math.ceil(most / (self.taken * stage.group)))
            while stage.success > self.success:
                slopes = stage.slopes(flat)
                carried = torch.maximum(carried, slopes / max(stage.strength - DEFEATED, FREE))
                units = stage.best(flat, slopes)[: most - len(kept)]
                if not units:
                    break
                flat[units] = 0
                kept += units
                stage.settle(flat)
                curve.append(held.point(flat, len(kept)))
                progress.advance(pruned=len(kept), accuracy=curve[-1].accuracy.value, trigger=stage.success)
                if curve[-1].loss.low > budget:
                    break
            if stage.success > self.success:
                break
        within = [index for index, point in enumerate(curve) if point.loss.low <= budget]
        choice = Choice(tuple(kept), tuple(curve), within[-1], 0)
        return Erased(choice, (1 - carried.clamp(0, 1)).cpu(), tuple(cheapest))

    def _invert(
        self,
        network: nn.Module,
        clean: CleanData,
        label: int,
        count: int,
        generator: torch.Generator,
        progress: Progress,
    ) -> tuple[InvertedTrigger, ...]:
        found: tuple[InvertedTrigger, ...] = ()
        for _ in range(count):
            found += self.inversion(
                network,
                clean.learn,
                clean.choose,
                clean.convention,
                generator=generator,
                labels=[label],
                progress=progress,
            )
        return found


class _Stage:
    """Images, clean and stamped, on which units are tried."""

    def __init__(
        self,
        settings: Erasing,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        clean: CleanData,
        label: int,
        triggers: Sequence[Trigger],
        flat: Tensor,
        shift: bool,
    ) -> None:
        self._settings, self._network, self._layers = settings, network, layers
        self._label, self._shift = label, shift
        self.group = max(1, len(flat) // UNITS_PER_GROUP)
        images = clean.learn.images
        others = images[clean.learn.labels != label]
        every = max(1, len(images) // TRIED)
        self._count = len(images[::every])
        self._stamped = _batches(_in_turns(triggers, others), clean, flat.device)
        tried = [images[::every], _in_turns(triggers, others[::every])]
        inputs = [batch for part in tried for batch in _batches(part, clean, flat.device)]
        self._replay = Replay(network, layers, inputs, shift=shift)
        self._targets = self._soft(self._replay.outputs[: self._count])
        self.settle(flat)

    def settle(self, flat: Tensor) -> None:
        """Measure with these units, from which on single ones are tried."""
        outputs = self._replay.attempt(flat)
        self._replay.accept()
        self._cost, self.strength = self._measure(outputs)
        answers = outputs[self._count :].argmax(1)
        self.success = float((answers == self._label).double().mean())

    def slopes(self, flat: Tensor) -> Tensor:
        """Return the gradient of the strength in the masks of the units left, ``(total,)``, 0 for others."""
        masks = flat.clone().requires_grad_()
        total = torch.zeros_like(flat)
        with masked(self._network, self._layers, masks, shift=self._shift):
            for batch in self._stamped:
                total += torch.autograd.grad(self._margins(self._network(batch)).sum(), masks)[0]
        return flat * total / sum(len(batch) for batch in self._stamped)

    def best(self, flat: Tensor, slopes: Tensor) -> list[int]:
        """Return the units that weaken the triggers most for what they cost."""
        left = torch.where(flat > 0, slopes, -torch.inf)
        order = left.argsort(descending=True, stable=True)[: int(flat.sum())]
        trials = []
        for units in torch.split(order[: self._settings.candidates * self.group], self.group):
            trial = flat.clone()
            trial[units] = 0
            cost, strength = self._measure(self._replay.attempt(trial))
            if strength < self.strength:
                worth = (self.strength - strength) / (max(cost - self._cost, 0.0) + FREE)
                trials.append((worth, units.tolist()))
        trials.sort(key=lambda pair: pair[0], reverse=True)
        return [unit for _, units in trials[: self._settings.taken] for unit in units]

    def _measure(self, outputs: Tensor) -> tuple[float, float]:
        answers = (outputs[: self._count] / self._settings.temperature).log_softmax(1)
        cost = F.kl_div(answers, self._targets, reduction="batchmean")
        return float(cost), float(self._margins(outputs[self._count :]).mean())

    def _margins(self, outputs: Tensor) -> Tensor:
        label = torch.arange(outputs.shape[1], device=outputs.device) == self._label
        best_other = outputs.masked_fill(label, -torch.inf).max(1).values
        return (outputs[:, self._label] - best_other).clamp_min(DEFEATED)

    def _soft(self, outputs: Tensor) -> Tensor:
        return (outputs / self._settings.temperature).softmax(1)


class _HeldOut:
    """The images that decide how far to prune."""

    def __init__(
        self, network: nn.Module, layers: Sequence[UnitLayer], clean: CleanData, shift: bool
    ) -> None:
        device = next(network.parameters()).device
        batches = _batches(clean.choose.images, clean, device)
        self._replay = Replay(network, layers, batches, shift=shift)
        self._labels = clean.choose.labels
        self._before = self._correct(self._replay.outputs)
        self.total = sum(layer.count for layer in layers)

    def point(self, flat: Tensor, pruned: int) -> CurvePoint:
        correct = self._correct(self._replay.attempt(flat))
        self._replay.accept()
        return CurvePoint(pruned, Proportion.of(correct), paired_loss(self._before, correct))

    def _correct(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1).cpu() == self._labels


def _batches(images: Tensor, clean: CleanData, device: torch.device, size: int = 128) -> list[Tensor]:
    return [clean.convention.normalise(part.to(device)) for part in torch.split(images, size)]


def _in_turns(triggers: Sequence[Trigger], images: Tensor) -> Tensor:
    """Stamp each image with one of the triggers."""
    stamped = torch.empty_like(images)
    for start, trigger in enumerate(triggers):
        stamped[start :: len(triggers)] = trigger.stamp(images[start :: len(triggers)])
    return stamped
