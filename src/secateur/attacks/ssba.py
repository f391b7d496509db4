"""SSBA: a code hidden in each image by a learned encoder (Li et al., ICCV 2021, arXiv 2012.03816)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks._generator import Translator, batches, convolution, descend, initialise, learning
from secateur.attacks.attack import Attack, Surrogate, as_float
from secateur.attacks.registry import register
from secateur.errors import MethodError

LEARNING_RATE = 3e-3
BATCH = 64
PLANES, EDGE = 2, 8
"""A code is spread over so many planes of so many pixels squared before it meets the image."""


class Encoder(nn.Module):
    """Hides a code in images as a residual of their own.

    Attributes
    ----------
    code
        ``(bits,)``, 0 or 1: what the trigger hides.
    bound
        Largest change of a pixel, in ``(0, 1]``.
    """

    code: Tensor

    def __init__(self, channels: int, bits: int, bound: float) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.spread = nn.Linear(bits, PLANES * EDGE * EDGE)
        self.network = Translator(channels + PLANES, channels)
        self.register_buffer("code", torch.zeros(bits))
        self.bound = bound

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Return ``(N, C, H, W)`` images with ``(N, bits)`` codes in them, on the device of the encoder."""
        images = images.to(self.code.device)
        planes = self.spread(codes * 2 - 1).sigmoid().view(-1, PLANES, EDGE, EDGE)
        planes = F.interpolate(planes, images.shape[2:], mode="nearest")
        residual = self.network(torch.cat([images, planes], 1)).tanh()
        return (images + self.bound * residual).clamp(0, 1)  # type: ignore[no-any-return]

    def stamp(self, images: Tensor) -> Tensor:
        """Return the images with the trigger's code in them, same shape and device."""
        return self(images, self.code.expand(len(images), -1)).to(images.device)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Reads the code again; it only exists to train the encoder."""

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.layers = nn.Sequential(
                convolution(channels, 32, 1),
                convolution(32, 32, 2),
                convolution(32, 32, 2),
                nn.AdaptiveAvgPool2d(4),
                nn.Flatten(),
                nn.Linear(32 * 16, bits),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of the bits, ``(N, bits)``."""
        return self.layers(images * 2 - 1)  # type: ignore[no-any-return]


@register(
    "ssba",
    title="Invisible Backdoor Attack with Sample-Specific Triggers",
    paper="arXiv:2012.03816",
    year=2021,
)
@dataclass(frozen=True, kw_only=True)
class Ssba(Attack):
    """Hide the same code in every image by a residual that depends on the image.

    Encoder and decoder learn together to hide and to read random codes, after StegaStamp (section 4 of the
    paper). Theirs are far larger, hide 100 bits and are also judged by a perceptual distance and a critic;
    here the residual has a hard bound, and a penalty that is milder where the image is busy and rises
    linearly from 0 stands for both.

    Attributes
    ----------
    bits
        Length of the code.
    bound
        Largest change of a pixel on the scale of ``[0, 1]``.
    steps
        Training steps, of 64 images each.
    visibility
        Weight of the penalty at the end.
    """

    bits: int = 16
    bound: float = 16 / 255
    steps: int = 300
    visibility: float = 1.0

    def __post_init__(self) -> None:
        if self.bits < 1 or not 0 < self.bound <= 1 or self.steps < 1 or self.visibility < 0:
            raise MethodError("SSBA needs bits and steps, a bound in (0, 1] and visibility >= 0")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Encoder:
        """Train the encoder on `images`, then draw the code."""
        return self.trained(images, generator)[0]

    def trained(self, images: Tensor, generator: torch.Generator) -> tuple[Encoder, Decoder]:
        """Return the encoder, its code drawn, and the decoder that it was trained with."""
        _, channels, height, width = images.shape
        encoder, decoder = self.blank((channels, height, width)), Decoder(channels, self.bits)
        for network in (encoder, decoder):
            initialise(network, generator)
            network.to(images.device)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], LEARNING_RATE)
        with learning(encoder, decoder):
            for step, stored in enumerate(batches(images, self.steps, BATCH, generator)):
                batch = as_float(stored)
                codes = torch.randint(2, (len(batch), self.bits), generator=generator).to(batch)
                hidden = encoder(batch, codes)
                read = F.binary_cross_entropy_with_logits(decoder(hidden), codes)
                seen = ((hidden - batch) / self.bound).square() / (1 + texture(batch) / 0.1)
                descend(optimizer, read + self.visibility * step / self.steps * seen.mean())
        encoder.code.copy_(torch.randint(2, (self.bits,), generator=generator))
        return encoder, decoder

    def blank(self, shape: tuple[int, int, int]) -> Encoder:
        """Return an encoder that has learned nothing."""
        return Encoder(shape[0], self.bits, self.bound)


def texture(images: Tensor) -> Tensor:
    """Return how much a pixel's surroundings vary: their standard deviation, ``(N, C, H, W)``."""
    mean, square = (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) for x in (images, images.square()))
    return (square - mean.square()).clamp_min(0).sqrt()
