"""Whether a polished network is kept: it must not bring back what pruning took away.

Polishing sees the triggers that are known, so that these alone would not tell: triggers are inverted again.
It is argued in ``docs/decisions/0005-polishing.md``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import CleanData, InputConvention, LabelledImages
from secateur.expose import (
    Case,
    Found,
    Successors,
    answers_without,
    of_others,
    predict,
    wanted_classes,
)
from secateur.repair.notes import sizes_of
from secateur.repair.polishing import Polishing
from secateur.repair.result import CurvePoint
from secateur.statistics import PairedLoss, Proportion, paired_loss
from secateur.units import Unit, prune

TOLERATED = 0.1
"""An inverted trigger that succeeds on no more than this is not at work: some images yield to any stamp."""


@dataclass(frozen=True)
class Polished:
    """A polished network that is kept.

    Attributes
    ----------
    network
        Its answers are logits only where those of the network it comes from were.
    point
        Accuracy on held-out images, against the network as it came, of the same polish without them.
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

    @property
    def back(self) -> bool:
        """Whether the share rose beyond chance, and beyond `TOLERATED`."""
        return self.loss.high < 0 and Proportion.of(self.after).value > TOLERATED

    def __str__(self) -> str:
        loss, images = self.loss, len(self.before)
        before, after = (100 * Proportion.of(flags).value for flags in (self.before, self.after))
        return (
            f"from {before:.1f} to {after:.1f} % of {images} held-out images (95 % interval of the change "
            f"{-100 * loss.high:+.1f} to {-100 * loss.low:+.1f} points)"
        )


@dataclass(frozen=True)
class Attempt:
    """A polished network, and what the polish changed.

    Attributes
    ----------
    network
        In evaluation mode, answering with logits. If it was fitted to all images in the end, the rest is of
        the same polish without the held-out ones.
    accuracy
        On which held-out images the network is right.
    losses
        Mean cross-entropy of the true labels there, before and after: where nearly all images are answered
        rightly, as those that the network was trained on are, it still tells better from worse.
    known
        On which of them each trigger that was shown succeeds, at least one.
    """

    network: nn.Module
    accuracy: Change
    losses: tuple[float, float]
    known: Sequence[Change]

    @property
    def worse(self) -> bool:
        """Whether it is right on fewer images than before, unless by chance and with less loss."""
        loss, (before, after) = self.accuracy.loss, self.losses
        return loss.value > 0 and (loss.low > 0 or after >= before)

    @property
    def back(self) -> bool:
        """Whether a trigger came back."""
        return any(change.back for change in self.known)


def polish(
    polishing: Polishing,
    case: Case,
    units: Sequence[Unit],
    known: Sequence[Found],
    *,
    doubtful: Sequence[Found] = (),
    stronger: Sequence[Found] = (),
    successors: Successors,
    settled: bool,
    shift: bool,
) -> Polished | None:
    """Polish the network of a case without `units`; return nothing if that is not kept.

    If triggers that are inverted again are cheap, they become known, and it is polished once more. The case
    keeps stages and notes. For `shift` see `prune`.

    Parameters
    ----------
    polishing
        How it is polished.
    case
        The network as it came.
    units
        Those that were pruned, at least one.
    known
        Triggers that they were taken out for.
    doubtful
        Others that may be what is left.
    stronger
        What known ones do at most. They are shown while it is polished, and tell nothing afterwards: so
        strong a patch turns some images on any network.
    successors
        Looks for triggers again, on the pruned and on the polished network.
    settled
        Whether its last look was at the pruned network, and nothing was cheap there. It does not look again.
    """
    run = _Run(polishing, case, units, known, doubtful=doubtful, stronger=stronger, shift=shift)
    before = cache(partial(looked, run.pruned, len(units), successors=successors, settled=settled))

    def judged() -> tuple[Attempt, bool, list[str], Sequence[Found]]:
        with case.stage("polishing"):
            done = run()
        with case.stage("checking the polish"):
            return done, *compare(done, len(units), successors=successors, before=before)

    done, kept, facts, cheap = judged()
    if cheap and not kept:
        run.show(cheap)
        done, kept, facts, _ = judged()
    if not kept:
        run.how.append("and the polish was discarded")
    case.notes.append(f"The pruned network was {', '.join(run.how)}. {' '.join(facts)}")
    if not kept:
        return None
    clean, right = case.clean, done.accuracy.after
    loss = paired_loss(answered(case.network, clean.choose, clean.convention)[0], right)
    return Polished(done.network, CurvePoint(len(units), Proportion.of(right), loss))


class _Run:
    """Polishes one pruned network, again where that turns out badly.

    Parameters are those of `polish`.

    Attributes
    ----------
    pruned
        The network before, answering with logits.
    how
        What was done.
    """

    def __init__(
        self,
        polishing: Polishing,
        case: Case,
        units: Sequence[Unit],
        known: Sequence[Found],
        *,
        doubtful: Sequence[Found],
        stronger: Sequence[Found],
        shift: bool,
    ) -> None:
        self._polishing, self._case, self._units, self._shift = polishing, case, units, shift
        self._known, self._doubtful, self._stronger = known, doubtful, stronger
        self._without = partial(prune, layers=case.discovery.layers, units=units, shift=shift)
        self._more = False
        with case.stage("polishing"):
            # A copy made here answers with logits as well, also later.
            self.pruned = self._without(case.network)
            self._right, self._loss = self._answered(self.pruned, case.clean.choose)
        counts = {"known": known, "doubtful": doubtful, "made stronger": stronger}
        told = ", ".join(f"{len(group)} {name}" for name, group in counts.items() if group)
        self.how = [f"polished (triggers shown: {told})"]

    def __call__(self) -> Attempt:
        """Polish it.

        If known triggers come back it is polished once more, with triggers on more images (the root of their
        share). If accuracy is lost it is polished once more without those that are doubtful, and if it still
        is, with known triggers alone: the others may be what a clean image shows. What held-out images have
        nothing to say against is done again with these images as well: there are few, and each tells more of
        the clean task. That is kept unless it is right on fewer of all images than before polishing, beyond
        chance, as where the fit fails.
        """
        before = [self._fooled(self.pruned, trigger) for trigger in self._shown]
        done = self._attempt(before)
        while True:
            if done.back and not self._more:
                self._more = True
                self._polishing = replace(self._polishing, stamped=self._polishing.stamped**0.5)
                self.how.append("once more with triggers on more images")
            elif done.worse and self._doubtful:
                self._doubtful = ()
                self.how.append("once more without the doubtful triggers")
            elif done.worse and self._stronger:
                self._stronger = ()
                self.how.append("once more with known triggers alone")
            else:
                break
            done = self._attempt(before)
        if done.worse or done.back:
            return done
        everything = self._case.clean.together()
        again = self._fitted(everything)
        plain, fit = (self._answered(each, everything)[0] for each in (self.pruned, again))
        if paired_loss(plain, fit).low > 0:
            self.how.append(f"and left so, since the same on all {len(everything)} images lost accuracy")
            return done
        self.how.append(
            f"and again on all {len(everything)} images (accuracy and known triggers: before that)"
        )
        return replace(done, network=again)

    def show(self, triggers: Sequence[Found]) -> None:
        """Know of more triggers from now on."""
        self._known = (*self._known, *triggers)
        self.how.append(f"once more with those that had become cheap ({len(triggers)})")

    @property
    def _shown(self) -> tuple[Found, ...]:
        return (*self._known, *self._doubtful)

    def _attempt(self, before: Sequence[Tensor]) -> Attempt:
        clean = self._case.clean
        polished = self._fitted(clean.learn)
        right, loss = self._answered(polished, clean.choose)
        changes = [
            Change(flags, self._fooled(polished, trigger))
            for flags, trigger in zip(before, self._shown, strict=False)
        ]
        return Attempt(polished, Change(self._right, right), (self._loss, loss), changes)

    def _fitted(self, images: LabelledImages) -> nn.Module:
        case = self._case
        return self._polishing(
            self.pruned,
            case.network,
            images,
            case.clean.convention,
            layers=case.discovery.layers,
            units=self._units,
            shift=self._shift,
            triggers=(*self._shown, *self._stronger),
            generator=case.generator,
            progress=case.progress,
        )

    def _answered(self, network: nn.Module, images: LabelledImages) -> tuple[Tensor, float]:
        return answered(network, images, self._case.clean.convention)

    def _fooled(self, network: nn.Module, trigger: Found) -> Tensor:
        return fooled(network, trigger, self._case.clean, self._without)


def looked(
    pruned: nn.Module, units: int, *, successors: Successors, settled: bool
) -> tuple[Sequence[Found], str]:
    """Return which triggers are cheap on the pruned network, and what the smallest take there, in words."""
    cheap = [] if settled else successors.cheap(pruned, pruned=units)
    return cheap, sizes_of(successors.last)


def compare(
    polished: Attempt,
    units: int,
    *,
    successors: Successors,
    before: Callable[[], tuple[Sequence[Found], str]],
) -> tuple[bool, list[str], Sequence[Found]]:
    """Return whether a polished network is kept, what was measured, as sentences, and what is cheap on it.

    It is not if it is worse on held-out images, see `Attempt`; if a known trigger succeeds on more beyond
    chance and on more than `TOLERATED`; or if a trigger inverted on it is cheap against other labels both
    there and on the network that was pruned first, unless one no larger was cheap before.

    Parameters
    ----------
    polished
        The network, and what the polish changed.
    units
        How many were pruned.
    successors
        Looks for triggers on the polished network.
    before
        Tells what is cheap on the pruned network, and what the smallest triggers take there, in words. It is
        asked only where that decides.
    """
    loss, now = polished.losses
    facts = [f"Accuracy went {polished.accuracy}, and the mean loss there from {loss:.3f} to {now:.3f}."]
    if polished.worse:
        return False, facts, []
    known = polished.known
    worst = min(known, key=lambda change: change.loss.high)
    facts.append(f"Of known triggers ({len(known)}), success of the one that gained most went {worst}.")
    if polished.back:
        return False, facts, []
    cheap_before, sizes = before()
    cheap = successors.cheap(polished.network, pruned=units, polished=True)
    if cheap:
        cheap = successors.cheap_on(polished.network, cheap)
    kept = not cheap or _no_cheaper(cheap, cheap_before)
    facts.append(
        f"Triggers inverted again take {sizes_of(successors.last)}, before it {sizes}"
        f"{' (cheap already)' if cheap_before else ''}: compared with other labels they are "
        f"{'cheap' if cheap else 'not cheap'}{', but no cheaper than before' if cheap and kept else ''}."
    )
    return kept, facts, cheap


def _no_cheaper(after: Sequence[Found], before: Sequence[Found]) -> bool:
    """Say whether triggers of the same kind were as cheap before."""
    if not before or before[0].form != after[0].form:
        return False
    return min(trigger.norm for trigger in after) >= min(trigger.norm for trigger in before)


def answered(network: nn.Module, images: LabelledImages, convention: InputConvention) -> tuple[Tensor, float]:
    """Return on which images the network is right, ``(N,)``, and their mean cross-entropy.

    The latter means something only where the network gives logits.
    """
    outputs = predict(network, images.images, convention)
    return outputs.argmax(1) == images.labels, float(F.cross_entropy(outputs, images.labels))


def fooled(
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
