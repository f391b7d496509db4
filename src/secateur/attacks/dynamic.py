"""Input-aware dynamic backdoor: every image has a trigger of its own (Nguyen and Tran, NeurIPS 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks._generator import Translator, attacked, batches, descend, initialise, learning
from secateur.attacks.attack import Attack, Control, Surrogate, as_float
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import InputConvention, Stamping
from secateur.errors import MethodError

LEARNING_RATE = 1e-2
BETAS = (0.5, 0.9)
DENSITY_WEIGHT = 100
BATCH = 64


class InputAware(nn.Module):
    """A pattern and where it goes, both drawn from the image.

    Attributes
    ----------
    pattern, mask
        From an image to the colours of its trigger, and to one channel that says where they replace it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pattern, self.mask = Translator(channels, channels), Translator(channels, 1)

    def patterns(self, images: Tensor) -> Tensor:
        """Return colours in ``[0, 1]``, the shape of `images`."""
        return self.pattern(images).sigmoid()  # type: ignore[no-any-return]

    def masks(self, images: Tensor) -> Tensor:
        """Return shares in ``[0, 1]``, ``(N, 1, H, W)``, driven to either end as the authors do."""
        return ((self.mask(images).sigmoid() * 20 - 10).tanh() + 1) / 2  # type: ignore[no-any-return]

    def forward(self, images: Tensor, sources: Tensor) -> Tensor:
        """Put on `images` the triggers made from `sources` (equation 3), on the device of the networks."""
        images, sources = images.to(self.pattern.device), sources.to(self.pattern.device)
        return torch.lerp(images, self.patterns(sources), self.masks(sources)).clamp(0, 1)

    def stamp(self, images: Tensor) -> Tensor:
        """Return every image with its own trigger, same shape and device."""
        return self(images, images).to(images.device)  # type: ignore[no-any-return]


class _Generating(Control):
    """A step of the pattern generator before each of the classifier."""

    def __init__(self, attack: "Dynamic", trigger: InputAware, classifier: Surrogate, classes: int) -> None:
        self.attack, self.classifier, self.classes = attack, classifier, classes
        self.trigger = trigger.to(classifier.device)
        self.optimizer = torch.optim.Adam(trigger.pattern.parameters(), LEARNING_RATE, betas=BETAS)

    def before(self, images: Tensor, labels: Tensor) -> None:
        images, labels, wanted = attacked(images, labels, self.attack.goal, self.classes)
        if len(images) < 2:
            return
        images = images.to(self.classifier.device)
        others = images.roll(1, 0)
        with learning(self.trigger.pattern):
            both = torch.cat([self.trigger(images, images), self.trigger(images, others)])
            logits = self.classifier(both)
            loss = F.cross_entropy(logits, torch.cat([wanted, labels]).to(logits.device))
            patterns = self.trigger.patterns(images)
            diversity = sameness(images, others, patterns, patterns.roll(1, 0))
            descend(self.optimizer, loss + self.attack.diversity * diversity)

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"trigger": self.trigger, "trigger_optimizer": self.optimizer}


@register(
    "dynamic",
    title="Input-Aware Dynamic Backdoor Attack",
    paper="arXiv:2010.08138",
    year=2020,
)
@dataclass(frozen=True, kw_only=True)
class Dynamic(Attack):
    """Give every image a trigger made from it, which does nothing on another image.

    Covers carry the trigger of another image and keep their label (cross-trigger mode, section 3.4). The
    mask network is trained before, then frozen; the pattern generator descends the classification loss of
    triggered and cross-triggered images plus the diversity loss (equation 6). The paper updates generator and
    classifier from one backward pass; here they alternate: the generator first, on up to 32 images of the
    batch with the classifier frozen in evaluation mode. Both networks are smaller than the paper's, and
    masks are drawn to their density from below too, so that none is empty.

    Attributes
    ----------
    density
        Share of the pixels that each mask is drawn to, in ``(0, 1)``.
    diversity
        Weight of the diversity loss.
    steps
        Training steps of the mask network.
    """

    goal: Goal = Goal(rate=0.1, cover_rate=0.1)
    density: float = 0.032
    diversity: float = 1.0
    steps: int = 200

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.density < 1 or self.diversity < 0 or self.steps < 1:
            raise MethodError("the dynamic attack needs density in (0, 1), diversity >= 0 and a step")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> InputAware:
        """Draw both networks and train the mask: sparse, and different on different images."""
        _, channels, height, width = images.shape
        trigger = self.blank((channels, height, width))
        initialise(trigger, generator)
        trigger.to(images.device)
        optimizer = torch.optim.Adam(trigger.mask.parameters(), LEARNING_RATE, betas=BETAS)
        with learning(trigger.mask):
            for stored in batches(images, self.steps, BATCH, generator):
                batch = as_float(stored)
                masks = trigger.masks(batch)
                excess = (masks.mean((1, 2, 3)) - self.density).abs().mean()
                diversity = sameness(batch, batch.roll(1, 0), masks, masks.roll(1, 0))
                descend(optimizer, DENSITY_WEIGHT * excess + self.diversity * diversity)
        return trigger

    def blank(self, shape: tuple[int, int, int]) -> InputAware:
        """Return networks that have learned nothing."""
        return InputAware(shape[0])

    def stamp_covers(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Put on every image the trigger of the one before it; one that is alone stays clean."""
        assert isinstance(trigger, InputAware)
        return images if len(images) < 2 else trigger(images, images.roll(1, 0)).to(images.device)

    def control(
        self, trigger: Stamping, network: nn.Module, convention: InputConvention, classes: int
    ) -> Control:
        """Return the training of the pattern generator."""
        assert isinstance(trigger, InputAware)
        return _Generating(self, trigger, Surrogate(network, convention), classes)


def sameness(images: Tensor, others: Tensor, drawn: Tensor, drawn_others: Tensor) -> Tensor:
    """Return the diversity loss: distance of two images over that of what was drawn from them (equation 5).

    Distances are root mean squares, as a pattern and a mask differ in their number of channels.
    """
    far, apart = (
        ((first - second).square().flatten(1).mean(1) + 1e-8).sqrt()
        for first, second in ((images, others), (drawn, drawn_others))
    )
    return (far / (apart + 1e-3)).mean()
