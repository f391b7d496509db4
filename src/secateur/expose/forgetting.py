"""Forgetting one class alone, and what a trigger for it takes afterwards."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.expose.triggers import SMALL, TINY, WORKS, Inversion, InvertedTrigger, success_of
from secateur.expose.unlearning import predict
from secateur.models import Precision, autocast, check_precision, duplicate, last_layer
from secateur.progress import Progress, Silent

CERTAIN = 1e-4
"""Added to the probability of other classes: where it is zero, its logarithm has no gradient."""


@dataclass(frozen=True)
class Forgetting:
    """Unlearn one class, and keep the others.

    The loss is the cross-entropy of the others' images, less the mean ``log(1 - p)`` of the class's own,
    where ``p`` is its probability. The last layer stays as it is: features must change, not the class's
    name. Normalisation uses its stored statistics.

    Attributes
    ----------
    accuracy
        Stop once no larger share of the class's learning images is answered with it, in ``[0, 1)``.
    stride
        Longest step, relative to the length of all weights together, once momentum has built up.
    momentum
        Of the descent.
    steps
        At most so many.
    own, others
        Images of the class, and of all others, per step.
    precision
        Of forward passes.
    """

    accuracy: float = 0.15
    stride: float = 0.001
    momentum: float = 0.9
    steps: int = 150
    own: int = 16
    others: int = 48
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if not (0 <= self.accuracy < 1 and 0 < self.stride < math.inf and 0 <= self.momentum < 1):
            raise MethodError("forgetting needs 0 <= accuracy < 1, a finite stride > 0 and 0 <= momentum < 1")
        if min(self.steps, self.own, self.others) < 1:
            raise MethodError("forgetting needs a step, and images of the class and of others")

    def __call__(
        self,
        network: nn.Module,
        images: LabelledImages,
        convention: InputConvention,
        label: int,
        *,
        generator: torch.Generator,
    ) -> tuple[nn.Module, bool]:
        """Return a copy of the network that forgot a class, and whether it did.

        Parameters
        ----------
        network
            Answers with logits, in evaluation mode; not changed.
        images
            Clean ones.
        convention
            How they become network input.
        label
            The class.
        generator
            Decides batches.
        """
        device = next(network.parameters()).device
        mine = images.labels == label
        own, rest = images.images[mine], mine.logical_not().nonzero().flatten()
        forgetful = duplicate(network).requires_grad_(True)
        if not len(own) or not len(rest):
            return forgetful.requires_grad_(False), False
        last = last_layer(network, convention.normalise(own[:1].to(device)))
        if last is not None:
            forgetful.get_submodule(last).requires_grad_(False)
        parameters = [weight for weight in forgetful.parameters() if weight.requires_grad]
        length = float(nn.utils.get_total_norm([weight.detach() for weight in parameters]))
        optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=self.momentum)
        longest = self.stride * length * (1 - self.momentum)
        for step in range(self.steps + 1):
            output = predict(forgetful, own, convention, precision=self.precision)
            forgot = bool(torch.isfinite(output).all()) and _share(output, label) <= self.accuracy
            if forgot or step == self.steps:
                break
            first = own[torch.randint(len(own), (self.own,), generator=generator)]
            chosen = rest[torch.randint(len(rest), (self.others,), generator=generator)]
            batch = convention.normalise(torch.cat([first, images.images[chosen]]).to(device))
            with autocast(self.precision, device):
                output = forgetful(batch).float()
            loss = self._loss(output, label, images.labels[chosen].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            _to_length(parameters, longest)
            optimizer.step()
        return forgetful.requires_grad_(False), forgot

    def _loss(self, output: Tensor, label: int, labels: Tensor) -> Tensor:
        certainty = output[: self.own].softmax(1)[:, label]
        kept = F.cross_entropy(output[self.own :], labels)
        return kept - torch.log(1 - certainty + CERTAIN).mean()


def _share(output: Tensor, label: int) -> float:
    return float((output.argmax(1) == label).double().mean())


def _to_length(parameters: Sequence[nn.Parameter], length: float) -> None:
    """Scale gradients to a length, together."""
    norm = float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(length / max(norm, TINY))


@dataclass(frozen=True)
class Outlasting:
    """Invert triggers for labels that the network forgot, one after the other.

    A trigger for a label leads along what makes clean images of its class belong there, and along a backdoor
    if there is one. Forgetting the class closes the first way, and the trigger must become larger; with a
    backdoor it grows less, because the network keeps the second. That needs no idea of what the
    planted trigger looks like, only that a pattern for all images is near to it.

    Attributes
    ----------
    forgetting
        How the class is unlearned.
    inversion
        How triggers are inverted, before and after.
    again
        How often a small multiple is measured once more; the mean counts, since one alone may be chance.
    """

    forgetting: Forgetting = field(default_factory=Forgetting)
    inversion: Inversion = field(default_factory=lambda: Inversion(form="additive", rate=0.01, weight=0.05))
    again: int = 2

    def __call__(
        self,
        network: nn.Module,
        learn: LabelledImages,
        held_out: LabelledImages,
        convention: InputConvention,
        *,
        generator: torch.Generator,
        labels: Sequence[int],
        progress: Progress | None = None,
    ) -> tuple[InvertedTrigger, ...]:
        """Return one trigger per candidate label, in the order of `labels`.

        Its norm is a multiple, at least 1: of what a trigger for the same label takes on the network as it
        came. Its success is that on the network as it came.

        Parameters
        ----------
        network
            Answers with logits, ``(N, K)``, in evaluation mode; not changed.
        learn, held_out
            Clean images: those that are forgotten and that triggers are fitted to, and those that success is
            measured on.
        convention
            How they become network input.
        generator
            Decides starts and batches.
        labels
            Candidates.
        progress
            Told about every step.

        Raises
        ------
        MethodError
            There is no image of another class than a candidate.
        """
        invert = partial(
            # All candidates are followed to the end: each is held against itself.
            replace(self.inversion, finalists=max(1, len(labels))),
            learn=learn,
            held_out=held_out,
            convention=convention,
            generator=generator,
            progress=progress or Silent(),
        )

        def measure(label: int, before: InvertedTrigger) -> InvertedTrigger:
            forgetful, forgot = self.forgetting(network, learn, convention, label, generator=generator)
            (after,) = invert(forgetful, labels=[label])
            success = success_of(network, after.trigger, label, held_out, convention)
            converged = before.converged and after.converged
            # What only works on the network that forgot owes nothing to a backdoor.
            shared = forgot and success > WORKS
            # Nothing outlasts forgetting more than entirely: what takes less than before is chance.
            times = max(1.0, after.norm / max(before.norm, TINY))
            return InvertedTrigger(label, after.trigger, times, success, shared and converged, "outlasting")

        found = list(map(measure, labels, invert(network, labels=labels)))
        known = [trigger.norm for trigger in found if trigger.converged]
        small = SMALL["outlasting"] * statistics.median(known) if known else 0.0
        for place, (label, first) in enumerate(zip(labels, found, strict=True)):
            if first.converged and first.norm < small:
                more = [measure(label, *invert(network, labels=[label])) for _ in range(self.again)]
                norms = [trigger.norm for trigger in (first, *more)]
                certain = all(trigger.converged for trigger in more)
                found[place] = replace(first, norm=statistics.fmean(norms), converged=certain)
        return tuple(found)
