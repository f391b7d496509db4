"""Erasing a backdoor through the triggers that can be inverted from the network, one after the other.

Pruning until one inverted trigger fails is not enough: it often differs from the planted one, which still
works. So a trigger is inverted again on the pruned network, until that is no cheaper than for other labels.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose import (
    CHANGING,
    Found,
    Inversion,
    LatentInversion,
    LatentTrigger,
    answers_without,
    of_others,
    typical_norm,
    wanted_classes,
)
from secateur.progress import Progress
from secateur.repair.choosing import Choice
from secateur.repair.result import CurvePoint
from secateur.statistics import Proportion, paired_loss
from secateur.units import Replay, UnitLayer, all_units, masked, prune

UNITS_PER_GROUP = 1024
"""Of so many units in all, each group that is tried holds one."""
MEMORY = 1 << 30
"""Bytes for the activations of images that units are tried on."""
BATCH = 128
"""Images per forward pass."""
TRIED = 128
"""Units are tried on about so many clean and as many stamped images."""
DEFEATED = -2.0
"""Margin at which a stamped image counts as safe; to push it further is worth nothing."""
FREE = 0.002
"""Clean divergence, in nats, that costs as good as nothing; keeps the worth of a cheap unit finite."""
NEEDLESS = 10.0
"""Units are put back that cost so many times as much as all do on average, for the same margin."""


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
    triggers: tuple[Found, ...]


@dataclass(frozen=True)
class Erasing:
    """Take out the units that carry inverted triggers at the least cost to clean answers.

    A trigger's strength is the mean margin of its label (of the best that changes the answer, if it has none)
    over the best other one, on stamped learning images and no less than `DEFEATED` for each. The cost is the
    divergence of the pruned network's answers from those of the network as it came on clean images, both
    softened by `temperature` (its accuracy on images that it was trained on would not tell). Of the groups of
    units with the steepest gradient of the strength in their masks, `candidates` are taken out for trial; the
    `taken` ones with the best ratio of what the strength falls by to what the cost rises by go, and the
    gradient is computed anew. Once the triggers fail, or no unit weakens them any more, units are put back
    that cost far more than the others for the margin that they take away. Then others are inverted on the
    pruned network, and so on, while one of them is as cheap as `cheap` times those for other labels, inverted
    in the same way on the same network, for at most `rounds` rounds.

    Attributes
    ----------
    inversion, changing, latent
        How triggers of the kind found are inverted again: patches for a label and without one, and shifts.
        On a pruned network patches take more and longer steps to become small; with fewer, what comes of two
        starts differs by half.
    triggers
        Triggers in one round, from different starts. Each image is stamped with one of them: what they have
        in common is the backdoor.
    rounds
        At most so many.
    compared
        Other labels that triggers are inverted for after the first round, to tell what is cheap.
    cheap
        A trigger inverted again is worth erasing if its norm is at most this part of their median norm, in
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

    inversion: Inversion = field(default_factory=lambda: Inversion(steps=400, rate=0.2, batch_size=16))
    changing: Inversion = field(default_factory=lambda: replace(CHANGING, steps=200, restarts=1))
    latent: LatentInversion = field(default_factory=LatentInversion)
    triggers: int = 3
    rounds: int = 5
    compared: int = 4
    cheap: float = 0.7
    candidates: int = 32
    taken: int = 2
    success: float = 0.01
    temperature: float = 2.0
    share: float = 0.2

    def __post_init__(self) -> None:
        if min(self.rounds, self.triggers, self.compared, self.taken) < 1 or self.candidates < self.taken:
            raise MethodError(
                "erasing needs rounds, triggers, other labels and candidates, and no more taken than tried"
            )
        if not (0 < self.temperature < math.inf and 0 <= self.success < 1):
            raise MethodError("erasing needs a finite temperature > 0 and 0 <= success < 1")
        if not (0 < self.share <= 1 and 0 < self.cheap <= 1):
            raise MethodError("erasing needs 0 < share <= 1 and 0 < cheap <= 1")

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
            Loss of held-out accuracy that must not be exceeded for sure, in ``[0, 1]``.
        shift
            Whether a pruned norm loses its bias too.
        generator
            Decides how triggers are inverted again.
        progress
            Told about every step.
        """
        held = _HeldOut(network, layers, clean, shift)
        units = list(all_units(layers))
        most = math.floor(self.share * held.total)
        group = max(1, held.total // UNITS_PER_GROUP)
        flat = torch.ones(held.total, device=next(network.parameters()).device)
        carried = torch.zeros_like(flat)
        kept: list[int] = []
        seen: list[Found] = [found]
        erased: list[Found] = []
        others = _typical_labels(triggers, found, self.compared)
        limit: float | None = None

        def invert(label: int | None) -> Found:
            pruned = prune(network, layers, [units[unit] for unit in kept], shift=shift)
            return self._invert(pruned, layers, found, label, clean, generator, progress)

        for _ in range(self.rounds):
            known = [] if kept else [found]
            while len(known) < self.triggers:
                known.append(invert(found.label))
            if kept:
                seen.append(min(known, key=lambda trigger: (not trigger.converged, trigger.norm)))
                if limit is None:
                    compared = [invert(label) for label in others]
                    limit = self.cheap * statistics.median(
                        trigger.norm if trigger.converged else math.inf for trigger in compared
                    )
                known = [trigger for trigger in known if trigger.norm <= limit]
            known = [trigger for trigger in known if trigger.converged]
            if not known:
                break
            before = set(kept)
            stage = _Stage(self, network, layers, clean, known, flat, group, shift)
            progress.start("erasing", math.ceil(most / (self.taken * group)))
            while stage.now.success > self.success:
                slopes = stage.slopes(flat)
                carried = torch.maximum(carried, slopes / max(stage.now.strength - DEFEATED, FREE))
                taken = stage.best(flat, slopes)[: most - len(kept)]
                if not taken:
                    break
                flat[taken] = 0
                kept += taken
                stage.settle(flat)
                point = held.point(flat, len(kept))
                progress.advance(pruned=len(kept), accuracy=point.accuracy.value, trigger=stage.now.success)
                if point.loss.low > budget:
                    break
            erased += known
            if len(erased) > len(known):
                stage = _Stage(self, network, layers, clean, erased, flat, group, shift)
            needless = stage.needless(flat, kept)
            flat[needless] = 1
            kept = [unit for unit in kept if unit not in needless]
            if set(kept) == before or held.point(flat, len(kept)).loss.low > budget:
                break
        curve = held.curve(kept, self.taken * group)
        within = [index for index, point in enumerate(curve) if point.loss.low <= budget]
        choice = Choice(tuple(kept), tuple(curve), within[-1], 0)
        return Erased(choice, (1 - carried.clamp(0, 1)).cpu(), tuple(seen))

    def _invert(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        found: Found,
        label: int | None,
        clean: CleanData,
        generator: torch.Generator,
        progress: Progress,
    ) -> Found:
        """Invert a trigger of the kind found."""
        images = (clean.learn, clean.choose, clean.convention)
        if isinstance(found, LatentTrigger):
            assert label is not None
            return self.latent(
                network, layers, *images, generator=generator, labels=[label], progress=progress
            )[0]
        invert = self.changing if label is None else self.inversion
        return invert(network, *images, generator=generator, labels=[label], progress=progress)[0]


def _typical_labels(triggers: Sequence[Found], found: Found, count: int) -> list[int | None]:
    """Return the labels whose triggers were nearest the typical norm."""
    middle = typical_norm(triggers, found)
    others = [trigger for trigger in triggers if trigger.label not in (found.label, None)]
    return [trigger.label for trigger in sorted(others, key=lambda other: abs(other.norm - middle))[:count]]


@dataclass(frozen=True)
class _Measured:
    """The cost in nats, the strength, the mean margin without a limit, and the success of triggers."""

    cost: float
    strength: float
    depth: float
    success: float


class _Stage:
    """Images, clean ones and others that show triggers at work, on which units are tried."""

    def __init__(
        self,
        settings: Erasing,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        clean: CleanData,
        triggers: Sequence[Found],
        flat: Tensor,
        group: int,
        shift: bool,
    ) -> None:
        self._settings, self._layers = settings, layers
        self._label, self._shift = triggers[0].label, shift
        self._group = group
        images = clean.learn.images
        answers = answers_without(network, self._label, clean.learn, clean.convention)
        others = of_others(answers, self._label)
        every = max(1, len(images) // TRIED)
        triggers = triggers[: len(others)]
        self._memory = MEMORY // (1 + len(triggers))
        plain = self._replay(network, images[::every], clean, flat)
        self._count, classes = plain.outputs.shape
        self._targets = self._soft(plain.outputs)
        self._replays = [plain]
        self._shown: list[tuple[nn.Module, list[Tensor], list[Tensor]]] = []
        tried = [answers[::every]]
        for start, trigger in enumerate(triggers):
            turn = others[start :: len(triggers)]
            changed, stamped = trigger.present(network, images[turn])
            wanted = wanted_classes(self._label, answers[turn], classes).to(flat.device)
            self._shown.append(
                (changed, _batches(stamped, clean, flat.device), list(torch.split(wanted, BATCH)))
            )
            self._replays.append(self._replay(changed, stamped[::every], clean, flat))
            tried.append(answers[turn][::every])
        self._wanted = wanted_classes(self._label, torch.cat(tried), classes).to(flat.device)
        self._depth = self._measure(torch.cat([replay.outputs for replay in self._replays])).depth
        self.settle(flat)

    def settle(self, flat: Tensor) -> None:
        """Measure with these units, from which on single ones are tried."""
        outputs = self._attempt(flat)
        for replay in self._replays:
            replay.accept()
        self.now = self._measure(outputs)

    def slopes(self, flat: Tensor) -> Tensor:
        """Return the gradient of the strength in the masks of the units left, ``(total,)``, 0 for others."""
        masks = flat.clone().requires_grad_()
        total, count = torch.zeros_like(flat), 0
        for network, batches, wanted in self._shown:
            with masked(network, self._layers, masks, shift=self._shift):
                for batch, goals in zip(batches, wanted, strict=True):
                    margins = _margins(network(batch), goals).clamp_min(DEFEATED)
                    total += torch.autograd.grad(margins.sum(), masks)[0]
                    count += len(batch)
        return flat * total / count

    def best(self, flat: Tensor, slopes: Tensor) -> list[int]:
        """Return the units that weaken the triggers most for what they cost."""
        left = torch.where(flat > 0, slopes, -torch.inf)
        order = left.argsort(descending=True, stable=True)[: int(flat.sum())]
        trials = []
        for units in torch.split(order[: self._settings.candidates * self._group], self._group):
            trial = self._measure(self._attempt(_changed(flat, units.tolist(), 0)))
            if trial.strength < self.now.strength:
                worth = (self.now.strength - trial.strength) / (max(trial.cost - self.now.cost, 0.0) + FREE)
                trials.append((worth, units.tolist()))
        trials.sort(key=lambda pair: pair[0], reverse=True)
        return [unit for _, units in trials[: self._settings.taken] for unit in units]

    def needless(self, flat: Tensor, kept: Sequence[int]) -> list[int]:
        """Return units, of those taken out, that cost far more than the others for what they take away."""
        groups = [units.tolist() for units in torch.split(torch.tensor(kept, dtype=torch.long), self._group)]
        now, back = self.now, list[int]()
        average = now.cost / max(self._depth - now.depth, FREE)
        success = max(now.success, self._settings.success)

        def worth(units: Sequence[int]) -> tuple[float, _Measured]:
            trial = self._measure(self._attempt(_changed(flat, units, 1)))
            return (now.cost - trial.cost - FREE) / max(trial.depth - now.depth, FREE), trial

        for units in sorted(groups, key=lambda units: worth(units)[0], reverse=True):
            gained, trial = worth([*back, *units])
            if gained > NEEDLESS * average and trial.success <= success:
                now = trial
                back += units
        return back

    def _replay(self, network: nn.Module, images: Tensor, clean: CleanData, flat: Tensor) -> Replay:
        inputs = _batches(images, clean, flat.device)
        return Replay(network, self._layers, inputs, shift=self._shift, memory=self._memory)

    def _attempt(self, flat: Tensor) -> Tensor:
        return torch.cat([replay.attempt(flat) for replay in self._replays])

    def _measure(self, outputs: Tensor) -> "_Measured":
        answers = (outputs[: self._count] / self._settings.temperature).log_softmax(1)
        cost = F.kl_div(answers, self._targets, reduction="batchmean")
        margins = _margins(outputs, self._wanted)[self._count :]
        hits = self._wanted.gather(1, outputs.argmax(1, keepdim=True)).double()
        success = hits[self._count :].mean()
        if self._label is None:
            # Of a trigger without a label, answers that change without it are no success.
            success = (success - hits[: self._count].mean()).clamp_min(0)
        strength = margins.clamp_min(DEFEATED).mean()
        return _Measured(float(cost), float(strength), float(margins.mean()), float(success))

    def _soft(self, outputs: Tensor) -> Tensor:
        return (outputs / self._settings.temperature).softmax(1)


class _HeldOut:
    """The images that decide how far to prune."""

    def __init__(
        self, network: nn.Module, layers: Sequence[UnitLayer], clean: CleanData, shift: bool
    ) -> None:
        self._device = next(network.parameters()).device
        batches = _batches(clean.choose.images, clean, self._device)
        self._replay = Replay(network, layers, batches, shift=shift)
        self._labels = clean.choose.labels
        self._before = self._correct(self._replay.outputs)
        self.total = sum(layer.count for layer in layers)

    def point(self, flat: Tensor, pruned: int) -> CurvePoint:
        correct = self._correct(self._replay.attempt(flat))
        self._replay.accept()
        return CurvePoint(pruned, Proportion.of(correct), paired_loss(self._before, correct))

    def curve(self, kept: Sequence[int], step: int) -> list[CurvePoint]:
        """Return the accuracy after each group of `step` units."""
        flat = torch.ones(self.total, device=self._device)
        points = [self.point(flat, 0)]
        for start in range(0, len(kept), step):
            flat[list(kept[start : start + step])] = 0
            points.append(self.point(flat, min(start + step, len(kept))))
        return points

    def _correct(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1).cpu() == self._labels


def _batches(images: Tensor, clean: CleanData, device: torch.device) -> list[Tensor]:
    return [clean.convention.normalise(part.to(device)) for part in torch.split(images, BATCH)]


def _margins(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Return by how much the best answer that is wanted exceeds the best other, ``(N,)``."""
    best = outputs.masked_fill(~wanted, -torch.inf).max(1).values
    best_other = outputs.masked_fill(wanted, -torch.inf).max(1).values
    return best - best_other


def _changed(flat: Tensor, units: Sequence[int], value: float) -> Tensor:
    changed = flat.clone()
    changed[list(units)] = value
    return changed
