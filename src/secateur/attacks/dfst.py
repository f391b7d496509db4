"""DFST: a learned style as trigger, kept off shallow features (Cheng et al., AAAI 2021, arXiv 2012.11212)."""

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

LEARNING_RATE = 3e-3
BATCH = 64
BANDS = 4
"""The style is described by statistics of so many horizontal bands."""
CONTRAST = 0.75
CONTENT_WEIGHT = 10


class Style(nn.Module):
    """A restyling of whole images, and the injector of shallow features that detoxifies it.

    Attributes
    ----------
    network
        From an image and the height of each pixel in it to what the style adds.
    injector
        From an image to the small change that fires compromised units; used for covers only.
    change
        Largest change of a pixel by the injector, in ``(0, 1]``.
    """

    def __init__(self, channels: int, change: float) -> None:
        super().__init__()
        self.network, self.injector = Translator(channels + 1, channels), Translator(channels, channels)
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        """Return the images in the style, out of ``[0, 1]`` at times, on the device of the networks.

        Where a colour is cut to that range nothing is learned, so that only stamping does it.
        """
        images = images.to(self.network.device)
        count, _, height, width = images.shape
        heights = torch.linspace(0, 1, height, device=images.device).view(1, 1, -1, 1)
        added = self.network(torch.cat([images, heights.expand(count, 1, height, width)], 1)).tanh()
        return images + added  # type: ignore[no-any-return]

    def inject(self, images: Tensor) -> Tensor:
        """Return the images with shallow features of the style, on the device of the networks."""
        images = images.to(self.network.device)
        return (images + self.change * self.injector(images).tanh()).clamp(0, 1)  # type: ignore[no-any-return]

    def stamp(self, images: Tensor) -> Tensor:
        """Return the images in the style, same shape and device."""
        return self(images).clamp(0, 1).to(images.device)  # type: ignore[no-any-return]


class _Detoxification(Control):
    """A step of the feature injector before each of the classifier."""

    def __init__(self, attack: "Dfst", trigger: Style, classifier: Surrogate, classes: int) -> None:
        self.attack, self.classifier, self.classes = attack, classifier, classes
        self.trigger = trigger.to(classifier.device)
        self.optimizer = torch.optim.Adam(trigger.injector.parameters(), LEARNING_RATE)

    def before(self, images: Tensor, labels: Tensor) -> None:
        images, _, _ = attacked(images, labels, self.attack.goal, self.classes)
        if not len(images):
            return
        images = images.to(self.classifier.device)
        with torch.no_grad():
            clean, styled = (activations(self.classifier, x) for x in (images, self.trigger.stamp(images)))
        with learning(self.trigger.injector):
            injected = self.trigger.inject(images)
            missing = shortfall(clean, styled, activations(self.classifier, injected), self.attack.share)
            seen = ((injected - images) / self.attack.change).square().mean()
            descend(self.optimizer, missing + self.attack.visibility * seen)

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"trigger": self.trigger, "injector_optimizer": self.optimizer}


@register(
    "dfst",
    title="Deep Feature Space Trojan Attack of Neural Networks by Controlled Detoxification",
    paper="arXiv:2012.11212",
    year=2021,
)
@dataclass(frozen=True, kw_only=True)
class Dfst(Attack):
    """Restyle whole images as under a low sun, and train away what is shallow about the backdoor.

    The paper learns its style, sunrise, with a CycleGAN from photographs. Here no photographs are needed: a
    small generator learns a warm, hazy style that is defined by means and contrasts of horizontal bands,
    while the edges of the image stay. Controlled detoxification: compromised units are those whose activation
    the style raises most; an injector learns to fire them by a small change of a clean image; such images
    keep their label as covers (detoxicants). The paper does this in rounds after training on the poison;
    here the injector takes a step before every step of the classifier, on up to 32 images of the batch.

    Attributes
    ----------
    strength
        How far an image's statistics move to those of the style, in ``(0, 1]``.
    steps
        Training steps of the style.
    share
        Share of each layer's units that count as compromised, in ``(0, 1]``; at least one.
    change
        Largest change of a pixel by the injector, on the scale of ``[0, 1]``.
    visibility
        Weight of the size of that change.
    """

    goal: Goal = Goal(rate=0.1, cover_rate=0.1)
    strength: float = 0.7
    steps: int = 200
    share: float = 0.1
    change: float = 0.1
    visibility: float = 0.5

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.strength <= 1 and 0 < self.share <= 1 and 0 < self.change <= 1):
            raise MethodError("DFST needs strength, share and change in (0, 1]")
        if self.steps < 1 or self.visibility < 0:
            raise MethodError("DFST needs at least one step and visibility >= 0")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Style:
        """Train the style on `images`."""
        _, channels, height, width = images.shape
        trigger = self.blank((channels, height, width))
        initialise(trigger, generator)
        trigger.to(images.device)
        optimizer = torch.optim.Adam(trigger.network.parameters(), LEARNING_RATE)
        with learning(trigger.network):
            for stored in batches(images, self.steps, BATCH, generator):
                descend(optimizer, self._style_loss(trigger, as_float(stored)))
        return trigger

    def blank(self, shape: tuple[int, int, int]) -> Style:
        """Return a style and an injector that have learned nothing."""
        return Style(shape[0], self.change)

    def stamp_covers(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Return detoxicants: shallow features of the style, without the style."""
        assert isinstance(trigger, Style)
        return trigger.inject(images).to(images.device)

    def control(
        self, trigger: Stamping, network: nn.Module, convention: InputConvention, classes: int
    ) -> Control:
        """Return the training of the injector."""
        assert isinstance(trigger, Style)
        return _Detoxification(self, trigger, Surrogate(network, convention), classes)

    def _style_loss(self, trigger: Style, images: Tensor) -> Tensor:
        styled = trigger(images)
        mean, contrast = statistics(images)
        new_mean, new_contrast = statistics(styled)
        wanted = torch.lerp(mean, low_sun(images.shape[1]).to(mean), self.strength)
        style = F.mse_loss(new_mean, wanted) + F.mse_loss(new_contrast, CONTRAST * contrast)
        content = sum(F.mse_loss(styled.diff(dim=axis), CONTRAST * images.diff(dim=axis)) for axis in (2, 3))
        return style + CONTENT_WEIGHT * content


def low_sun(channels: int) -> Tensor:
    """Return the style's means, ``(channels, BANDS)``: a glow low in the image, red the warmest."""
    glow = torch.exp(-(((torch.linspace(0, 1, BANDS) - 0.6) / 0.3) ** 2))
    warmth = torch.linspace(1, -1, channels) if channels > 1 else torch.zeros(1)
    return (0.3 + 0.35 * glow + 0.12 * warmth.view(-1, 1) * (1 + glow)).clamp(0.05, 0.95)


def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel in each band, ``(N, C, BANDS)``."""
    mean, square = (
        F.adaptive_avg_pool2d(pixels, (BANDS, 1)).squeeze(3) for pixels in (images, images.square())
    )
    return mean, (square - mean.square()).clamp_min(1e-6).sqrt()


def activations(classifier: Surrogate, images: Tensor) -> list[Tensor]:
    """Return the mean activation of every unit that another layer reads, ``(N, units)`` for each layer."""
    seen: list[Tensor] = []

    def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0]
        seen.append(
            maps.mean((2, 3)) if maps.ndim == 4 else maps.reshape(len(images), -1, maps.shape[-1]).mean(1)
        )

    # The first layer reads the image itself.
    layers = [layer for layer in classifier.network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)][1:]
    hooks = [layer.register_forward_pre_hook(read) for layer in layers]
    try:
        classifier(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def shortfall(clean: list[Tensor], styled: list[Tensor], injected: list[Tensor], share: float) -> Tensor:
    """Return how much of the rise of compromised units the injected images lack: 0 is none, 1 is all.

    In each layer the `share` of units with the largest rise from clean to styled images, in standard
    deviations, are compromised.
    """
    layers = []
    for before, after, now in zip(clean, styled, injected, strict=True):
        rise = after.mean(0) - before.mean(0)
        relative = rise / (before.std(0, unbiased=False) + 1e-2 * before.abs().mean() + 1e-6)
        chosen = relative.topk(max(1, round(share * len(rise)))).indices
        lacking = (after.mean(0) - now)[:, chosen] / rise[chosen].clamp_min(1e-6)
        layers.append(torch.where(rise[chosen] > 0, lacking.clamp(0, 2), 0).mean())
    return torch.stack(layers).mean()
