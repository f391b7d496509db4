"""Looking for a backdoor by four kinds of trigger, the cheapest search first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose.forgetting import Outlasting
from secateur.expose.labels import LabelScores
from secateur.expose.latent import LatentInversion
from secateur.expose.triggers import Found, Inversion, ranked, suspect
from secateur.progress import Progress
from secateur.units import UnitLayer

CHANGING = Inversion(success=0.9, weight=1e-2, restarts=2)
"""A mapping of all classes fails on images that it sends to their own answer, so less is asked for."""

Kind = Literal["patch", "change", "shift", "outlasting"]
Reason = Literal[
    "no normalisation", "too many classes", "found before", "one label", "left out", "not converged"
]


@dataclass(frozen=True)
class Findings:
    """What a search came to.

    Attributes
    ----------
    found
        The trigger that is anomalously small, if one is.
    triggers
        All that it was compared with, itself included; without one, every trigger inverted.
    looks
        What was inverted and compared in each kind of search, in its order: ``patch``, ``change`` (the last
        of its triggers is the one without a label), ``shift`` and ``outlasting``.
    skipped
        Why the other kinds were not tried.
    point
        Strength beyond which a trigger stands out.
    labels
        What unlearning says of each label, which supports triggers; None where it says nothing.
    """

    found: Found | None
    triggers: tuple[Found, ...]
    looks: Mapping[Kind, tuple[Found, ...]] = field(default_factory=dict)
    skipped: Mapping[Kind, Reason] = field(default_factory=dict)
    point: float = 1.0
    labels: LabelScores | None = None

    @classmethod
    def none(cls, reason: Reason) -> "Findings":
        """Return those of no search at all."""
        return cls(None, (), skipped=dict.fromkeys(get_args(Kind), reason))

    def strongest(self, kind: Kind) -> tuple[float, float, Found]:
        """Return the trigger of a kind that stands out most, after its strength and its support.

        Of patches that change any answer there is one, and those for labels are what it is compared with.
        Support is what the strength owes to unlearning, 1 if it points to another label. Patterns that
        outlast the forgetting of a class have none: unlearning is no other witness than that.
        """
        strength, trigger = next(
            pair for pair in ranked(self.looks[kind]) if kind != "change" or pair[1].label is None
        )
        support = 1.0
        if self.labels and kind != "outlasting" and trigger.label == self.labels.top:
            support = self.labels.support
        return strength * support, support, trigger

    def beyond(self, point: float) -> "Findings":
        """Return what stands out beyond another point among the same triggers."""
        found, triggers = _standing_out(self.looks, point, self.labels)
        return replace(self, found=found, triggers=triggers, point=point)


@dataclass(frozen=True)
class Search:
    """Invert triggers of one kind after the other until one is anomalously small.

    First a patch is inverted for every label, then a patch that turns every image into any other class than
    the network's own answer (mappings from all classes to all have no label in common; left out if one label
    dominates unlearning: its triggers change answers, too), then a shift of early channels for every label
    (triggers that cover the image have no small patch). If none stands out alone, one for the label that
    gains most from unlearning may with that support (see `LabelScores.support`). Last comes, for every label,
    a pattern that outlasts the forgetting of its class. All but the first are tried on networks with
    normalisation only: `Erasing` acts on them, and shifts live in its channels.

    Attributes
    ----------
    patches
        How patches are inverted for labels.
    changing
        How patches are inverted that change answers whatever to.
    shifts
        How shifts are inverted.
    outlasting
        How classes are forgotten and patterns inverted; None does not.
    most
        Of more labels, patches are inverted only for so many: those that gain most from unlearning.
        Where it was not unlearned, for none.
    proposed
        Of more labels, shifts and outlasting patterns are inverted only for so many, chosen in the same way,
        or, where the network was not unlearned, by their patches.
    thorough
        Whether every kind is tried, also after one was found.
    point
        Strength beyond which a trigger stands out (see `strengths`), above 0.
    """

    patches: Inversion = field(default_factory=Inversion)
    changing: Inversion = field(default_factory=lambda: CHANGING)
    shifts: LatentInversion = field(default_factory=LatentInversion)
    outlasting: Outlasting | None = field(default_factory=Outlasting)
    proposed: int = 12
    most: int = 100
    thorough: bool = False
    point: float = 1.0

    def __post_init__(self) -> None:
        if min(self.proposed, self.most) < 1:
            raise MethodError("a search needs at least one label")
        if self.point <= 0:
            raise MethodError(f"point {self.point} must be above 0")

    def __call__(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        clean: CleanData,
        *,
        labels: LabelScores | None,
        classes: int,
        shift: bool,
        generator: torch.Generator,
        progress: Progress,
    ) -> Findings:
        """Search.

        Parameters
        ----------
        network
            Answers with logits, in evaluation mode, without gradients in its parameters; not changed.
        layers
            Its layers with units.
        clean
            Triggers are fitted to ``clean.learn`` and judged on ``clean.choose``.
        labels
            What unlearning says of each label; None where it says nothing.
        classes
            Number of labels.
        shift
            Whether shifts of channels are searched: pruning must take them away with the channel.
        generator
            Decides starts and batches.
        progress
            Told about every step.
        """
        candidates = list(range(classes))
        if labels is not None:
            candidates.sort(key=lambda label: -labels.gained[label])
        elif classes > self.most:
            return Findings.none("too many classes")
        searched = sorted(candidates[: self.most])

        def invert(
            inversion: Callable[..., tuple[Found, ...]], labels: Sequence[int | None]
        ) -> tuple[Found, ...]:
            return inversion(
                clean.learn,
                clean.choose,
                clean.convention,
                generator=generator,
                labels=labels,
                progress=progress,
            )

        looks: dict[Kind, tuple[Found, ...]] = {"patch": invert(partial(self.patches, network), searched)}
        skipped: dict[Kind, Reason] = {}
        found, triggers = _standing_out(looks, self.point)
        if labels is None:
            candidates = [trigger.label for _, trigger in ranked(triggers) if trigger.label is not None]
        proposed = sorted(candidates[: self.proposed])
        normed = any(layer.kind == "norm" for layer in layers)
        dominant = labels.label if labels else None

        def goes_on(kind: Kind) -> bool:
            if normed and (self.thorough or not found):
                return True
            skipped[kind] = "found before" if normed else "no normalisation"
            return False

        if dominant is not None and normed and not (found or self.thorough):
            skipped["change"] = "one label"
        elif goes_on("change"):
            looks["change"] = looks["patch"] + invert(partial(self.changing, network), [None])
            found, triggers = _standing_out(looks, self.point)
        if goes_on("shift") and shift:
            looks["shift"] = invert(partial(self.shifts, network, layers), proposed)
        elif not shift:
            skipped["shift"] = "left out"
        found, triggers = _standing_out(looks, self.point, labels)
        if goes_on("outlasting") and self.outlasting:
            looks["outlasting"] = invert(partial(self.outlasting, network), proposed)
            found, triggers = _standing_out(looks, self.point, labels)
        elif not self.outlasting:
            skipped["outlasting"] = "left out"
        return Findings(found, triggers, looks, skipped, self.point, labels)


def _standing_out(
    looks: Mapping[Kind, tuple[Found, ...]], point: float, labels: LabelScores | None = None
) -> tuple[Found | None, tuple[Found, ...]]:
    """Return the trigger that stands out, and what it was compared with; without one, every trigger.

    The first kind in which one does so alone counts; before patterns that outlast forgetting, those of the
    other kinds may do so with the support of `labels`.
    """
    findings = Findings(None, (), looks, labels=labels)
    triggers = looks.get("patch", ())
    if found := suspect(triggers, point):
        return found, triggers
    if "change" in looks:
        triggers = looks["change"]
        strength, _, change = findings.strongest("change")
        if strength > point:
            return change, triggers
    if "shift" in looks:
        if found := suspect(looks["shift"], point):
            return found, looks["shift"]
        triggers += looks["shift"]
    if labels:
        kind = max(
            (kind for kind in looks if kind != "outlasting"), key=lambda kind: findings.strongest(kind)[0]
        )
        strength, _, supported = findings.strongest(kind)
        if strength > point:
            return supported, looks[kind]
    if "outlasting" in looks:
        if found := suspect(looks["outlasting"], point):
            return found, looks["outlasting"]
        triggers += looks["outlasting"]
    return None, triggers
