"""Reconstructive Neuron Pruning (Li et al., ICML 2023, arXiv 2305.14876)."""

import copy
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from secateur.data import CleanData, example_input
from secateur.errors import MethodError
from secateur.expose import Exposure, Inversion, InvertedTrigger, Unlearning, suspect
from secateur.models import logits
from secateur.progress import Progress, Silent
from secateur.repair.choosing import Choice, Limits, Walk
from secateur.repair.erasing import Erasing
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
            discovery = discover(work, example_input(clean.convention).to(next(work.parameters()).device))
            if not discovery.total:
                raise MethodError(
                    f"{type(network).__name__} has no unit that can be pruned; `secateur units` says why"
                )
            if self.inversion and not any(layer.kind == "norm" for layer in discovery.layers):
                return self._erase(
                    network, work, discovery, clean, self.inversion, generator, progress, seconds
                )
            exposure, scores = self._expose(work, discovery, clean, generator, progress, seconds)
            with _timed(seconds, "choosing"):
                choice = self._choose(work, discovery, clean, scores, self._limit(exposure), progress)
        notes = []
        if not exposure.finite:
            notes.append("Unlearning diverged and reveals nothing: lower its rate or set a stride.")
        elif not exposure.reached:
            notes.append(
                f"Unlearning stopped at clean accuracy {exposure.accuracies[-1]:.3f}, above the "
                f"{self.unlearning.accuracy} asked for; its last state was used."
            )
        if choice.spared:
            notes.append(f"{choice.spared} suspects were spared because the clean task needs them.")
        return self._result(network, discovery, scores, choice, seconds, notes, exposure=exposure)

    def _erase(
        self,
        original: nn.Module,
        network: nn.Module,
        discovery: Discovery,
        clean: CleanData,
        inversion: Inversion,
        generator: torch.Generator,
        progress: Progress,
        seconds: dict[str, float],
    ) -> Repair:
        """Repair a network without batch normalisation by an inverted trigger, if one stands out.

        `network` is a copy of `original` to work on.
        """
        example = example_input(clean.convention).to(next(network.parameters()).device)
        limits = Limits(1.0 if self.budget is None else self.budget)
        network.requires_grad_(False)
        with logits(network, example):
            classes = network(example).shape[1]
            triggers: tuple[InvertedTrigger, ...] = ()
            if classes <= MOST_CLASSES:
                with _timed(seconds, "inverting"):
                    triggers = inversion(
                        network,
                        clean.learn,
                        clean.choose,
                        clean.convention,
                        generator=generator,
                        progress=progress,
                    )
            found = suspect(triggers)
            notes = [_inversion_note(triggers, found, classes)]
            with _timed(seconds, "choosing"):
                if found:
                    choice, scores = self.erasing(
                        network,
                        discovery.layers,
                        found,
                        clean,
                        budget=limits.budget,
                        shift=self.shift,
                        progress=progress,
                    )
                else:
                    scores = torch.ones(discovery.total)
                    learn, choose, convention = clean.learn, clean.choose, clean.convention
                    walk = Walk(network, discovery.layers, learn, choose, convention, shift=self.shift)
                    choice = walk.along([], None, limits, progress)
        if found and not choice.pruned:
            notes.append("None could be taken out within the budget.")
        return self._result(original, discovery, scores, choice, seconds, notes, trigger=found)

    def _expose(
        self,
        network: nn.Module,
        discovery: Discovery,
        clean: CleanData,
        generator: torch.Generator,
        progress: Progress,
        seconds: dict[str, float],
    ) -> tuple[Exposure, Tensor]:
        """Unlearn and recover; return what that revealed and every unit's score, ``(total,)``."""
        example = example_input(clean.convention).to(next(network.parameters()).device)

        def recover(start: nn.Module, stage: str) -> Tensor:
            with _timed(seconds, stage):
                path = self.recovering(
                    start,
                    discovery.layers,
                    clean.learn,
                    clean.convention,
                    generator=generator,
                    progress=progress,
                    stage=stage,
                )
            return path.mean if self.trajectory else path.last

        unlearned = copy.deepcopy(network)
        with logits(unlearned, example):
            with _timed(seconds, "unlearning"):
                exposure = self.unlearning(
                    unlearned, clean.learn, clean.convention, generator=generator, progress=progress
                )
            scores = (1 - self.original) * recover(unlearned, "recovering")
        if self.original:
            original = copy.deepcopy(network)
            with logits(original, example):
                scores += self.original * recover(original, "recovering the original")
        return exposure, scores

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
        example = example_input(clean.convention).to(next(network.parameters()).device)
        with logits(network, example):
            walk = Walk(
                network, discovery.layers, clean.learn, clean.choose, clean.convention, shift=self.shift
            )
            if self.budget is None:
                limits = Limits()
            else:
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


def _inversion_note(
    triggers: tuple[InvertedTrigger, ...], found: InvertedTrigger | None, classes: int
) -> str:
    reason = "The network has no batch normalisation, so unlearning and masks reveal nothing reliable of it"
    if not triggers:
        return f"{reason}, and {classes} classes are too many to invert a trigger for each."
    if found is None:
        converged = sum(trigger.converged for trigger in triggers)
        return (
            f"{reason}. A trigger was inverted for each of {classes} labels instead: {converged} converged, "
            "and none was anomalously small. Nothing was pruned."
        )
    typical = statistics.median(trigger.norm for trigger in triggers)
    return (
        f"{reason}. A trigger was inverted for each label instead: that of label {found.label} covers "
        f"{found.norm:.1f} pixels, the median {typical:.1f}, and turned {100 * found.success:.0f} % of "
        "held-out images. Units that answer it were looked for."
    )


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
