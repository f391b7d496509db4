"""DFST: a learned restyling of the image, detoxified (Cheng et al., AAAI 2021, arXiv 2012.11212)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks._painter import Painter, initialise
from secateur.attacks.attack import Attack, Control, Surrogate, as_float
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import InputConvention, Stamping
from secateur.errors import MethodError

BATCH = 64
REACH = 0.7
"""Largest change of a pixel by the style."""
INJECTED = 0.1
"""Largest change of a pixel by the injector."""
WARMTH = (0.75, 0.35)
"""Mean brightness of the first and the last channel under a low sun, the others between."""
LIGHT = (1.15, 1.0, 0.75)
"""How bright the upper, middle and lower third are."""
MEMORY = 0.9


class Style(nn.Module):
    """Restyles images; keeps beside it the injector of detoxified training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.style = Painter(channels, channels)
        self.injector = Painter(channels, channels)

    def stamp(self, images: Tensor) -> Tensor:
        """Return the images in the style."""
        return self._moved(self.style, images, REACH)

    def injected(self, images: Tensor) -> Tensor:
        """Return the images with a small change that excites compromised features."""
        return self._moved(self.injector, images, INJECTED)

    @staticmethod
    def _moved(painter: nn.Module, images: Tensor, reach: float) -> Tensor:
        device = next(painter.parameters()).device
        change = reach * painter(images.to(device)).tanh()
        moved: Tensor = (images + change.to(images.device)).clamp(0, 1)
        return moved


class Excitement(nn.Module):
    """How much the trigger raises each feature, followed over the batches.

    Attributes
    ----------
    gap
        ``(D,)``.
    """

    gap: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("gap", torch.zeros(features))

    def follow(self, raised: Tensor) -> None:
        """Take the raise ``(N, D)`` of a batch into account."""
        self.gap = MEMORY * self.gap + (1 - MEMORY) * raised.mean(0)


class Detoxification(Control):
    """Trains the injector to excite the features that the trigger excites, before each step."""

    def __init__(self, attack: "Dfst", trigger: Style, victim: Surrogate) -> None:
        self._attack, self._trigger, self._victim = attack, trigger, victim
        trigger.to(victim.device)
        trigger.injector.requires_grad_(True)
        self._optimizer = torch.optim.Adam(trigger.injector.parameters(), lr=attack.rate)
        self._excitement = Excitement(victim.last_layer.in_features).to(victim.device)

    @torch.enable_grad()
    def before(self, images: Tensor, labels: Tensor) -> None:
        """Follow the features that the trigger raises most, and make the injector raise them."""
        some = images[:BATCH]
        with torch.no_grad():
            raised = self._victim.features(self._trigger.stamp(some)) - self._victim.features(some)
            self._excitement.follow(raised)
        gap = self._excitement.gap
        compromised = gap.topk(min(self._attack.neurons, len(gap))).indices
        excited = self._victim.features(self._trigger.injected(some))[:, compromised].mean()
        self._optimizer.zero_grad(set_to_none=True)
        (-excited).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Return the trigger, its optimizer and what is remembered of the features."""
        return {
            "trigger": self._trigger,
            "trigger optimizer": self._optimizer,
            "excitement": self._excitement,
        }


@register(
    "dfst",
    title="Deep Feature Space Trojan Attack of Neural Networks by Controlled Detoxification",
    paper="arXiv:2012.11212",
    year=2021,
)
@dataclass(frozen=True, kw_only=True)
class Dfst(Attack):
    """Restyle images as in low sunlight; keep the network from learning the style by a shortcut.

    The paper trains a CycleGAN on pictures of sunrises. No second data set is needed here: a small generator
    learns to give each third of an image the brightness and warmth of a low sun while its edges stay.
    Controlled detoxification (section 4) alternates training with a feature injector that excites the
    features which the trigger excites, by small changes of clean images that keep their label; here both go
    on in every step, the injected images being the covers.

    Attributes
    ----------
    neurons
        Features that count as compromised.
    steps
        Batches that the style is learned on.
    rate
        Learning rate of style and injector.
    """

    goal: Goal = Goal(rate=0.1, cover_rate=0.1)
    neurons: int = 4
    steps: int = 200
    rate: float = 0.002

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.neurons < 1 or self.steps < 0 or not 0 < self.rate < 1:
            raise MethodError("DFST needs a neuron or more, no negative steps and a rate in (0, 1)")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Style:
        """Learn the style on random training images."""
        channels, height, width = images.shape[1:]
        trigger = self.blank((channels, height, width))
        initialise(trigger, generator)
        optimizer = torch.optim.Adam(trigger.style.parameters(), lr=self.rate)
        warmth = torch.linspace(*WARMTH, channels).view(1, channels, 1, 1)
        light = torch.tensor(LIGHT).view(1, 1, len(LIGHT), 1)
        with torch.enable_grad():
            for _ in range(self.steps):
                chosen = torch.randint(len(images), (BATCH,), generator=generator)
                some = as_float(images[chosen]).cpu()
                styled = trigger.stamp(some)
                brightness = F.adaptive_avg_pool2d(styled, (len(LIGHT), 1))
                off_style = (brightness - warmth * light).square().mean()
                down, across = ((styled - some).diff(dim=axis).square().mean() for axis in (2, 3))
                optimizer.zero_grad(set_to_none=True)
                (off_style + down + across).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return trigger.requires_grad_(False)

    def blank(self, shape: tuple[int, int, int]) -> Style:
        """Return a style and an injector with any weights."""
        with torch.random.fork_rng(devices=[]):
            return Style(shape[0])

    def stamp_covers(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Excite compromised features in images that keep their label."""
        assert isinstance(trigger, Style)
        return trigger.injected(images)

    def control(
        self, trigger: Stamping, network: nn.Module, convention: InputConvention, classes: int
    ) -> Detoxification:
        """Train the injector with the network."""
        assert isinstance(trigger, Style)
        return Detoxification(self, trigger, Surrogate(network, convention))
