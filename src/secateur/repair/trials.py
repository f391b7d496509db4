"""Trying groups of units: what taking them out does to triggers at work and to clean answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import CleanData
from secateur.expose import answers_without, margins_of, of_others, wanted_classes
from secateur.repair.choosing import evenly, network_inputs
from secateur.repair.dominance import Dominance
from secateur.repair.measured import Compared, Expected, Measured, Shown
from secateur.units import Replay, UnitLayer, masked

TRIAL_MEMORY = 1 << 30
"""Bytes for the activations of images that units are tried on."""
TRIED = 128
"""Units are tried on about so many stamped images, and on twice as many mixed ones."""
FREE = 0.002
"""Clean divergence, in nats, that costs as good as nothing; keeps the worth of a cheap unit finite."""
FEW = 8
"""Clean images whose gradients are summed before they are squared."""
DRAWS = 2
"""Answers drawn for each clean image."""


@dataclass(frozen=True)
class _Part:
    """Triggers that are shown, each by a network, its batches and the answers wanted of them.

    Their margins count in parts of `whole`.
    """

    shown: Sequence[tuple[nn.Module, list[Tensor], list[Tensor]]]
    whole: float


class Trials:
    """Clean images that are mixed, and others that show triggers: groups of units are tried on them.

    Parameters
    ----------
    network
        Answers with logits; not changed.
    layers
        Its layers with units.
    clean
        ``clean.learn`` are the images.
    triggers
        For one label. Each image shows one of them; with fewer images than triggers the first and the last
        are shown and some between, evenly.
    pointed
        What unlearning points to, for the same label; a share of the images show that instead.
    group
        Units that are tried together.
    shift
        Whether a pruned norm loses its bias too.
    temperature
        By which answers are softened before they are compared.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        clean: CleanData,
        triggers: Sequence[Shown],
        *,
        pointed: Dominance | None = None,
        group: int,
        shift: bool,
        temperature: float,
    ) -> None:
        self._layers, self._temperature = layers, temperature
        self._label, self._shift = triggers[0].label, shift
        self._group, self._device = group, next(network.parameters()).device
        images = clean.learn.images
        answers = answers_without(network, self._label, clean.learn, clean.convention)
        others = of_others(answers, self._label)
        every = max(1, len(images) // TRIED)
        parts: list[tuple[Sequence[Shown], Tensor]] = [(triggers, others)]
        if pointed:
            turns = (torch.arange(len(others) + 1) * pointed.share).floor().diff() > 0
            if turns.any():
                parts = [(triggers, others[~turns]), ([pointed], others[turns])]
        self._memory = TRIAL_MEMORY // (3 + len(triggers))
        mixed = _mixed(images[:: max(1, len(images) // (2 * TRIED))])
        self._mixed = network, torch.cat(network_inputs(mixed, clean.convention, self._device))
        between = self._replay(network, mixed, clean)
        self._targets = self._soft(between.outputs)
        self._count, classes = between.outputs.shape
        spaced = torch.arange(len(images))[::every]
        if self._label is not None and bool((answers[spaced] == self._label).all()):
            # Classes that take turns: every so many images are of one of them.
            spaced = others[::every]
        plain = self._replay(network, images[spaced], clean)
        # Of a trigger without a label, answers that change without it are no success.
        self._replays, tried = ([plain], [answers[spaced]]) if self._label is None else ([], [])
        self._shown: list[_Part] = []
        wholes = list[Tensor]()
        wanted = wanted_classes(self._label, answers[spaced], classes).to(self._device)
        natural = margins_of(plain.outputs, wanted).clamp_max(-FREE)
        self._safe = float(natural[of_others(answers[spaced], self._label)].mean())
        for known, turns in parts:
            shown, margins = list[tuple[nn.Module, list[Tensor], list[Tensor]]](), list[Tensor]()
            shown_by = evenly(known, len(turns))
            for start, trigger in enumerate(shown_by):
                turn = turns[start :: len(shown_by)]
                changed, stamped = trigger.present(network, images[turn])
                wanted = wanted_classes(self._label, answers[turn], classes).to(self._device)
                batches = network_inputs(stamped, clean.convention, self._device)
                shown.append((changed, batches, list(torch.split(wanted, len(batches[0])))))
                self._replays.append(self._replay(changed, stamped[::every], clean))
                tried.append(answers[turn][::every])
                margins.append(margins_of(self._replays[-1].outputs, wanted[::every]))
            first = torch.cat(margins).clamp_min(self._safe) - self._safe
            self._shown.append(_Part(shown, float(first.mean().clamp_min(FREE))))
            wholes.append(torch.full_like(first, self._shown[-1].whole))
        self._stamped = len(wholes[0])
        self._wanted = wanted_classes(self._label, torch.cat(tried), classes).to(self._device)
        self._wholes = torch.cat(wholes)
        self._settled: Tensor | None = None
        self._tried: tuple[Tensor, Measured] | None = None
        self._risk = 1.0
        self._replays.append(between)
        self._risk = max(self._measure(self._outputs).risk, FREE)
        self.settle(torch.ones(sum(layer.count for layer in layers), device=self._device))

    @property
    def images(self) -> int:
        """How many images are answered in a trial."""
        return len(self._outputs)

    @property
    def device(self) -> torch.device:
        """Where masks are."""
        return self._device

    def settle(self, flat: Tensor) -> None:
        """Measure with these units, from which on single ones are tried."""
        self.measure(flat)
        self.accept()

    def measure(self, flat: Tensor) -> Measured:
        """Measure with other units; what is settled stays, unless this is accepted."""
        if self._settled is not None and torch.equal(self._settled, flat):
            self._tried = None
            return self.now
        found = self._measure(self._attempt(flat))
        self._tried = flat.clone(), found
        return found

    def accept(self) -> None:
        """Settle with the units that were measured last."""
        if self._tried is not None:
            self._settled, self.now = self._tried
            self._tried = None
            for replay in self._replays:
                replay.accept()

    def compare(self, flat: Tensor, price: float) -> Compared:
        """Measure with other units, and compare every image with itself; what is settled stays."""
        outputs = self._attempt(flat)
        now, other = (self._each(told) for told in (self._outputs, outputs))
        left, cost = (before - after for before, after in zip(now, other, strict=True))
        # Mixed images that are neighbours have one in common.
        variance = variance_of_mean(left) + price**2 * variance_of_mean(cost, neighbours=True)
        self._tried = flat.clone(), self._measure(outputs)
        return Compared(self._tried[1], float(left.mean() + price * cost.mean()), math.sqrt(variance))

    def slopes(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of strength and risk in the masks, ``(total,)`` each."""
        masks = flat.clone().requires_grad_()
        strength, risk, counts = torch.zeros_like(flat), torch.zeros_like(flat), [0, 0]
        for place, part in enumerate(self._shown):
            for network, batches, wanted in part.shown:
                with masked(network, self._layers, masks, shift=self._shift):
                    for batch, goals in zip(batches, wanted, strict=True):
                        margins = margins_of(network(batch), goals)
                        left = margins.clamp_min(self._safe).sum() / part.whole
                        strength += torch.autograd.grad(left, masks, retain_graph=place == 0)[0]
                        if place == 0:
                            # What unlearning points to is no risk.
                            risk += torch.autograd.grad(margins.sigmoid().sum(), masks)[0]
                        counts[place] += len(batch)
        return strength / sum(counts), risk / (counts[0] * self._risk)

    def expect(self, flat: Tensor, generator: torch.Generator) -> Expected:
        """Return what changing single units would do, without trying them.

        The curvature is the Fisher information: the mean square of the gradients of answers that are drawn
        as the network gives them, summed over a few images at a time (what they have in common vanishes).
        """
        strength, risk = self.slopes(flat)
        masks, cost = flat.clone().requires_grad_(), torch.zeros_like(flat)
        curvature = torch.zeros_like(flat)
        network, mixed = self._mixed
        every = max(1, self._count // TRIED)
        mixed, wanted = mixed[::every], self._targets[::every]
        with masked(network, self._layers, masks, shift=self._shift):
            for batch, targets in zip(torch.split(mixed, FEW), torch.split(wanted, FEW), strict=True):
                answers = (network(batch) / self._temperature).log_softmax(1)
                drawn = torch.multinomial(answers.detach().exp().cpu(), DRAWS, True, generator=generator)
                each = answers.gather(1, drawn.to(answers.device)).sum(0)
                for likelihood in each:
                    slopes = torch.autograd.grad(likelihood, masks, retain_graph=True)[0]
                    curvature += slopes.square() / (DRAWS * len(mixed))
                divergence = F.kl_div(answers, targets, reduction="sum")
                cost += torch.autograd.grad(divergence, masks)[0] / len(mixed)
        return Expected(strength, risk, cost, curvature)

    def best(
        self, flat: Tensor, expected: Expected, *, candidates: int, taken: int, price: float
    ) -> list[int]:
        """Try the groups that are expected to be most worth it; return the units that are.

        A unit is if it takes away more of the strength than `price` times what it costs, in nats.
        """
        cost = (expected.curvature / 2 - expected.cost).clamp_min(0) + FREE
        promised = torch.where(flat > 0, expected.left / cost, -torch.inf)
        order = promised.argsort(descending=True, stable=True)[: int(flat.sum())]
        trials = []
        for units in torch.split(order[: candidates * self._group], self._group):
            trial = self._measure(self._attempt(_changed(flat, units.tolist(), 0)))
            worth = (self.now.strength - trial.strength) / (max(trial.cost - self.now.cost, 0.0) + FREE)
            if worth > price:
                trials.append((worth, units.tolist()))
        trials.sort(key=lambda pair: pair[0], reverse=True)
        return [unit for _, units in trials[:taken] for unit in units]

    def needless(self, flat: Tensor, kept: Sequence[int], *, success: float, price: float) -> list[int]:
        """Return units, of those taken out, that are not worth `price` now that the others are out as well.

        Without them the triggers succeed on no more than `success`, or than before.
        """
        groups = [units.tolist() for units in torch.split(torch.tensor(kept, dtype=torch.long), self._group)]
        now, back = self.now, list[int]()
        success = max(now.success, success)

        def gained(units: Sequence[int]) -> tuple[float, Measured]:
            trial = self._measure(self._attempt(_changed(flat, units, 1)))
            return price * (now.cost - trial.cost - FREE) - (trial.strength - now.strength), trial

        for units in sorted(groups, key=lambda units: gained(units)[0], reverse=True):
            gain, trial = gained([*back, *units])
            if gain > 0 and trial.success <= success:
                now = trial
                back += units
        return back

    def _replay(self, network: nn.Module, images: Tensor, clean: CleanData) -> Replay:
        inputs = network_inputs(images, clean.convention, self._device)
        return Replay(network, self._layers, inputs, shift=self._shift, memory=self._memory)

    @property
    def _outputs(self) -> Tensor:
        """What all images are answered with the units that are settled."""
        return torch.cat([replay.outputs for replay in self._replays])

    def _attempt(self, flat: Tensor) -> Tensor:
        # What was measured before can no longer be accepted.
        self._tried = None
        return torch.cat([replay.attempt(flat) for replay in self._replays])

    def _measure(self, outputs: Tensor) -> Measured:
        costs, margins, left = self._told(outputs)
        agreement = (outputs[-self._count :].argmax(1) == self._targets.argmax(1)).double().mean()
        shown = outputs[: -self._count]
        hits = self._wanted.gather(1, shown.argmax(1, keepdim=True)).double()
        plain = len(shown) - len(self._wholes)
        success = hits[plain : plain + self._stamped].mean()
        if plain:
            success = (success - hits[:plain].mean()).clamp_min(0)
        risk = margins[: self._stamped].sigmoid().mean() / self._risk
        return Measured(
            float(costs.mean()), float(agreement), float(left.mean()), float(success), float(risk)
        )

    def _each(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is left of the triggers on each stamped image, and the cost on each clean one.

        Their means are those of `Measured`.
        """
        costs, margins, left = self._told(outputs)
        # What unlearning points to is no risk.
        risks = margins.sigmoid() * (len(margins) / (self._stamped * self._risk))
        risks[self._stamped :] = 0
        return (left + risks) / 2, costs

    def _told(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cost on each clean image, and of each stamped one the margin and what is left of it."""
        answers = (outputs[-self._count :] / self._temperature).log_softmax(1)
        costs = F.kl_div(answers, self._targets, reduction="none").sum(1)
        margins = margins_of(outputs[: -self._count], self._wanted)[-len(self._wholes) :]
        return costs, margins, (margins.clamp_min(self._safe) - self._safe) / self._wholes

    def _soft(self, outputs: Tensor) -> Tensor:
        return (outputs / self._temperature).softmax(1)


def variance_of_mean(values: Tensor, *, neighbours: bool = False) -> float:
    """Return the variance of the mean of ``(N,)`` values, infinite for a single one.

    With `neighbours` each may go along with the next, and the last with the first, as moving averages of two
    do.
    """
    if len(values) < 2:
        return math.inf
    centred = values - values.mean()
    total = centred.square().sum()
    if neighbours:
        total = total + 2 * (centred * centred.roll(1)).sum().clamp_min(0)
    return float(total) / (len(values) * (len(values) - 1))


def _mixed(images: Tensor) -> Tensor:
    """Return mixtures of two images in a way that is always the same; each is in one and in the next."""
    generator = torch.Generator().manual_seed(0)
    shuffled = images[torch.randperm(len(images), generator=generator)]
    shares = torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
    return shuffled.roll(1, 0).lerp(shuffled, shares)


def _changed(flat: Tensor, units: Sequence[int], value: float) -> Tensor:
    changed = flat.clone()
    changed[list(units)] = value
    return changed
