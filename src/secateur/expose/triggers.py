"""Inverting triggers: the smallest patch that sends images of all other classes to a candidate label.

A shortcut that a backdoor planted needs fewer pixels than the way to any clean class does (Neural Cleanse,
Wang et al., IEEE S&P 2019).
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages, Trigger
from secateur.errors import MethodError
from secateur.expose.descending import Descent, End, answers_without, of_others, wanted_classes
from secateur.expose.forms import FORMS, FormName, Kind
from secateur.expose.unlearning import predict
from secateur.models import Precision, check_precision, without_gradients
from secateur.progress import Progress, Silent

CONSISTENT = 1.4826
"""Makes the median absolute deviation an estimate of a normal distribution's standard deviation."""
ANOMALOUS = 3.0
"""A suspect's norm is so many deviations below the median."""
FoundForm = Literal[Kind, "shift", "outlasting"]
SMALL: Mapping[FoundForm, float] = {"patch": 0.6, "additive": 0.6, "shift": 0.6, "outlasting": 0.85}
"""And at most this part of it; the multiples of outlasting triggers differ far less than sizes do."""
FEWEST = 3
"""Of triggers that converged for fewer labels, nothing tells which is small."""
SLACK = 0.2
"""By how much success on held-out images may stay behind that on the images a trigger was fitted to."""
WORKS = 0.5
"""What succeeds on a larger share of held-out images may show a backdoor at work."""
TINY = 1e-9
VALUES_PER_PASS, IMAGES_PER_PASS = 1 << 22, 512
"""Input values and images that go through the network at once; more candidates than that take turns."""


@dataclass(frozen=True)
class InvertedTrigger:
    """The smallest trigger found for one candidate label.

    Attributes
    ----------
    label
        The candidate; None for any label but the one that the network gives without the trigger.
    trigger
        What is kept of an image and what is added.
    norm
        Its size, as its form measures it: of a patch the sum of its mask, in ``[0, H * W]``.
    success
        Share of held-out images of other classes that the network gives the label when they are stamped.
    converged
        Whether that share comes near what was asked for. If not, `norm` means nothing.
    form
        What it may do to an image.
    """

    label: int | None
    trigger: Trigger
    norm: float
    success: float
    converged: bool
    form: FoundForm = "patch"

    def present(self, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
        """Return the network as it is, and the images stamped."""
        return network, self.trigger.stamp(images)

    def answers(self, network: nn.Module, images: Tensor, convention: InputConvention) -> Tensor:
        """Return what the network answers to the images once they are stamped."""
        device = next(network.parameters()).device
        output: Tensor = network(convention.normalise(self.trigger.stamp(images).to(device)))
        return output


class Found(Protocol):
    """What an inversion finds for a label, whether it sits in the image or in the network."""

    @property
    def label(self) -> int | None:
        """The candidate; None for any label but the network's own answer."""
        ...

    @property
    def norm(self) -> float:
        """Size, comparable among triggers of one kind."""
        ...

    @property
    def success(self) -> float:
        """Share of held-out images of other classes that get the label, in ``[0, 1]``."""
        ...

    @property
    def converged(self) -> bool:
        """Whether that share comes near what was asked for."""
        ...

    @property
    def form(self) -> FoundForm:
        """What kind of trigger it is: norms of different kinds are not comparable."""
        ...

    def present(self, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
        """Return a network and images, ``(N, C, H, W)`` in ``[0, 1]``, on which the trigger is at work."""
        ...

    def answers(self, network: nn.Module, images: Tensor, convention: InputConvention) -> Tensor:
        """Return the output with the trigger at work, ``(N, K)``; differentiable in the network's weights."""
        ...


AnyFound = TypeVar("AnyFound", bound=Found)


@dataclass(frozen=True)
class Inversion:
    """Minimise the loss of stamped images towards a label together with the size of the trigger.

    For every candidate and restart, the loss is the cross-entropy of stamped images towards the candidate
    plus a weight times the trigger's size. The weight rises while stamping succeeds and falls otherwise.
    Candidates and restarts go through the network in one batch (several, if the images are large); they do
    not influence each other. Of many candidates, those with the larger triggers are dropped early (successive
    halving, Jamieson and Talwalkar, AISTATS 2016): a backdoor's is the smallest.

    Attributes
    ----------
    steps
        Of Adam.
    rate
        Of Adam.
    batch_size
        Images per candidate and step.
    restarts
        Random starts per candidate; the smallest trigger that succeeds counts.
    success
        The share of stamped images that must answer the candidate, in ``(0, 1)``.
    weight
        Of the trigger's size at first, above 0.
    factor
        By which the weight rises or falls in one step, above 1.
    finalists
        Of more candidates, half are dropped again and again in the first half of the steps, until so many are
        left. The others count as not converged.
    form
        What a trigger may do to an image: ``patch``, ``compact`` or ``additive``; `secateur.expose.forms`.
    precision
        Of forward passes.
    """

    steps: int = 100
    rate: float = 0.1
    batch_size: int = 32
    restarts: int = 1
    success: float = 0.97
    weight: float = 1e-3
    factor: float = 1.1
    finalists: int = 12
    form: FormName = "patch"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.form not in FORMS:
            raise MethodError(f"no form of triggers is called {self.form!r}; there are: {', '.join(FORMS)}")
        if min(self.steps, self.batch_size, self.restarts, self.finalists) < 1:
            raise MethodError("inversion needs a step, an image per batch, a start and a finalist")
        if self.rate <= 0 or self.weight <= 0 or self.factor <= 1 or not 0 < self.success < 1:
            raise MethodError("inversion needs rate > 0, weight > 0, factor > 1 and 0 < success < 1")

    def __call__(
        self,
        network: nn.Module,
        learn: LabelledImages,
        held_out: LabelledImages,
        convention: InputConvention,
        *,
        generator: torch.Generator,
        labels: Sequence[int | None] | None = None,
        progress: Progress | None = None,
    ) -> tuple[InvertedTrigger, ...]:
        """Return one trigger per candidate label, in the order of `labels`.

        Parameters
        ----------
        network
            Answers with logits, ``(N, K)``, in evaluation mode. Only its input gets gradients.
        learn, held_out
            Clean images: those that triggers are fitted to, and those that `InvertedTrigger.success` is
            measured on. Both need an image of another class than each candidate.
        convention
            How they become network input.
        generator
            Decides starts and batches; one candidate's do not depend on which others are inverted.
        labels
            Candidates; all classes of the network by default. None is the candidate of any label but the one
            that the network gives the image.
        progress
            Told about every step.

        Raises
        ------
        MethodError
            There is no image of another class than a candidate.
        """
        progress = progress or Silent()
        classes = predict(network, learn.images[:1], convention).shape[1]
        if labels is None:
            labels = range(classes)
        seed = int(torch.randint(2**31, (), generator=generator))
        runs = [(label, restart) for label in labels for restart in range(self.restarts)]
        together = max(
            1,
            min(
                VALUES_PER_PASS // (self.batch_size * learn.images[0].numel()),
                IMAGES_PER_PASS // self.batch_size,
            ),
        )
        groups = [runs[start : start + together] for start in range(0, len(runs), together)]
        with without_gradients(network):
            begin = partial(Descent, self, network, learn, convention, classes, seed=seed, progress=progress)
            ends = self._halve(groups, begin, len(labels), progress)
        found: dict[int | None, tuple[tuple[bool, float], InvertedTrigger]] = {}
        for end in ends:
            trigger = self._judge(network, held_out, convention, end)
            place = not trigger.converged, float(FORMS[self.form].sizes(end.opened[None]))
            if end.label not in found or place < found[end.label][0]:
                found[end.label] = place, trigger
        return tuple(found[label][1] for label in labels)

    def _halve(
        self,
        groups: Sequence[Sequence[tuple[int | None, int]]],
        begin: Callable[[Sequence[tuple[int | None, int]]], Descent],
        candidates: int,
        progress: Progress,
    ) -> list[End]:
        """Descend; of many candidates, drop the worse half again and again in the first half of the steps."""
        rounds = math.ceil(math.log2(candidates / self.finalists)) if candidates > self.finalists else 0
        if not rounds:
            progress.start("inverting", self.steps * len(groups))
            return [end for group in groups for end in begin(group).go(self.steps).ends()]
        rounds = min(rounds, self.steps)
        length = max(1, self.steps // (2 * rounds))
        progress.start("inverting", self.steps * len(groups))
        descents, dropped = [begin(group) for group in groups], []
        for number in range(1, rounds + 1):
            ends = [end for descent in descents for end in descent.go(length).ends()]
            ease = _ease(ends)
            count = max(self.finalists, math.ceil(candidates / 2**number))
            kept = set(sorted(ease, key=ease.__getitem__)[:count])
            dropped += [replace(end, dropped=True) for end in ends if end.label not in kept]
            for descent in descents:
                descent.keep(kept)
        left = self.steps - rounds * length
        return dropped + [end for descent in descents for end in descent.go(left).ends()]

    def _judge(
        self,
        network: nn.Module,
        held_out: LabelledImages,
        convention: InputConvention,
        end: End,
    ) -> InvertedTrigger:
        trigger, norm = FORMS[self.form].trigger(end.opened)
        success = success_of(network, trigger, end.label, held_out, convention)
        converged = success > self.success - SLACK and not end.dropped
        return InvertedTrigger(end.label, trigger, norm, success, converged, FORMS[self.form].kind)


def _ease(ends: Sequence[End]) -> dict[int | None, int]:
    """Return how easily each candidate is reached, low is easy.

    At first all triggers are large, and only the margins tell candidates apart; later the margins are small,
    and only the sizes do. So the two places of a run, by size and by margin, are added up, and a candidate's
    best run counts.
    """
    norms, margins = (sorted(values) for values in ((e.norm for e in ends), (-e.margin for e in ends)))
    # Equal ones, as all are that did not succeed yet, share a place.
    places = [bisect_left(norms, end.norm) + bisect_left(margins, -end.margin) for end in ends]
    found: dict[int | None, int] = {}
    for end, place in zip(ends, places, strict=True):
        found[end.label] = min(place, found.get(end.label, place))
    return found


def success_of(
    network: nn.Module,
    trigger: Trigger,
    label: int | None,
    images: LabelledImages,
    convention: InputConvention,
) -> float:
    """Return the share of images of other classes that `network` gives `label` once they are stamped.

    Without a label, the share of images whose answer changes.
    """
    answers = answers_without(network, label, images, convention)
    others = of_others(answers, label)
    stamped = predict(network, trigger.stamp(images.images[others]), convention)
    wanted = wanted_classes(label, answers[others], stamped.shape[1])
    return float(wanted.gather(1, stamped.argmax(1, keepdim=True)).double().mean())


def enough(triggers: Sequence[Found]) -> bool:
    """Say whether triggers for enough labels converged to tell which is small."""
    return sum(trigger.converged and trigger.label is not None for trigger in triggers) >= FEWEST


def anomalies(triggers: Sequence[Found]) -> tuple[float, ...]:
    """Return how far each norm lies below the median, in robust standard deviations (MAD).

    Norms are compared on a logarithmic scale; what did not converge is not below.
    """
    sizes = [math.log(max(trigger.norm, TINY)) for trigger in triggers]
    converged = [size for size, trigger in zip(sizes, triggers, strict=True) if trigger.converged]
    if not enough(triggers):
        return tuple(0.0 for _ in triggers)
    middle = statistics.median(converged)
    spread = max(TINY, CONSISTENT * statistics.median(abs(size - middle) for size in converged))
    return tuple(
        (middle - size) / spread if trigger.converged else 0.0
        for size, trigger in zip(sizes, triggers, strict=True)
    )


def strengths(triggers: Sequence[Found]) -> tuple[float, ...]:
    """Return how far each trigger is on the way to being anomalously small; beyond 1 it is.

    The smaller of two shares: of its anomaly in that of a suspect, and of its smallness against the median,
    on a logarithmic scale, in that of a suspect.
    """
    converged = [trigger.norm for trigger in triggers if trigger.converged]
    if not converged:
        return tuple(0.0 for _ in triggers)
    middle = statistics.median(converged)
    return tuple(
        min(
            anomaly / ANOMALOUS,
            math.log(max(trigger.norm, TINY) / max(middle, TINY)) / math.log(SMALL[trigger.form]),
        )
        for anomaly, trigger in zip(anomalies(triggers), triggers, strict=True)
    )


def ranked(triggers: Sequence[AnyFound]) -> list[tuple[float, AnyFound]]:
    """Return triggers after their strengths, the strongest first."""
    pairs = zip(strengths(triggers), triggers, strict=True)
    return sorted(pairs, key=lambda pair: pair[0], reverse=True)


def suspect(triggers: Sequence[AnyFound], point: float = 1.0) -> AnyFound | None:
    """Return the trigger whose strength among those of all labels is beyond `point`, if one's is."""
    return next((trigger for strength, trigger in ranked(triggers) if strength > point), None)


def typical_norm(triggers: Sequence[Found], found: Found) -> float:
    """Return the median norm of the converged triggers for other labels than that of `found`."""
    others = [trigger for trigger in triggers if trigger.label != found.label]
    converged = [trigger for trigger in others if trigger.converged]
    return statistics.median(trigger.norm for trigger in converged or others)


def images_of_others(images: LabelledImages, label: int) -> Tensor:
    """Return the images of all classes but one."""
    return images.images[of_others(images.labels, label)]
