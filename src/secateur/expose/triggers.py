"""Inverting triggers: the smallest patch that sends images of all other classes to a candidate label.

A shortcut that a backdoor planted needs fewer pixels than the way to any clean class does (Neural Cleanse,
Wang et al., IEEE S&P 2019).
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages, Trigger
from secateur.errors import MethodError
from secateur.expose.unlearning import predict
from secateur.progress import Progress, Silent

CONSISTENT = 1.4826
"""Makes the median absolute deviation an estimate of a normal distribution's standard deviation."""


@dataclass(frozen=True)
class InvertedTrigger:
    """The smallest trigger found for one candidate label.

    Attributes
    ----------
    label
        The candidate.
    trigger
        A mask ``m`` and a pattern ``p`` as ``keep = 1 - m``, ``add = m * p``.
    norm
        Sum of the mask over all pixels, in ``[0, H * W]``.
    success
        Share of held-out images of other classes that the network gives the label when they are stamped.
    converged
        Whether that share is as large as was asked for. If not, `norm` means nothing.
    """

    label: int
    trigger: Trigger
    norm: float
    success: float
    converged: bool


@dataclass(frozen=True)
class Inversion:
    """Minimise the loss of stamped images towards a label together with the size of the mask.

    For every candidate and restart, ``x' = (1 - m) * x + m * p`` with a mask ``m`` and a pattern ``p`` behind
    a sigmoid; the loss is the cross-entropy of ``x'`` towards the candidate plus a weight times the sum of
    ``m``. The weight rises while stamping succeeds and falls otherwise. All candidates and restarts go through
    the network in one batch; they do not influence each other.

    Attributes
    ----------
    steps
        Of Adam.
    rate
        Of Adam.
    batch_size
        Images per candidate and step.
    restarts
        Random starts per candidate; the smallest mask that succeeds counts.
    success
        The share of stamped images that must answer the candidate, in ``(0, 1)``.
    weight
        Of the mask's size at first, above 0.
    factor
        By which the weight rises or falls in one step, above 1.
    """

    steps: int = 300
    rate: float = 0.1
    batch_size: int = 64
    restarts: int = 1
    success: float = 0.97
    weight: float = 1e-3
    factor: float = 1.05

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.restarts) < 1:
            raise MethodError("inversion needs at least one step, one image per batch and one start")
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
        labels: Sequence[int] | None = None,
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
            Candidates; all classes of the network by default.
        progress
            Told about every step.

        Raises
        ------
        MethodError
            There is no image of another class than a candidate.
        """
        progress = progress or Silent()
        if labels is None:
            labels = range(predict(network, learn.images[:1], convention).shape[1])
        seed = int(torch.randint(2**31, (), generator=generator))
        frozen = [p for p in network.parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            masks, patterns = self._descend(network, learn, convention, labels, seed, progress)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
        found = []
        for label, starts, colours in zip(labels, masks, patterns, strict=True):
            triggers = [
                self._judge(network, held_out, convention, label, mask, pattern)
                for mask, pattern in zip(starts, colours, strict=True)
            ]
            found.append(min(triggers, key=lambda trigger: (not trigger.converged, trigger.norm)))
        return tuple(found)

    def _descend(
        self,
        network: nn.Module,
        learn: LabelledImages,
        convention: InputConvention,
        labels: Sequence[int],
        seed: int,
        progress: Progress,
    ) -> tuple[Tensor, Tensor]:
        """Return the smallest successful masks ``(L, R, 1, H, W)`` and their patterns ``(L, R, C, H, W)``."""
        device = next(network.parameters()).device
        channels, (height, width) = convention.channels, convention.size
        runs = [label for label in labels for _ in range(self.restarts)]
        sources = [
            torch.Generator().manual_seed(seed + run % self.restarts + self.restarts * label)
            for run, label in enumerate(runs)
        ]
        others = [_of_other_classes(learn, label) for label in runs]
        start = torch.stack([torch.randn(channels + 1, height, width, generator=g) for g in sources])
        raw = start.to(device).requires_grad_()
        targets = torch.tensor(runs, device=device)[:, None].expand(-1, self.batch_size)
        weights = torch.full((len(runs),), self.weight, device=device)
        smallest = torch.full((len(runs),), float("inf"), device=device)
        best = torch.sigmoid(raw.detach())
        optimizer = torch.optim.Adam([raw], lr=self.rate, betas=(0.5, 0.9))
        progress.start("inverting", self.steps)
        for _ in range(self.steps):
            chosen = torch.stack(
                [
                    other[torch.randint(len(other), (self.batch_size,), generator=g)]
                    for other, g in zip(others, sources, strict=True)
                ]
            )
            images = learn.images[chosen].to(device)
            opened = torch.sigmoid(raw)
            mask, pattern = opened[:, None, :1], opened[:, None, 1:]
            stamped = (1 - mask) * images + mask * pattern
            output = network(convention.normalise(stamped.flatten(0, 1))).unflatten(0, chosen.shape)
            losses = F.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="none")
            norms = mask.sum((1, 2, 3, 4))
            loss = losses.view_as(targets).mean(1) + weights * norms
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                succeeded = (output.argmax(2) == targets).float().mean(1) > self.success
                better = succeeded & (norms < smallest)
                smallest = torch.where(better, norms, smallest)
                best = torch.where(better[:, None, None, None], opened, best)
                # What never succeeded is best represented by where it ended.
                best = torch.where(smallest.isinf()[:, None, None, None], opened, best)
                weights = torch.where(succeeded, weights * self.factor, weights / self.factor)
            optimizer.step()
            progress.advance(converged=int(smallest.isfinite().sum()))
        best = best.detach().cpu().unflatten(0, (len(labels), self.restarts))
        return best[:, :, :1], best[:, :, 1:]

    def _judge(
        self,
        network: nn.Module,
        held_out: LabelledImages,
        convention: InputConvention,
        label: int,
        mask: Tensor,
        pattern: Tensor,
    ) -> InvertedTrigger:
        trigger = Trigger((1 - mask).expand_as(pattern).contiguous(), mask * pattern)
        success = success_of(network, trigger, label, held_out, convention)
        return InvertedTrigger(label, trigger, float(mask.sum()), success, success > self.success - SLACK)


SLACK = 0.05
"""By how much success on held-out images may stay behind that on the images a trigger was fitted to."""


def success_of(
    network: nn.Module, trigger: Trigger, label: int, images: LabelledImages, convention: InputConvention
) -> float:
    """Return the share of images of other classes that `network` gives `label` once they are stamped."""
    others = images.images[_of_other_classes(images, label)]
    return float((predict(network, trigger.stamp(others), convention).argmax(1) == label).double().mean())


def anomalies(triggers: Sequence[InvertedTrigger]) -> tuple[float, ...]:
    """Return how far each norm lies below the median, in robust standard deviations (MAD).

    Norms are compared on a logarithmic scale; what did not converge is not below.
    """
    converged = [torch.tensor(t.norm).log().item() for t in triggers if t.converged]
    if len(converged) < 3:
        return tuple(0.0 for _ in triggers)
    middle = statistics.median(converged)
    spread = CONSISTENT * statistics.median(abs(value - middle) for value in converged)
    return tuple(
        (middle - torch.tensor(t.norm).log().item()) / max(spread, 1e-9) if t.converged else 0.0
        for t in triggers
    )


def _of_other_classes(images: LabelledImages, label: int) -> Tensor:
    others = (images.labels != label).nonzero().flatten()
    if not len(others):
        raise MethodError(f"every clean image is of class {label}: a trigger needs images of other classes")
    return others
