"""What a repair returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from secateur.expose import Exposed, Exposure, Findings, Found, LabelScores, Look, judge
from secateur.statistics import PairedLoss, Proportion
from secateur.units import Discovery, Recipe, Unit

Outcome = Literal["repaired", "nothing found", "inconclusive"]


@dataclass(frozen=True)
class CurvePoint:
    """Clean accuracy after so many units of the order are pruned.

    Attributes
    ----------
    pruned
        Number of units, the first of the recipe's order.
    accuracy
        On the images that only choose the threshold.
    loss
        Of accuracy against the network as it came, on the same images.
    """

    pruned: int
    accuracy: Proportion
    loss: PairedLoss


@dataclass(frozen=True)
class Learning:
    """How an agent's search went, in one round.

    Attributes
    ----------
    evaluations
        How many were made: one for each choice of units that was measured, several for each look at what
        changes of one would do.
    seconds
        That it took.
    curve
        Evaluations so far and the worth of the best choice, whenever that rose. With nothing pruned the
        worth is 0; at most it is 1.
    """

    evaluations: int
    seconds: float
    curve: tuple[tuple[int, float], ...]


def outcome_of(exposed: Exposed, *, changed: bool) -> Outcome:
    """Return the outcome of a repair that changed the network, or did not.

    Nothing was found where nothing points to a backdoor, and what was looked at could have.
    """
    if changed:
        return "repaired"
    findings, labels = exposed.findings, exposed.labels
    decided = exposed.exposure is not None and exposed.exposure.finite
    if findings.looks:
        decided = decided and judge(findings).conclusion != "inconclusive"
    points = findings.found is not None or (labels is not None and labels.label is not None)
    return "nothing found" if decided and not points else "inconclusive"


@dataclass(frozen=True)
class Repair:
    """A repaired network with the evidence.

    Attributes
    ----------
    method
        Name, as the command line knows it; `hyperparameters` tell the preset.
    outcome
        ``repaired``; ``nothing found`` (the network is as it came); ``inconclusive`` (nothing was pruned,
        and `notes` say why).
    network
        A copy of the network with the units of `recipe` pruned, and `tuned` if that is said; evaluation mode,
        on its device.
    recipe
        Which units, in which order, with which scores.
    discovery
        All units that could have been pruned, and what could not.
    scores
        ``(total,)`` in ``[0, 1]``, in the order of `discovery`'s layers; low is suspicious.
    curve
        Accuracy over units pruned, from 0 to beyond the chosen point.
    chosen
        Index into `curve` of the repaired network.
    budget
        Allowed loss of clean accuracy, in ``[0, 1]``.
    exposure
        What unlearning revealed, where the method unlearns.
    seconds
        Wall-clock time of each stage.
    hyperparameters
        Every setting of the method, as plain values.
    notes
        Sentences for the report: limits met, fallbacks taken.
    findings
        The triggers that were inverted, where the method searches.
    tuned
        Accuracy after the weights were fitted to clean images, where the method does that (unlearning a
        trigger, polishing): then pruning the units of `recipe` alone does not give `network`.
    labels
        What unlearning says of each class; None where there is no exposure, or it says nothing.
    looks
        How triggers were looked for again on the pruned network, in order, where units were erased.
    learning
        How an agent searched, round after round, where one did.
    joined
        Units that the graph which it searched joins with a pruned one, in pairs.
    """

    method: str
    outcome: Outcome
    network: nn.Module
    recipe: Recipe
    discovery: Discovery
    scores: Tensor
    curve: tuple[CurvePoint, ...]
    chosen: int
    budget: float
    exposure: Exposure | None
    seconds: dict[str, float]
    hyperparameters: dict[str, object]
    notes: tuple[str, ...] = ()
    findings: Findings | None = None
    tuned: CurvePoint | None = None
    labels: LabelScores | None = None
    looks: tuple[Look, ...] = ()
    learning: tuple[Learning, ...] = ()
    joined: tuple[tuple[Unit, Unit], ...] = ()

    @property
    def trigger(self) -> Found | None:
        """The inverted trigger whose units were looked for, if one stood out."""
        return None if self.findings is None else self.findings.found

    def state(self, original: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the repaired weights, with the names and types of the original ones.

        Parameters
        ----------
        original
            State dict that the network was made from.
        """
        if self.tuned is None:
            return self.recipe.apply(original)
        fitted = self.network.state_dict()
        return {name: fitted[name].to(value) if name in fitted else value for name, value in original.items()}
