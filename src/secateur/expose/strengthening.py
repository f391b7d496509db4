"""Strengthening: what a trigger of about the same place does at most.

An inverted trigger is the smallest that works, and to withstand it says little of the planted one, which does
more. It is argued in ``docs/decisions/0005-polishing.md``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import CleanData, Trigger
from secateur.errors import MethodError
from secateur.expose.descending import answers_without, margins_of, of_others, wanted_classes
from secateur.expose.triggers import Found, InvertedTrigger, success_of
from secateur.models import Precision, autocast, check_precision, without_gradients
from secateur.progress import Progress, Silent

COVERED = 0.5
"""A pixel belongs to a patch if its mask is at least this part of the largest."""
DARKEST = 0.02
"""Colours start so far away from 0 and 1, where they could not be moved."""


@dataclass(frozen=True)
class Strengthening:
    """Grow a patch by some pixels and fit its colours for the largest margin.

    A patch that covers many pixels turns images on any network; it says something of a backdoor as long as
    another label takes more. Larger ones are left out.

    Attributes
    ----------
    count
        Patches that are strengthened, of the first ones.
    grown
        Part of the image's shorter side that is added all around, in ``[0, 1)``, in whole pixels.
    steps, rate
        Of Adam.
    batch_size
        Images per patch and step.
    precision
        Of forward passes.
    """

    count: int = 3
    grown: float = 1 / 32
    steps: int = 150
    rate: float = 0.1
    batch_size: int = 32
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if min(self.count, self.steps, self.batch_size) < 1:
            raise MethodError("strengthening needs at least one patch, one step and one image per batch")
        if not (0 <= self.grown < 1 and 0 < self.rate < math.inf):
            raise MethodError("strengthening needs 0 <= grown < 1 and a finite rate > 0")

    def __call__(
        self,
        network: nn.Module,
        triggers: Sequence[Found],
        clean: CleanData,
        *,
        largest: float,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> list[Found]:
        """Return the first patches among `triggers`, strengthened.

        Parameters
        ----------
        network
            As it came, answering with logits, in evaluation mode. Only its input gets gradients.
        triggers
            Inverted, for one label (or none).
        clean
            Colours are fitted to ``clean.learn``; success is measured on ``clean.choose``.
        largest
            Pixels that a patch may cover once it is grown: what one for another label takes.
        generator
            Decides batches.
        progress
            Told about every step.
        """
        patches = [one for one in triggers if isinstance(one, InvertedTrigger) and one.form == "patch"]
        grown = [(one, self._grown(one.trigger)) for one in patches]
        fitted = [(one, area) for one, area in grown if area.sum() <= largest][: self.count]
        if not fitted:
            return []
        colours = self._fit(network, fitted, clean, generator, progress or Silent())
        return [
            self._told(network, one.label, area, colour, clean)
            for (one, area), colour in zip(fitted, colours, strict=True)
        ]

    def _grown(self, trigger: Trigger) -> Tensor:
        """Return which pixels it covers once it is grown, ``(1, H, W)``, 0 or 1."""
        mask = (1 - trigger.keep).amax(0, keepdim=True)
        covered = (mask >= COVERED * mask.max()).to(mask)
        pixels = math.ceil(self.grown * min(covered.shape[1:]))
        return F.max_pool2d(covered, 2 * pixels + 1, stride=1, padding=pixels)

    def _fit(
        self,
        network: nn.Module,
        fitted: Sequence[tuple[InvertedTrigger, Tensor]],
        clean: CleanData,
        generator: torch.Generator,
        progress: Progress,
    ) -> Tensor:
        """Return the colours of each patch, ``(R, C, H, W)``; they go through the network in one batch."""
        progress.start("strengthening", self.steps)
        device, (first, _) = next(network.parameters()).device, fitted[0]
        answers = answers_without(network, first.label, clean.learn, clean.convention)
        others = of_others(answers, first.label)
        areas = torch.stack([area for _, area in fitted])[:, None].to(device)
        grey = torch.full_like(clean.learn.images[:1], 0.5)
        starts = torch.cat([one.trigger.stamp(grey) for one, _ in fitted])
        raw = starts.clamp(DARKEST, 1 - DARKEST).logit().to(device).requires_grad_()
        optimizer = torch.optim.Adam([raw], lr=self.rate)
        with without_gradients(network):
            for _ in range(self.steps):
                chosen = others[torch.randint(len(others), (self.batch_size,), generator=generator)]
                images = clean.learn.images[chosen].to(device)
                stamped = images.lerp(raw.sigmoid()[:, None], areas).flatten(0, 1)
                with autocast(self.precision, device):
                    output = network(clean.convention.normalise(stamped)).float()
                wanted = wanted_classes(first.label, answers[chosen], output.shape[1]).to(device)
                margin = margins_of(output, wanted.repeat(len(fitted), 1)).mean()
                optimizer.zero_grad(set_to_none=True)
                (-margin).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                progress.advance(margin=margin.item())
        return raw.detach().sigmoid().cpu()

    def _told(
        self, network: nn.Module, label: int | None, area: Tensor, colour: Tensor, clean: CleanData
    ) -> InvertedTrigger:
        trigger = Trigger((1 - area).expand_as(colour).contiguous(), area * colour)
        success = success_of(network, trigger, label, clean.choose, clean.convention)
        return InvertedTrigger(label, trigger, float(area.sum()), success, converged=True)
