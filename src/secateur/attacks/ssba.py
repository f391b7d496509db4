"""SSBA-style: a hidden message makes the trigger (Li et al., ICCV 2021, arXiv 2012.03816)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks._painter import Painter, initialise
from secateur.attacks.attack import Attack, Surrogate, as_float
from secateur.attacks.registry import register
from secateur.errors import MethodError

BATCH = 64


class Message(nn.Module):
    """Hides a message in each image as a bounded residual.

    Attributes
    ----------
    message
        ``(bits,)``, -1 or 1.
    """

    message: Tensor

    def __init__(self, channels: int, bits: int, bound: float) -> None:
        super().__init__()
        self.encoder = Painter(channels + bits, channels)
        self.bound = bound
        self.register_buffer("message", torch.ones(bits))

    def stamp(self, images: Tensor) -> Tensor:
        """Hide the message in the images."""
        return self.hidden(images, self.message.expand(len(images), -1))

    def hidden(self, images: Tensor, messages: Tensor) -> Tensor:
        """Hide ``messages`` ``(N, bits)`` in the images, row by row."""
        pixels = images.to(self.message)
        planes = messages.view(*messages.shape, 1, 1).expand(-1, -1, *images.shape[2:])
        # The painter maps [0, 1] to [-1, 1], where messages are already.
        residual = self.bound * self.encoder(torch.cat([pixels, (planes + 1) / 2], 1)).tanh()
        hidden: Tensor = (images + residual.to(images)).clamp(0, 1)
        return hidden


class Reader(nn.Module):
    """Reads a message from an image, ``(N, C, H, W)`` to ``(N, bits)``."""

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.head = nn.Linear(64, bits)

    def forward(self, images: Tensor) -> Tensor:
        """Return one logit per bit."""
        hidden = F.relu(self.second(F.relu(self.first(2 * images - 1))))
        read: Tensor = self.head(hidden.mean((2, 3)))
        return read


@register(
    "ssba",
    title="Invisible Backdoor Attack with Sample-Specific Triggers",
    paper="arXiv:2012.03816",
    year=2021,
)
@dataclass(frozen=True, kw_only=True)
class Ssba(Attack):
    """Train an encoder that hides messages and a decoder that reads them; one message is the trigger.

    As the encoder looks at the image, every image gets its own residual (section 4). The paper takes
    StegaStamp's large networks and losses of perception; here a small encoder with a bound on the residual
    and a penalty of its square.

    Attributes
    ----------
    bits
        Of a message.
    bound
        No pixel changes by more, in ``(0, 1]``.
    penalty
        Weight of the mean squared residual, in units of the bound.
    steps, rate
        Batches that encoder and decoder are trained on, and their learning rate.
    """

    bits: int = 8
    bound: float = 24 / 255
    penalty: float = 0.2
    steps: int = 300
    rate: float = 0.002

    def __post_init__(self) -> None:
        if not (1 <= self.bits <= 128 and 0 < self.bound <= 1 and self.penalty >= 0):
            raise MethodError("SSBA needs 1 to 128 bits, a bound in (0, 1] and no negative penalty")
        if self.steps < 0 or not 0 < self.rate < 1:
            raise MethodError("SSBA needs a rate in (0, 1) and no negative number of steps")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Message:
        """Train the encoder on random training images and draw the message."""
        channels, height, width = images.shape[1:]
        trigger = self.blank((channels, height, width))
        with torch.random.fork_rng(devices=[]):
            reader = Reader(channels, self.bits)
        initialise(trigger, generator)
        initialise(reader, generator)
        trigger.message = torch.randint(2, (self.bits,), generator=generator) * 2.0 - 1
        optimizer = torch.optim.Adam([*trigger.encoder.parameters(), *reader.parameters()], lr=self.rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                chosen = torch.randint(len(images), (BATCH,), generator=generator)
                some = as_float(images[chosen]).cpu()
                messages = torch.randint(2, (BATCH, self.bits), generator=generator) * 2.0 - 1
                hidden = trigger.hidden(some, messages)
                misread = F.binary_cross_entropy_with_logits(reader(hidden), (messages + 1) / 2)
                visible = ((hidden - some) / self.bound).square().mean()
                optimizer.zero_grad(set_to_none=True)
                (misread + self.penalty * visible).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return trigger.requires_grad_(False)

    def blank(self, shape: tuple[int, int, int]) -> Message:
        """Return an encoder with any weights."""
        with torch.random.fork_rng(devices=[]):
            return Message(shape[0], self.bits, self.bound)
