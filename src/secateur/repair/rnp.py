"""Reconstructive Neuron Pruning (Li et al., ICML 2023, arXiv 2305.14876)."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from secateur.data import CleanData, example_input
from secateur.errors import MethodError
from secateur.expose import Exposure, Inversion, InvertedTrigger, Unlearning, suspect, typical_norm
from secateur.models import logits
from secateur.progress import Progress, Silent
from secateur.repair.choosing import Choice, Limits, Walk
from secateur.repair.erasing import Erased, Erasing
from secateur.repair.recovering import Recovering
from secateur.repair.registry import register
from secateur.repair.result import Repair
from secateur.units import Discovery, Recipe, ScoredUnit, all_units, discover, prune

GENTLE = Unlearning(stride=0.0005, passes=100, milestones=(), weight_decay=0.0, dropout=False)
LOSS_PER_POINT = 5.0
"""Nats of learning loss that may be lost for each unit of the accuracy budget."""

PAPER: dict[str, object] = {
    "unlearning": Unlearning(passes=21),
    "recovering": Recovering(dropout=True),
    "original": 0.0,
    "trajectory": False,
    "threshold": 0.3,
    "dominance": None,
    "spare": None,
    "budget": None,
    "shift": False,
    "inversion": None,
}
PROPOSED = 12
"""Of more classes, a trigger is inverted for so many that the unlearned network answers most."""
MOST_CLASSES = 100
"""Inverting a trigger for each of more classes would take too long."""


@register(
    "rnp",
    title="Reconstructive Neuron Pruning for Backdoor Defense",
    paper="arXiv:2305.14876",
    year=2023,
    presets={"paper": PAPER},
)
@dataclass(frozen=True)
class RNP:
    """Unlearn the clean task, recover it with masks, prune the units whose masks fall.

    The preset ``paper`` is Algorithm 1: one unlearned network, units whose last mask is at most the
    threshold are pruned, their biases stay. The default differs in five ways, argued in
    ``docs/decisions/0001-rnp-default.md``:

    - unlearning takes short steps and stops as soon as the clean accuracy is low, and masks are also
      recovered on the network as it came; a unit's score is its mask averaged over all steps (a weighted
      mean of both recoveries), so that units whose masks end at exactly zero still have an order;
    - the less dominant the label that unlearning reveals, the lower the threshold;
    - suspects that the clean task needs are spared;
    - held-out clean accuracy, against the budget, decides how far along the order to prune;
    - a pruned unit loses its bias too, so that the unit is really gone.

    Networks without batch normalisation take another way, as unlearning and recovery reveal nothing reliable
    of them: a trigger is inverted for every label, and if one is anomalously small, the units that answer it
    are pruned (``docs/decisions/0002-networks-without-normalisation.md``).

    Attributes
    ----------
    unlearning
        How the clean task is unlearned.
    recovering
        How masks are learned.
    original
        Weight in the score of masks that are recovered on the network as it came, in ``[0, 1]``; the rest is
        the weight of those recovered on the unlearned network. 0 recovers on the unlearned network only.
    trajectory
        Score by the mask averaged over all steps; otherwise by the last mask.
    threshold
        Units with a higher score are no suspects, in ``[0, 1]`` (the paper's DT).
    dominance
        Where the revealed label takes a smaller share of the unlearned network's answers than this (0 is
        chance, 1 all answers), the threshold falls with the square of the shortfall: with nothing that points
        to a backdoor, little is pruned. None always uses the whole threshold.
    spare
        How much the learning loss may rise for one unit of the highest suspicion, in nats; the tolerance of
        others is proportional to their suspicion, 1 - score. None spares nothing.
    budget
        Allowed loss of held-out clean accuracy, in ``[0, 1]``: pruning stops before the loss is shown to be
        larger, that is before the lower end of its interval exceeds the budget. None prunes every suspect.
    share
        Of all units, how many may be pruned under a budget, in ``[0, 1]``: a backdoor sits in few.
    shift
        Whether pruning zeroes a norm's bias with its weight.
    inversion, erasing
        How triggers are inverted and their units chosen where no layer is a norm. Without an inversion such
        networks are treated like all others.
    """

    unlearning: Unlearning = GENTLE
    recovering: Recovering = field(default_factory=Recovering)
    original: float = 1 / 3
    trajectory: bool = True
    threshold: float = 0.7
    dominance: float | None = 0.4
    spare: float | None = 0.01
    budget: float | None = 0.02
    share: float = 0.125
    shift: bool = True
    inversion: Inversion | None = field(default_factory=Inversion)
    erasing: Erasing = field(default_factory=Erasing)

    def __post_init__(self) -> None:
        if not 0 <= self.original <= 1:
            raise MethodError(f"original {self.original} must be between 0 and 1")
        if not 0 <= self.threshold <= 1:
            raise MethodError(f"threshold {self.threshold} must be between 0 and 1")
        if self.budget is not None and not 0 <= self.budget <= 1:
            raise MethodError(f"budget {self.budget} must be between 0 and 1 (0 and 100 points)")
        if not 0 <= self.share <= 1:
            raise MethodError(f"share {self.share} must be between 0 and 1")
        if self.dominance is not None and not 0 < self.dominance <= 1:
            raise MethodError(f"dominance {self.dominance} must be above 0 and at most 1")
        if self.spare is not None and not 0 <= self.spare < math.inf:
            raise MethodError(f"spare {self.spare} must be finite and not negative")

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        *,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Repair:
        """Repair a copy of `network`.

        Parameters
        ----------
        network
            A classifier, ``(N, C, H, W)`` to ``(N, K)`` logits or probabilities, on any device; not changed.
        clean
            Trusted images. Masks are learned from ``clean.learn``; ``clean.choose`` decides how far to prune.
        generator
            Source of all randomness; seed 0 when none is given.
        progress
            Told about every stage.

        Raises
        ------
        MethodError
            The network has no prunable unit, or its weights are not float32.
        """
        generator = generator or torch.Generator().manual_seed(0)
        progress = progress or Silent()
        seconds: dict[str, float] = {}
        _check_precision(network)
        with flushed_denormals():
            work = _working_copy(network)
            example = example_input(clean.convention).to(next(work.parameters()).device)
            discovery = discover(work, example)
            if not discovery.total:
                raise MethodError(
                    f"{type(network).__name__} has no unit that can be pruned; `secateur units` says why"
                )
            normed = any(layer.kind == "norm" for layer in discovery.layers)
            exposure, unlearned = None, None
            if normed or not self.inversion:
                unlearned = copy.deepcopy(work)
                with logits(unlearned, example), _timed(seconds, "unlearning"):
                    exposure = self.unlearning(
                        unlearned, clean.learn, clean.convention, generator=generator, progress=progress
                    )
            triggers: tuple[InvertedTrigger, ...] = ()
            if self.inversion:
                with logits(work, example), _timed(seconds, "inverting"):
                    triggers = self._invert(
                        self.inversion, work, clean, exposure, example, generator, progress
                    )
            found = suspect(triggers)
            notes = _unlearning_notes(exposure, self.unlearning)
            if found:
                with logits(work, example), _timed(seconds, "erasing"):
                    erased = self.erasing(
                        work,
                        discovery.layers,
                        found,
                        clean,
                        typical=typical_norm(triggers, found),
                        budget=1.0 if self.budget is None else self.budget,
                        shift=self.shift,
                        generator=generator,
                        progress=progress,
                    )
                choice, scores = erased.choice, erased.scores
                notes += _erasing_notes(triggers, erased)
            elif exposure is not None and unlearned is not None:
                if triggers:
                    notes.append(_nothing_small(triggers) + " The masks alone decided what to prune.")
                scores = self._recover(
                    work, unlearned, discovery, clean, example, generator, progress, seconds
                )
                with logits(work, example), _timed(seconds, "choosing"):
                    choice = self._choose(work, discovery, clean, scores, self._limit(exposure), progress)
                if choice.spared:
                    notes.append(f"{choice.spared} suspects were spared because the clean task needs them.")
            else:
                notes.append(_no_way(triggers))
                scores = torch.ones(discovery.total)
                learn, choose, convention = clean.learn, clean.choose, clean.convention
                with logits(work, example):
                    walk = Walk(work, discovery.layers, learn, choose, convention, shift=self.shift)
                    choice = walk.along([], None, Limits(), progress)
        return self._result(
            network, discovery, scores, choice, seconds, notes, exposure=exposure, trigger=found
        )

    def _invert(
        self,
        inversion: Inversion,
        network: nn.Module,
        clean: CleanData,
        exposure: Exposure | None,
        example: Tensor,
        generator: torch.Generator,
        progress: Progress,
    ) -> tuple[InvertedTrigger, ...]:
        """Invert a trigger for every label, of many for those that the unlearned network answers most."""
        network.requires_grad_(False)
        classes = network(example).shape[1]
        labels = list(range(classes))
        if exposure and classes > PROPOSED:
            labels = sorted(labels, key=lambda label: -exposure.answers[label])[:PROPOSED]
        if len(labels) > MOST_CLASSES:
            return ()
        return inversion(
            network,
            clean.learn,
            clean.choose,
            clean.convention,
            generator=generator,
            labels=labels,
            progress=progress,
        )

    def _recover(
        self,
        network: nn.Module,
        unlearned: nn.Module,
        discovery: Discovery,
        clean: CleanData,
        example: Tensor,
        generator: torch.Generator,
        progress: Progress,
        seconds: dict[str, float],
    ) -> Tensor:
        """Recover masks on the unlearned network and on the original; return every unit's score."""
        parts = [(1 - self.original, unlearned, "recovering")]
        if self.original:
            parts.append((self.original, copy.deepcopy(network), "recovering the original"))
        scores = torch.zeros(discovery.total)
        for weight, start, stage in parts:
            with logits(start, example), _timed(seconds, stage):
                path = self.recovering(
                    start,
                    discovery.layers,
                    clean.learn,
                    clean.convention,
                    generator=generator,
                    progress=progress,
                    stage=stage,
                )
            scores += weight * (path.mean if self.trajectory else path.last)
        return scores

    def _limit(self, exposure: Exposure) -> float:
        """Return the score up to which units are suspects, lower where unlearning reveals no label."""
        if self.dominance is None:
            return self.threshold
        return self.threshold * min(1.0, max(0.0, exposure.dominance / self.dominance)) ** 2

    def _choose(
        self,
        network: nn.Module,
        discovery: Discovery,
        clean: CleanData,
        scores: Tensor,
        limit: float,
        progress: Progress,
    ) -> Choice:
        order = scores.argsort(stable=True)
        suspects = order[scores[order] <= limit].tolist()
        suspicion = 1 - scores
        tolerances = None if self.spare is None else self.spare * suspicion / suspicion.max()
        walk = Walk(network, discovery.layers, clean.learn, clean.choose, clean.convention, shift=self.shift)
        limits = Limits()
        if self.budget is not None:
            most = math.ceil(self.share * discovery.total)
            limits = Limits(self.budget, LOSS_PER_POINT * self.budget, most)
        return walk.along(suspects, tolerances, limits, progress)

    def _result(
        self,
        network: nn.Module,
        discovery: Discovery,
        scores: Tensor,
        choice: Choice,
        seconds: dict[str, float],
        notes: list[str],
        *,
        exposure: Exposure | None = None,
        trigger: InvertedTrigger | None = None,
    ) -> Repair:
        units = list(all_units(discovery.layers))
        scored = [ScoredUnit(units[k], float(scores[k])) for k in choice.pruned]
        recipe = Recipe.record(
            network.state_dict(),
            discovery.layers,
            scored,
            method="rnp",
            architecture=type(network).__name__,
            gamma_only=not self.shift,
        )
        repaired = prune(network, discovery.layers, [s.unit for s in scored], shift=self.shift)
        revealed = exposure is not None and exposure.finite
        return Repair(
            method="rnp",
            outcome="repaired" if scored else "nothing found" if revealed else "inconclusive",
            network=repaired.eval(),
            recipe=recipe,
            discovery=discovery,
            scores=scores,
            curve=choice.curve,
            chosen=choice.chosen,
            budget=1.0 if self.budget is None else self.budget,
            exposure=exposure,
            seconds=seconds,
            hyperparameters=asdict(self),
            notes=tuple(notes),
            trigger=trigger,
        )


def _unlearning_notes(exposure: Exposure | None, unlearning: Unlearning) -> list[str]:
    if exposure is None or (exposure.reached and exposure.finite):
        return []
    if not exposure.finite:
        return ["Unlearning diverged and reveals nothing: lower its rate or set a stride."]
    return [
        f"Unlearning stopped at clean accuracy {exposure.accuracies[-1]:.3f}, above the "
        f"{unlearning.accuracy} asked for; its last state was used."
    ]


def _nothing_small(triggers: Sequence[InvertedTrigger]) -> str:
    converged = sum(trigger.converged for trigger in triggers)
    return (
        f"A trigger was inverted for each of {len(triggers)} labels: {converged} converged, and none was "
        "anomalously small."
    )


def _no_way(triggers: Sequence[InvertedTrigger]) -> str:
    reason = "The network has no batch normalisation, so unlearning and masks reveal nothing reliable of it"
    if not triggers:
        return f"{reason}, and its classes are too many to invert a trigger for each."
    return f"{reason}. {_nothing_small(triggers)} Nothing was pruned."


def _erasing_notes(triggers: Sequence[InvertedTrigger], erased: Erased) -> list[str]:
    first, *again = erased.triggers
    notes = [
        f"A trigger was inverted for each of {len(triggers)} labels: that of label {first.label} covers "
        f"{first.norm:.1f} pixels, that of a typical other label {typical_norm(triggers, first):.1f}, and it "
        f"turned {100 * first.success:.0f} % of held-out images. Units that carry it were looked for."
    ]
    if again:
        norms = ", ".join(f"{trigger.norm:.1f}" for trigger in again)
        notes.append(f"Inverted again for the same label on the pruned network, it covered {norms} pixels.")
    if not erased.choice.pruned:
        notes.append("No unit could be taken out within the budget.")
    return notes


def _check_precision(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise MethodError(
                f"the weight {name} is {parameter.dtype}, and repairs work on torch.float32: "
                "call `network.float()` first"
            )


def _working_copy(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with all weights open to gradients and the fastest memory layout."""
    copied = copy.deepcopy(network).eval().requires_grad_(True)
    return copied.to(memory_format=torch.channels_last)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat subnormal numbers as zero while the block runs: they slow training down tenfold on CPUs."""
    flushing = not bool(torch.tensor([1e-39]).mul(1.0).gt(0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushing)
