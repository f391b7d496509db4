"""Reconstructive Neuron Pruning (Li et al., ICML 2023, arXiv 2305.14876)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose import (
    GENTLE,
    Case,
    Exposed,
    Exposing,
    Findings,
    Found,
    InvertedTrigger,
    LatentTrigger,
    Search,
    Strengthening,
    Successors,
    Unlearning,
    flushed_denormals,
    typical_norm,
)
from secateur.progress import Progress
from secateur.repair.choosing import Choice, HeldOut
from secateur.repair.chosen import Chosen
from secateur.repair.dominance import Dominance
from secateur.repair.erasing import Erasing
from secateur.repair.keeping import Polished, polish
from secateur.repair.masking import choose_by_masks, recovered_masks
from secateur.repair.notes import again_notes, found_note, nothing_small, stopped_notes
from secateur.repair.polishing import Polishing
from secateur.repair.recovering import Recovering
from secateur.repair.registry import register
from secateur.repair.result import Repair, outcome_of
from secateur.repair.silencing import Silencing
from secateur.units import Recipe, ScoredUnit, all_units, prune

SOUGHT = "Units that carry it were looked for."

PAPER: dict[str, object] = {
    "unlearning": Unlearning(passes=21),
    "recovering": Recovering(dropout=True),
    "original": 0.0,
    "trajectory": False,
    "threshold": 0.3,
    "dominant": False,
    "spare": None,
    "budget": None,
    "shift": False,
    "search": None,
    "polishing": None,
    "strengthening": None,
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
    threshold are pruned, their biases stay.

    The default first inverts triggers for labels: patches for every one (of many, those with the larger
    patches are dropped early; of more than 100, only those that unlearning points to are tried), other kinds
    for at most 12: see `Search`. If one is anomalously small, the units that carry it, and triggers inverted
    anew after them, are pruned, the unlearned network showing units beside them if it points to the same
    label: see `Erasing`, argued in ``docs/decisions/0003-erasing.md`` and ``0006``. What is left is polished
    (``docs/decisions/0005-polishing.md``). If none is, masks decide, in five ways other than the
    paper's (``docs/decisions/0001-rnp-default.md``):

    - unlearning takes short steps and stops as soon as the clean accuracy is low, and masks are also
      recovered on the network as it came; a unit's score is its mask averaged over all steps (a weighted
      mean of both recoveries), so that units whose masks end at exactly zero still have an order;
    - where unlearning reveals no dominant label, nothing is pruned;
    - suspects that the clean task needs are spared;
    - held-out clean accuracy, against the budget, decides how far along the order to prune;
    - a pruned unit loses its bias too, so that the unit is really gone.

    Of networks without batch normalisation unlearning and masks reveal nothing reliable
    (``docs/decisions/0002-networks-without-normalisation.md``). The units that answer an anomalously small
    trigger are pruned by `Silencing`; if there is none, the network is left as it is.

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
    dominant
        Whether masks prune only where a label dominates unlearning: with nothing that points to a backdoor,
        clean accuracy would be lost for nothing.
    spare
        How much the learning loss may rise for one unit of the highest suspicion, in nats; the tolerance of
        others is proportional to their suspicion, 1 - score. None spares nothing.
    budget
        Allowed loss of held-out clean accuracy, in ``[0, 1]``: pruning stops before the loss is shown to be
        larger, that is before the lower end of its interval exceeds the budget. `erasing` may spend
        `Erasing.overrun` times as much to finish. None prunes every suspect.
    share
        Of all units, how many may be pruned by their masks under a budget, in ``[0, 1]``: a backdoor sits in
        few. `erasing` and `silencing` have shares of their own.
    shift
        Whether pruning zeroes a norm's bias with its weight.
    search
        How triggers are looked for; None does not, and masks decide in any case.
    erasing, silencing
        How the units that carry triggers are chosen, in networks with batch normalisation and in others.
    polishing
        How the weights that are left are fitted to the answers of the network as it came, once units are
        pruned for a trigger; kept only if that brings nothing back: see `secateur.repair.keeping`. None
        leaves them alone, so that the recipe alone gives the repaired weights.
    strengthening
        How patches that are known are made stronger, to be shown to a polish beside them; None shows no more
        than is known.
    """

    name: ClassVar[str] = "rnp"

    unlearning: Unlearning = GENTLE
    recovering: Recovering = field(default_factory=Recovering)
    original: float = 1 / 3
    trajectory: bool = True
    threshold: float = 0.7
    dominant: bool = True
    spare: float | None = 0.01
    budget: float | None = 0.02
    share: float = 0.125
    shift: bool = True
    search: Search | None = field(default_factory=Search)
    erasing: Erasing = field(default_factory=Erasing)
    silencing: Silencing = field(default_factory=Silencing)
    polishing: Polishing | None = field(default_factory=Polishing)
    strengthening: Strengthening | None = field(default_factory=Strengthening)

    def __post_init__(self) -> None:
        if not 0 <= self.original <= 1:
            raise MethodError(f"original {self.original} must be between 0 and 1")
        if not 0 <= self.threshold <= 1:
            raise MethodError(f"threshold {self.threshold} must be between 0 and 1")
        if self.budget is not None and not 0 <= self.budget <= 1:
            raise MethodError(f"budget {self.budget} must be between 0 and 1 (0 and 100 points)")
        if not 0 <= self.share <= 1:
            raise MethodError(f"share {self.share} must be between 0 and 1")
        if self.spare is not None and not 0 <= self.spare < math.inf:
            raise MethodError(f"spare {self.spare} must be finite and not negative")

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        *,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
        exposed: Exposed | None = None,
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
        exposed
            What exposing this network has revealed already; by default it is exposed first. A scan speaks of
            evidence at a higher point than that of `search`: what it inverted is judged by the latter. The
            generator is then where it would be before, so that later stages draw other numbers.

        Raises
        ------
        MethodError
            The network has no prunable unit, its weights are not float32, or `exposed` holds a trigger that
            these settings do not look for.
        """
        with flushed_denormals():
            case = Case.of(network, clean, generator, progress)
            exposed = Exposing(self.unlearning, self.search, self.shift)(case, exposed)
            self._check(exposed.findings)
            return self.finish(network, case, exposed, self.choose(case, exposed))

    def choose(self, case: Case, exposed: Exposed) -> Chosen:
        """Choose the units to prune.

        Parameters
        ----------
        case
            The network and its clean images; told of times and notes.
        exposed
            What exposing it revealed.
        """
        found = exposed.findings.found
        if found and exposed.exposure:
            return self._erase(case, exposed, found)
        if isinstance(found, InvertedTrigger):
            return self._silence(case, exposed, found)
        if exposed.unlearned and self._points(exposed):
            return self._recover(case, exposed, exposed.unlearned)
        return self._leave(case, exposed)

    def finish(self, network: nn.Module, case: Case, exposed: Exposed, chosen: Chosen) -> Repair:
        """Prune the units chosen from a copy of a network, and polish what is left.

        Parameters
        ----------
        network
            As it came.
        case, exposed, chosen
            What they were chosen with, and what was chosen; the latter two stay as they are.
        """
        if chosen.erased:
            case.notes += again_notes(chosen.erased.triggers)
            successors = chosen.erased.successors.apart(case)
            chosen = replace(chosen, erased=replace(chosen.erased, successors=successors))
        if exposed.findings.found:
            case.notes += stopped_notes(chosen.choice, self._budget)
        return self._result(network, case, chosen, exposed, self._polish(case, exposed.findings, chosen))

    def _check(self, findings: Findings) -> None:
        """Make sure that findings are of a kind that is searched for."""
        if findings.looks and self.search is None:
            raise MethodError("these settings search for no triggers: they cannot use those that were found")
        if isinstance(findings.found, LatentTrigger) and not self.shift:
            raise MethodError("a shift of channels was found, and these settings leave biases as they are")

    def _erase(self, case: Case, exposed: Exposed, found: Found) -> Chosen:
        """Choose the units that carry the trigger found and its successors."""
        findings = exposed.findings
        with case.stage("erasing"), Dominance.beside(found, exposed, case.example) as pointed:
            erased = self.erasing(
                case,
                found,
                triggers=findings.triggers,
                budget=self._budget,
                shift=self.shift,
                pointed=pointed,
            )
        case.notes.append(found_note(findings.triggers, found, SOUGHT))
        return Chosen(erased.choice, erased.scores, erased)

    def _silence(self, case: Case, exposed: Exposed, found: InvertedTrigger) -> Chosen:
        """Choose the units that answer the trigger found, where no layer is a norm."""
        with case.stage("silencing"):
            choice, scores = self.silencing(case, found, budget=self._budget, shift=self.shift)
        case.notes.append(found_note(exposed.findings.triggers, found, SOUGHT))
        return Chosen(choice, scores)

    def _recover(self, case: Case, exposed: Exposed, unlearned: nn.Module) -> Chosen:
        """Recover masks, on the unlearned network and on the original, and choose by them."""
        findings = exposed.findings
        parts = [
            (1 - self.original, unlearned, "recovering"),
            (self.original, case.network, "recovering the original"),
        ]
        scores = recovered_masks(case, self.recovering, parts, trajectory=self.trajectory)
        with case.stage("choosing"):
            choice = choose_by_masks(
                case,
                scores,
                threshold=self.threshold,
                spare=self.spare,
                share=self.share,
                budget=self.budget,
                shift=self.shift,
            )
        if findings.triggers:
            case.notes.append(f"{nothing_small(findings.triggers)} The masks alone decided what to prune.")
        if choice.spared:
            case.notes.append(f"{choice.spared} suspects were spared because the clean task needs them.")
        return Chosen(choice, scores)

    def _leave(self, case: Case, exposed: Exposed) -> Chosen:
        """Prune nothing, and say why."""
        findings = exposed.findings
        if exposed.exposure:
            searched = f"{nothing_small(findings.triggers)} " if findings.triggers else ""
            case.notes.append(f"{searched}Unlearning points to no label either. Nothing was pruned.")
            return self._choose_none(case)
        reason = (
            "The network has no normalisation with weights to mask, so unlearning and masks reveal nothing "
            "reliable of it"
        )
        if findings.triggers:
            case.notes.append(f"{reason}. {nothing_small(findings.triggers)} Nothing was pruned.")
        else:
            case.notes.append(f"{reason}, and its classes are too many to invert a trigger for each.")
        return self._choose_none(case)

    def _choose_none(self, case: Case) -> Chosen:
        with case.stage("choosing"):
            held = HeldOut(case.network, case.discovery.layers, case.clean, shift=self.shift)
            choice = Choice.within(self._budget, [], held.curve([], 1))
        return Chosen(choice, torch.ones(case.discovery.total))

    def _polish(self, case: Case, findings: Findings, chosen: Chosen) -> Polished | None:
        """Polish the pruned network; return nothing if that is not asked for or not kept."""
        choice, erased = chosen.choice, chosen.erased
        if self.polishing is None or not choice.pruned:
            return None
        if not findings.found:
            case.notes.append("Not polished: no trigger stood out to check a polish against.")
            return None
        units = list(all_units(case.discovery.layers))
        known = erased.defeated if erased else [findings.found]
        return polish(
            self.polishing,
            case,
            [units[k] for k in choice.pruned],
            known,
            doubtful=erased.doubtful if erased else (),
            stronger=self._strengthen(case, findings, known),
            successors=erased.successors
            if erased
            else Successors(
                self.erasing.succeeding, case, findings.found, findings.triggers, shift=self.shift
            ),
            settled=erased is not None and erased.settled,
            shift=self.shift,
        )

    def _strengthen(self, case: Case, findings: Findings, known: Sequence[Found]) -> Sequence[Found]:
        if self.strengthening is None or findings.found is None or findings.found.form != "patch":
            return ()
        with case.stage("strengthening"):
            return self.strengthening(
                case.network,
                known,
                case.clean,
                largest=typical_norm(findings.triggers, findings.found),
                generator=case.generator,
                progress=case.progress,
            )

    @property
    def _budget(self) -> float:
        return 1.0 if self.budget is None else self.budget

    def _points(self, exposed: Exposed) -> bool:
        """Say whether unlearning points to a label, so that masks may prune."""
        if not exposed.exposure:
            return False
        return not self.dominant or (exposed.labels is not None and exposed.labels.label is not None)

    def _result(
        self,
        network: nn.Module,
        case: Case,
        chosen: Chosen,
        exposed: Exposed,
        polished: Polished | None,
    ) -> Repair:
        choice, scores = chosen.choice, chosen.scores
        exposure, findings = exposed.exposure, exposed.findings
        layers = case.discovery.layers
        units = list(all_units(layers))
        scored = [ScoredUnit(units[k], float(scores[k])) for k in choice.pruned]
        recipe = Recipe.record(
            network.state_dict(),
            layers,
            scored,
            method=self.name,
            architecture=type(network).__name__,
            gamma_only=not self.shift,
        )
        repaired = prune(network, layers, [s.unit for s in scored], shift=self.shift)
        if polished:
            repaired.load_state_dict(polished.network.state_dict())
        return Repair(
            method=self.name,
            outcome=outcome_of(exposed, changed=bool(scored)),
            network=repaired.eval(),
            recipe=recipe,
            discovery=case.discovery,
            scores=scores,
            curve=choice.curve,
            chosen=choice.chosen,
            budget=self._budget,
            exposure=exposure,
            seconds=case.seconds,
            hyperparameters=asdict(self),
            notes=tuple(case.notes),
            findings=findings,
            tuned=polished.point if polished else None,
            labels=exposed.labels,
            looks=tuple(chosen.erased.successors.looks) if chosen.erased else (),
            learning=chosen.learning,
            joined=chosen.joined,
        )
