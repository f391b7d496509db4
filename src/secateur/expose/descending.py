"""The descent of an inversion: many triggers at once, each with a weight of its own for its size."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.expose.forms import FORMS
from secateur.expose.unlearning import predict
from secateur.models import autocast
from secateur.progress import Progress

RECENT = 0.1
"""Weight of the last step in the average of the margins."""

if TYPE_CHECKING:
    from secateur.expose.triggers import Inversion


@dataclass(frozen=True)
class End:
    """Where one run of a descent is.

    Attributes
    ----------
    label
        Its candidate.
    opened
        Its smallest trigger that succeeded, or the last one if none did, ``(planes, H, W)``, on the CPU.
    succeeded
        Whether one did.
    norm
        Size of that one; infinite without.
    margin
        By how much the candidate's logit exceeds the others on stamped images, averaged over the last steps.
    dropped
        Whether it was not followed to the end.
    """

    label: int | None
    opened: Tensor
    succeeded: bool
    norm: float
    margin: float
    dropped: bool = False


class Descent:
    """Runs, each of a candidate label and a start, that go through the network in one batch.

    Parameters
    ----------
    settings
        Of the inversion.
    network
        Answers with logits, in evaluation mode, without gradients in its parameters.
    learn
        Clean images.
    convention
        How they become network input.
    classes
        Number of classes.
    runs
        Candidate and number of the start.
    seed
        Decides, with a run's candidate and start alone, its noise and batches.
    progress
        Told about every step.
    """

    def __init__(
        self,
        settings: "Inversion",
        network: nn.Module,
        learn: LabelledImages,
        convention: InputConvention,
        classes: int,
        runs: Sequence[tuple[int | None, int]],
        *,
        seed: int,
        progress: Progress,
    ) -> None:
        self._settings, self._network, self._learn = settings, network, learn
        self._convention, self._progress = convention, progress
        self._device = next(network.parameters()).device
        self._form = FORMS[settings.form]
        shape = (self._form.planes(convention.channels), *convention.size)
        self._labels = [label for label, _ in runs]
        self._sources = [
            torch.Generator().manual_seed(seed + (-1 if label is None else label) * settings.restarts + again)
            for label, again in runs
        ]
        labels = dict.fromkeys(label for label, _ in runs)
        known = {label: answers_without(network, label, learn, convention) for label in labels}
        self._others = [of_others(known[label], label) for label, _ in runs]
        self._wanted = [wanted_classes(label, known[label], classes) for label, _ in runs]
        noise = torch.stack([torch.randn(shape, generator=source) for source in self._sources])
        self._raw = self._form.start(noise).to(self._device, learn.images.dtype).requires_grad_()
        self._weights = self._raw.new_full((len(runs),), settings.weight)
        self._smallest = torch.full_like(self._weights, torch.inf)
        self._margins = torch.zeros_like(self._weights)
        self._best = self._form.opened(self._raw.detach())
        self._optimizer = self._adam()

    def go(self, steps: int) -> Self:
        """Take so many steps."""
        for _ in range(steps if self._labels else 0):
            self._step()
            self._progress.advance(succeeded=int(self._smallest.isfinite().sum()))
        return self

    def ends(self) -> list[End]:
        """Return where every run is."""
        found = (self._best.detach().cpu(), self._smallest.tolist(), self._margins.tolist())
        return [
            End(label, opened, norm < math.inf, norm, margin)
            for label, opened, norm, margin in zip(self._labels, *found, strict=True)
        ]

    def keep(self, labels: Collection[int | None]) -> None:
        """Go on with the runs of these candidates alone."""
        kept = [place for place, label in enumerate(self._labels) if label in labels]
        for name in ("_labels", "_sources", "_others", "_wanted"):
            setattr(self, name, [getattr(self, name)[place] for place in kept])
        state = self._optimizer.state[self._raw]
        chosen = torch.tensor(kept, dtype=torch.int64, device=self._device)
        self._raw = self._raw.detach()[chosen].requires_grad_()
        for name in ("_weights", "_smallest", "_margins", "_best"):
            setattr(self, name, getattr(self, name)[chosen])
        self._optimizer = self._adam()
        self._optimizer.state[self._raw] = {
            key: value[chosen] if value.ndim else value for key, value in state.items()
        }

    def _adam(self) -> torch.optim.Adam:
        return torch.optim.Adam([self._raw], lr=self._settings.rate, betas=(0.5, 0.9))

    def _step(self) -> None:
        settings, form = self._settings, self._form
        chosen = torch.stack(
            [
                other[torch.randint(len(other), (settings.batch_size,), generator=source)]
                for other, source in zip(self._others, self._sources, strict=True)
            ]
        )
        images = self._learn.images[chosen].to(self._device)
        goals = torch.stack([part[index] for part, index in zip(self._wanted, chosen, strict=True)])
        goals = goals.to(self._device)
        opened = form.opened(self._raw)
        stamped, norms = form.stamped(opened, images), form.sizes(opened)
        with autocast(settings.precision, self._device):
            inputs = self._convention.normalise(stamped.flatten(0, 1))
            output = self._network(inputs).float().view_as(goals)
        losses = output.logsumexp(2) - output.masked_fill(~goals, -torch.inf).logsumexp(2)
        self._optimizer.zero_grad(set_to_none=True)
        (losses.mean(1) + self._weights * norms).sum().backward()
        with torch.no_grad():
            self._margins = self._margins.lerp(margins_of(output, goals).mean(1), RECENT)
            hits = goals.gather(2, output.argmax(2, keepdim=True))
            succeeded = hits.to(self._weights).mean((1, 2)) > settings.success
            smaller = succeeded & (norms < self._smallest)
            self._smallest = torch.where(smaller, norms, self._smallest)
            # A run that never succeeded is represented by where it ended.
            replaced = (smaller | self._smallest.isinf()) & opened.flatten(1).isfinite().all(1)
            self._best = torch.where(replaced[:, None, None, None], opened, self._best)
            self._weights = torch.where(
                succeeded, self._weights * settings.factor, self._weights / settings.factor
            )
        self._optimizer.step()


def wanted_classes(label: int | None, answers: Tensor, classes: int) -> Tensor:
    """Return which answers a trigger wants of each image, boolean ``(N, classes)``.

    Parameters
    ----------
    label
        The trigger's: it wants nothing of images that have it. None wants any other answer.
    answers
        What images have without the trigger, ``(N,)``: their classes, or the network's own answers.
    classes
        Number of classes.
    """
    own = F.one_hot(answers, classes).bool()
    if label is None:
        return ~own
    return (torch.arange(classes, device=answers.device) == label) & ~own[:, label, None]


def margins_of(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Return by how much the best answer that is wanted, ``(..., K)``, exceeds the best other, ``(...,)``."""
    best = outputs.masked_fill(~wanted, -torch.inf).max(-1).values
    return best - outputs.masked_fill(wanted, -torch.inf).max(-1).values


def answers_without(
    network: nn.Module, label: int | None, images: LabelledImages, convention: InputConvention
) -> Tensor:
    """Return what images have without a trigger: classes, or if it has no label the network's answers."""
    if label is not None:
        return images.labels
    return predict(network, images.images, convention).argmax(1)


def of_others(answers: Tensor, label: int | None) -> Tensor:
    """Return the positions of the images that a trigger for a label is for, ``(M,)``: all without a label."""
    others = torch.arange(len(answers)) if label is None else (answers != label).nonzero().flatten()
    if not len(others):
        raise MethodError(f"every clean image is of class {label}: a trigger needs images of other classes")
    return others
