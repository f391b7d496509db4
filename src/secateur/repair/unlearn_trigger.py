"""Unlearning an inverted trigger: fine-tuning on stamped images with their true labels, without pruning."""

import math
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose import (
    GENTLE,
    Case,
    Exposed,
    Exposing,
    Found,
    Search,
    Unlearning,
    even_batches,
    flushed_denormals,
    judge,
)
from secateur.models import Precision, autocast, check_precision, duplicate
from secateur.progress import Progress
from secateur.repair.choosing import HeldOut
from secateur.repair.notes import found_note, nothing_small
from secateur.repair.registry import register
from secateur.repair.result import Repair, outcome_of
from secateur.units import Recipe


@register(
    "unlearn-trigger",
    title="Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks",
    paper="IEEE S&P 2019",
    year=2019,
)
@dataclass(frozen=True)
class UnlearnTrigger:
    """Fine-tune on clean images, some of them stamped with the inverted trigger, all with their true labels.

    The "unlearning" of Neural Cleanse (section 6.3), for comparison with repairs that prune: it changes every
    weight a little and no unit is named. Triggers are searched for as `RNP` does. A shift of channels takes
    the place of the stamp where one was found. Normalisation keeps its statistics, as a few hundred images
    would spoil them; the paper fine-tunes on a tenth of the training images, of which it stamps a fifth.

    Attributes
    ----------
    unlearning, search
        How the trigger is exposed, as `RNP` has them.
    passes
        Over the clean images.
    rate, momentum, weight_decay
        Of the descent.
    batch_size
        Images per step.
    stamped
        Share of each batch that is stamped, in ``(0, 1]``.
    precision
        Of forward passes.
    """

    name: ClassVar[str] = "unlearn-trigger"

    unlearning: Unlearning = GENTLE
    search: Search = field(default_factory=Search)
    passes: int = 10
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 64
    stamped: float = 0.2
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if min(self.passes, self.batch_size) < 1:
            raise MethodError("unlearning a trigger needs at least one pass and one image per batch")
        if not (0 < self.rate < math.inf and 0 <= self.momentum < 1 and 0 <= self.weight_decay < math.inf):
            raise MethodError("unlearning a trigger needs rate > 0, 0 <= momentum < 1, weight_decay >= 0")
        if not 0 < self.stamped <= 1:
            raise MethodError(f"stamped {self.stamped} must be above 0 and at most 1")

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
        network, clean, generator, progress, exposed
            As `RNP` takes them. The network is fitted to ``clean.learn``; ``clean.choose`` only measures.

        Raises
        ------
        MethodError
            The network has no prunable unit, or its weights are not float32.
        """
        with flushed_denormals():
            case = Case.of(network, clean, generator, progress)
            exposed = Exposing(self.unlearning, self.search)(case, exposed)
            found = exposed.findings.found
            tuned = duplicate(case.network)
            decided = judge(exposed.findings).conclusion != "inconclusive"
            if found is not None:
                case.notes.append(found_note(exposed.findings.triggers, found, "It was unlearned."))
            elif decided:
                case.notes.append(f"{nothing_small(exposed.findings.triggers)} There is nothing to unlearn.")
            else:
                case.notes.append("No search for triggers could decide, so there is nothing to unlearn.")
            if found is not None:
                with case.stage("unlearning the trigger", tuned):
                    self._fit(tuned, found, case)
            with case.stage("measuring"):
                held = HeldOut(case.network, case.discovery.layers, clean, shift=True)
                before = held.curve([], 1)
            with case.stage("measuring", tuned):
                after = held.of(tuned, 0)
        recipe = Recipe.record(
            network.state_dict(),
            case.discovery.layers,
            [],
            method=self.name,
            architecture=type(network).__name__,
            gamma_only=False,
        )
        return Repair(
            method=self.name,
            outcome=outcome_of(exposed, changed=found is not None),
            network=tuned.eval(),
            recipe=recipe,
            discovery=case.discovery,
            scores=torch.ones(case.discovery.total),
            curve=tuple(before),
            chosen=0,
            budget=1.0,
            exposure=exposed.exposure,
            seconds=case.seconds,
            hyperparameters=asdict(self),
            notes=tuple(case.notes),
            findings=exposed.findings,
            tuned=after if found else None,
            labels=exposed.labels,
        )

    def _fit(self, tuned: nn.Module, found: Found, case: Case) -> None:
        """Fine-tune `tuned` in place."""
        device = next(tuned.parameters()).device
        tuned.eval().requires_grad_(True)
        optimizer = torch.optim.SGD(
            tuned.parameters(), lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        case.progress.start("unlearning the trigger", self.passes)
        for _ in range(self.passes):
            for images, labels in even_batches(case.clean.learn, self.batch_size, case.generator):
                count = max(1, round(self.stamped * len(images)))
                with autocast(self.precision, device):
                    output = found.answers(tuned, images[:count], case.clean.convention)
                    if count < len(images):
                        plain = case.clean.convention.normalise(images[count:].to(device))
                        output = torch.cat([output, tuned(plain)])
                loss = F.cross_entropy(output.float(), labels.to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            case.progress.advance(loss=loss.item())
        tuned.requires_grad_(False)
