"""Reconstructive Neuron Pruning (Li et al., ICML 2023, arXiv 2305.14876)."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from secateur.data import CleanData, example_input
from secateur.errors import MethodError
from secateur.expose import Exposure, Unlearning
from secateur.models import logits
from secateur.progress import Progress, Silent
from secateur.repair.choosing import Choice, Walk
from secateur.repair.recovering import MaskPath, Recovering
from secateur.repair.registry import register
from secateur.repair.result import Repair
from secateur.units import Discovery, Recipe, ScoredUnit, all_units, discover, prune

GENTLE = Unlearning(stride=0.0015, passes=40, milestones=(), weight_decay=0.0, dropout=False)
LOSS_PER_POINT = 2.0
"""Nats of learning loss that may be lost for each unit of the accuracy budget."""

PAPER: dict[str, object] = {
    "unlearnings": (Unlearning(passes=21),),
    "recovering": Recovering(dropout=True),
    "recover_original": False,
    "trajectory": False,
    "threshold": 0.3,
    "dominance": None,
    "spare": None,
    "budget": None,
    "shift": False,
}


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
      recovered on the network as it came; a unit's score is its mask averaged over all steps (the geometric
      mean of both recoveries), so that units whose masks end at exactly zero still have an order;
    - the less dominant the label that unlearning reveals, the lower the threshold;
    - suspects that the clean task needs are spared;
    - held-out clean accuracy, against the budget, decides how far along the order to prune;
    - a pruned unit loses its bias too, so that the unit is really gone.

    Attributes
    ----------
    unlearnings
        One for each unlearned network; the first one's outcome is the repair's exposure.
    recovering
        How masks are learned.
    recover_original
        Whether masks are also recovered on the network as it came.
    trajectory
        Score by the mask averaged over all steps; otherwise by the last mask.
    threshold
        Units with a higher score are no suspects, in ``[0, 1]`` (the paper's DT).
    dominance
        Where the revealed label takes a smaller share of the unlearned network's answers than this (0 is
        chance, 1 all answers), the threshold falls with the square of the shortfall: with nothing that points to a
        backdoor, little is pruned. None always uses the whole threshold.
    spare
        How much the learning loss may rise for one unit of the highest suspicion, in nats; the tolerance of
        others is proportional to their suspicion, 1 - score. None spares nothing.
    budget
        Allowed loss of held-out clean accuracy, in ``[0, 1]``: pruning stops before the loss is shown to be
        larger, that is before the lower end of its interval exceeds the budget. None prunes every suspect.
    shift
        Whether pruning zeroes a norm's bias with its weight.
    """

    unlearnings: tuple[Unlearning, ...] = (GENTLE,)
    recovering: Recovering = field(default_factory=Recovering)
    recover_original: bool = True
    trajectory: bool = True
    threshold: float = 0.8
    dominance: float | None = 0.5
    spare: float | None = 0.01
    budget: float | None = 0.02
    shift: bool = True

    def __post_init__(self) -> None:
        if not self.unlearnings:
            raise MethodError("rnp needs at least one unlearning")
        if not 0 <= self.threshold <= 1:
            raise MethodError(f"threshold {self.threshold} must be between 0 and 1")
        if self.budget is not None and not 0 <= self.budget <= 1:
            raise MethodError(f"budget {self.budget} must be between 0 and 1 (0 and 100 points)")
        if self.dominance is not None and not 0 < self.dominance <= 1:
            raise MethodError(f"dominance {self.dominance} must be above 0 and at most 1")
        if self.spare is not None and self.spare < 0:
            raise MethodError(f"spare {self.spare} must not be negative")

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
            The network has no prunable unit.
        """
        generator = generator or torch.Generator().manual_seed(0)
        progress = progress or Silent()
        seconds: dict[str, float] = {}
        with flushed_denormals():
            work = _working_copy(network)
            discovery = discover(work, example_input(clean.convention).to(next(work.parameters()).device))
            if not discovery.total:
                raise MethodError(
                    f"{type(network).__name__} has no unit that can be pruned; `secateur units` says why"
                )
            exposures, paths = self._paths(work, discovery, clean, generator, progress, seconds)
            masks = torch.stack([path.mean if self.trajectory else path.last for path in paths])
            scores = masks.log().mean(0).exp()
            with _timed(seconds, "choosing"):
                choice = self._choose(work, discovery, clean, scores, self._limit(exposures[0]), progress)
        return self._result(network, discovery, scores, choice, exposures, seconds)

    def _paths(
        self,
        network: nn.Module,
        discovery: Discovery,
        clean: CleanData,
        generator: torch.Generator,
        progress: Progress,
        seconds: dict[str, float],
    ) -> tuple[list[Exposure], list[MaskPath]]:
        """Unlearn to each depth and recover masks from there."""
        example = example_input(clean.convention).to(next(network.parameters()).device)
        exposures: list[Exposure] = []
        paths: list[MaskPath] = []
        starts: list[Unlearning | None] = list(self.unlearnings)
        if self.recover_original:
            starts.append(None)
        for depth, unlearning in enumerate(starts):
            unlearned = copy.deepcopy(network)
            with logits(unlearned, example):
                if unlearning is not None:
                    with _timed(seconds, f"unlearning {depth + 1}"):
                        exposures.append(
                            unlearning(
                                unlearned,
                                clean.learn,
                                clean.convention,
                                generator=generator,
                                progress=progress,
                            )
                        )
                with _timed(seconds, f"recovering {depth + 1}"):
                    path = self.recovering(
                        unlearned,
                        discovery.layers,
                        clean.learn,
                        clean.convention,
                        generator=generator,
                        progress=progress,
                    )
            if path.losses:
                paths.append(path)
        return exposures, paths

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
                return walk.along(suspects, tolerances, 1.0, progress)
            return walk.along(suspects, tolerances, self.budget, progress, LOSS_PER_POINT * self.budget)

    def _result(
        self,
        network: nn.Module,
        discovery: Discovery,
        scores: Tensor,
        choice: Choice,
        exposures: list[Exposure],
        seconds: dict[str, float],
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
        notes = [
            f"Unlearning stopped at clean accuracy {exposure.accuracies[-1]:.3f}, above the "
            f"{unlearning.accuracy} asked for; its last state was used."
            for unlearning, exposure in zip(self.unlearnings, exposures, strict=True)
            if not exposure.reached
        ]
        if choice.spared:
            notes.append(f"{choice.spared} suspects were spared because the clean task needs them.")
        return Repair(
            method="rnp",
            outcome="repaired" if scored else "nothing found",
            network=repaired.eval(),
            recipe=recipe,
            discovery=discovery,
            scores=scores,
            curve=choice.curve,
            chosen=choice.chosen,
            budget=1.0 if self.budget is None else self.budget,
            exposure=exposures[0],
            seconds=seconds,
            hyperparameters=asdict(self),
            notes=tuple(notes),
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
