"""Whether a polished network is kept: it must not bring back what pruning took away.

Polishing sees the triggers that are known, so that these alone would not tell: triggers are inverted again.
It is argued in ``docs/decisions/0005-polishing.md``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from secateur.data import CleanData
from secateur.expose import (
    Case,
    Found,
    Succeeding,
    Successors,
    answers_without,
    of_others,
    predict,
    wanted_classes,
)
from secateur.repair.choosing import HeldOut
from secateur.repair.notes import sizes_of
from secateur.repair.polishing import Polishing
from secateur.repair.result import CurvePoint
from secateur.statistics import PairedLoss, Proportion, paired_loss
from secateur.units import Unit, prune


@dataclass(frozen=True)
class Polished:
    """A polished network that is kept.

    Attributes
    ----------
    network
        Its answers are logits only where those of the network it comes from were.
    point
        Its accuracy on held-out images, against the network as it came.
    """

    network: nn.Module
    point: CurvePoint


@dataclass(frozen=True)
class Change:
    """The same question for each held-out image, before and after polishing.

    Attributes
    ----------
    before, after
        Whether it is answered with yes, ``(N,)``.
    """

    before: Tensor
    after: Tensor

    @property
    def loss(self) -> PairedLoss:
        """By how much the share fell."""
        return paired_loss(self.before, self.after)

    def __str__(self) -> str:
        loss, images = self.loss, len(self.before)
        before, after = (100 * Proportion.of(flags).value for flags in (self.before, self.after))
        return (
            f"from {before:.1f} to {after:.1f} % of {images} held-out images (95 % interval of the change "
            f"{-100 * loss.high:+.1f} to {-100 * loss.low:+.1f} points)"
        )


def polish(
    polishing: Polishing,
    case: Case,
    found: Found,
    units: Sequence[Unit],
    known: Sequence[Found],
    *,
    triggers: Sequence[Found],
    succeeding: Succeeding,
    shift: bool,
) -> Polished | None:
    """Polish the network of a case without `units`; return nothing if that is not kept.

    The case keeps stages and notes. For `shift` see `prune`.

    Parameters
    ----------
    polishing
        How it is polished.
    case
        The network as it came.
    found
        The trigger that stood out there.
    units
        Those that were pruned, at least one.
    known
        Triggers that they were taken out for.
    triggers
        What `found` was compared with.
    succeeding
        How triggers are inverted again.
    """
    layers, clean = case.discovery.layers, case.clean
    without = partial(prune, layers=layers, units=units, shift=shift)
    with case.stage("polishing"):
        pruned = without(case.network)
        polished = polishing(
            pruned,
            case.network,
            clean.learn.images,
            clean.convention,
            layers=layers,
            units=units,
            shift=shift,
            triggers=known,
            generator=case.generator,
            progress=case.progress,
        )
    successors = Successors(
        succeeding,
        found,
        triggers,
        layers,
        clean,
        shift=shift,
        generator=case.generator,
        progress=case.progress,
    )
    with case.stage("checking the polish"):
        kept, facts = compare(pruned, polished, clean, without=without, known=known, successors=successors)
        point = HeldOut(case.network, layers, clean, shift=shift).of(polished, len(units))
    outcome = "polished" if kept else "polished, and the polish was discarded"
    case.notes.append(f"The pruned network was {outcome}. {' '.join(facts)}")
    return Polished(polished, point) if kept else None


def compare(
    pruned: nn.Module,
    polished: nn.Module,
    clean: CleanData,
    *,
    without: Callable[[nn.Module], nn.Module],
    known: Sequence[Found],
    successors: Successors,
) -> tuple[bool, list[str]]:
    """Return whether a polished network is kept, and what was measured, as sentences.

    It is not if it is right on fewer held-out images than before, if a known trigger succeeds on more beyond
    chance, or if a trigger inverted on it is cheap; nor if some were cheap before, which tells nothing.

    Parameters
    ----------
    pruned, polished
        The network before and after polishing, in evaluation mode, answering with logits; not changed.
    clean
        ``clean.choose`` are the held-out images.
    without
        Returns a network without the pruned units: a shift must not wake them.
    known
        Triggers that units were taken out for.
    successors
        Has not looked yet, so that what is cheap is measured on `pruned`.
    """
    accuracy = Change(_right(pruned, clean), _right(polished, clean))
    facts = [f"Accuracy went {accuracy}."]
    if accuracy.loss.value > 0:
        return False, facts
    cheap = successors.cheap(pruned)
    looks = len(successors.seen)
    changes = [
        Change(*(_fooled(network, trigger, clean, without) for network in (pruned, polished)))
        for trigger in (*known, *cheap)
    ]
    worst = min(changes, key=lambda change: change.loss.high)
    facts.append(f"Of known triggers ({len(changes)}), success of the one that gained most went {worst}.")
    if worst.loss.high < 0:
        return False, facts
    if cheap:
        facts.append(
            f"Triggers inverted again were cheap before it already ({sizes_of(cheap)}): inverting does not "
            "tell what it brings back."
        )
        return False, facts
    cheap = successors.cheap(polished)
    before, after = successors.seen[:looks], successors.seen[looks:]
    facts.append(
        f"Triggers inverted again take {sizes_of(after)}, before it {sizes_of(before)}: compared with other "
        f"labels they are {'cheap' if cheap else 'not cheap'}."
    )
    return not cheap, facts


def _right(network: nn.Module, clean: CleanData) -> Tensor:
    """Return on which held-out images the network is right, ``(N,)``."""
    return predict(network, clean.choose.images, clean.convention).argmax(1) == clean.choose.labels


def _fooled(
    network: nn.Module, trigger: Found, clean: CleanData, without: Callable[[nn.Module], nn.Module]
) -> Tensor:
    """Return on which held-out images of other classes the trigger succeeds, ``(M,)``."""
    images, convention = clean.choose, clean.convention
    answers = answers_without(network, trigger.label, images, convention)
    others = of_others(answers, trigger.label)
    changed, stamped = trigger.present(network, images.images[others])
    outputs = predict(without(changed), stamped, convention)
    wanted = wanted_classes(trigger.label, answers[others], outputs.shape[1])
    return wanted.gather(1, outputs.argmax(1, keepdim=True)).flatten()
