"""Triggers that succeed one that was pruned away, while the label is easier to reach than others are."""

import math
import statistics
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

from torch import nn

from secateur.errors import MethodError
from secateur.expose.case import Case
from secateur.expose.forgetting import Outlasting
from secateur.expose.latent import LatentInversion, LatentTrigger
from secateur.expose.searching import CHANGING
from secateur.expose.triggers import WORKS, Found, Inversion, typical_norm


@dataclass(frozen=True)
class Succeeding:
    """How triggers are inverted again on a pruned network, and which of them are cheap.

    Every label takes fewer pixels on a pruned network than on the one that came, so a trigger is held against
    those for other labels, inverted in the same way on the same network.

    Attributes
    ----------
    beside, inversion
        How patches for a label are inverted beside the one found, and on pruned networks. There they take
        more and longer steps to become small; with fewer, what comes of two starts differs by half.
    changing, latent
        How patches without a label (and those for labels that they are held against), and shifts, are
        inverted.
    outlasting
        How patterns that outlast forgetting are inverted beside one.
    starts
        Triggers of each kind, from different starts.
    compared
        Other labels that triggers are inverted for.
    cheap
        A trigger is cheap if its norm is at most this part of their median norm, in ``(0, 1]``.
    doubtful
        The same for one that may be what is left of a backdoor: no evidence, and no reason to prune on.
    """

    beside: Inversion = field(default_factory=lambda: Inversion(steps=200, form="compact"))
    inversion: Inversion = field(
        default_factory=lambda: Inversion(steps=240, rate=0.3, batch_size=16, form="compact")
    )
    changing: Inversion = field(default_factory=lambda: replace(CHANGING, steps=200, restarts=1))
    latent: LatentInversion = field(default_factory=LatentInversion)
    outlasting: Outlasting = field(default_factory=Outlasting)
    starts: int = 3
    compared: int = 5
    cheap: float = 0.75
    doubtful: float = 0.9

    def __post_init__(self) -> None:
        if min(self.starts, self.compared) < 1:
            raise MethodError("successors need at least one start and one label to compare with")
        if not 0 < self.cheap <= self.doubtful <= 1:
            raise MethodError("what is cheap must be above 0, and doubtful as well, which is at most 1")


@dataclass(frozen=True)
class Look:
    """What a look for triggers of one kind came to.

    Attributes
    ----------
    pruned
        Units that the network was without.
    polished
        Whether its weights were fitted to clean answers since.
    smallest
        Of the triggers inverted, one that works if any does.
    typical
        Norm that triggers for other labels take; infinite if none is reached.
    cheap
        Whether any that works is cheap against that.
    """

    pruned: int
    polished: bool
    smallest: Found
    typical: float
    cheap: bool


class Successors:
    """Looks for triggers for the same label on one pruned network after the other.

    Parameters
    ----------
    settings
        How triggers are inverted, and which are cheap.
    case
        The network that is pruned, and its clean images: triggers are fitted to ``clean.learn`` and judged on
        ``clean.choose``.
    found
        The first one.
    triggers
        What it was compared with; among them must be one for another label.
    shift
        Whether shifts of channels are looked for as well as patches, if the layers have norms: pruning must
        take them away with the channel.

    Attributes
    ----------
    looks
        What each look came to.
    last
        The smallest triggers of the last network: one of each kind that was looked for.
    doubtful
        All of the last network that are cheap or doubtful.
    """

    def __init__(
        self,
        settings: Succeeding,
        case: Case,
        found: Found,
        triggers: Sequence[Found],
        *,
        shift: bool,
    ) -> None:
        self._settings, self._case, self._found = settings, case, found
        self._others = _typical_labels(triggers, found, settings.compared)
        latent = isinstance(found, LatentTrigger)
        normed = any(layer.kind == "norm" for layer in case.discovery.layers)
        both = found.label is not None and shift and normed
        self._kinds = [latent, not latent] if both else [latent]
        self._typical: dict[bool, float] = {}
        self.looks: list[Look] = []
        self.last: list[Found] = []
        self.doubtful: list[Found] = []

    def apart(self, case: Case) -> "Successors":
        """Return a copy that goes on with another case of the same network; this one stays as it is."""
        other = copy(self)
        other._case = case
        other._typical, other.looks = dict(self._typical), list(self.looks)
        return other

    def beside(self, network: nn.Module) -> list[Found]:
        """Return the trigger found, and others of its kind, from other starts, that work."""
        others = [self._beside(network) for _ in range(self._settings.starts - 1)]
        return [self._found, *filter(_works, others)]

    def cheap(self, network: nn.Module, *, pruned: int, polished: bool = False) -> list[Found]:
        """Return the cheap triggers of the first kind that has any, that of the trigger found first.

        After one that outlasted forgetting, patches are looked for first, then shifts: comparing with other
        labels would take as many forgotten copies.
        What the labels to compare with take is measured once for each kind, on the first network.

        Parameters
        ----------
        network
            In evaluation mode, answering with logits.
        pruned, polished
            How many units it is without, and whether its weights were fitted since: see `Look`.
        """
        self.last, self.doubtful = [], []
        for latent in self._kinds:
            known = [
                *chain.from_iterable(
                    self._invert(network, latent, [self._found.label]) for _ in range(self._settings.starts)
                )
            ]
            self.last.append(min(known, key=lambda trigger: (not _works(trigger), trigger.norm)))
            if latent not in self._typical:
                self._typical[latent] = self._typical_on(network, latent)
            works = list(filter(_works, known))
            limit = self._settings.doubtful * self._typical[latent]
            self.doubtful += [trigger for trigger in works if trigger.norm <= limit]
            limit = self._settings.cheap * self._typical[latent]
            cheap = [trigger for trigger in works if trigger.norm <= limit]
            self.looks.append(Look(pruned, polished, self.last[-1], self._typical[latent], bool(cheap)))
            if cheap:
                return cheap
        return []

    def cheap_on(self, network: nn.Module, triggers: Sequence[Found]) -> list[Found]:
        """Return those of the triggers of the last look that are cheap against other labels on this network.

        Where a network was fitted to clean answers since the first one, every label may take less.
        """
        typical = self._typical_on(network, triggers[0].form == "shift")
        cheap = [trigger for trigger in triggers if trigger.norm <= self._settings.cheap * typical]
        self.looks[-1] = replace(self.looks[-1], typical=typical, cheap=bool(cheap))
        return cheap

    def _typical_on(self, network: nn.Module, latent: bool) -> float:
        """Return the norm that other labels take on a network; infinite if none is reached.

        The median, or for a trigger without a label the least: one for any label changes answers, too.
        """
        how = self._settings.changing if self._found.label is None else None
        others = self._invert(network, latent, self._others, how)
        norms = [other.norm for other in filter(_works, others)] or [math.inf]
        return min(norms) if self._found.label is None else statistics.median(norms)

    def _beside(self, network: nn.Module) -> Found:
        if self._found.form == "outlasting":
            return self._run(partial(self._settings.outlasting, network), [self._found.label])[0]
        return self._invert(network, self._kinds[0], [self._found.label], self._settings.beside)[0]

    def _invert(
        self, network: nn.Module, latent: bool, labels: Sequence[int | None], how: Inversion | None = None
    ) -> tuple[Found, ...]:
        """Invert a trigger for each of the labels, all at once."""
        settings = self._settings
        if latent and None not in labels:
            return self._run(partial(settings.latent, network, self._case.discovery.layers), labels)
        invert = settings.changing if None in labels else how or settings.inversion
        return self._run(partial(invert, network), labels)

    def _run(
        self, invert: Callable[..., tuple[Found, ...]], labels: Sequence[int | None]
    ) -> tuple[Found, ...]:
        case = self._case
        return invert(
            case.clean.learn,
            case.clean.choose,
            case.clean.convention,
            labels=labels,
            generator=case.generator,
            progress=case.progress,
        )


def _works(trigger: Found) -> bool:
    return trigger.success > WORKS


def _typical_labels(triggers: Sequence[Found], found: Found, count: int) -> list[int]:
    """Return the labels whose triggers were nearest the typical norm; beside one without, the smallest."""
    middle = 0.0 if found.label is None else typical_norm(triggers, found)
    nearest = sorted(triggers, key=lambda trigger: (not trigger.converged, abs(trigger.norm - middle)))
    labels = [trigger.label for trigger in nearest if trigger.label != found.label]
    return [label for label in labels if label is not None][:count]
