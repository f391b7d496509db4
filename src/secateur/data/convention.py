"""How pixels become what a network expects."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import ConventionError


@dataclass(frozen=True)
class InputConvention:
    """The input that a network was trained on.

    Attributes
    ----------
    size
        Height and width in pixels.
    channels
        1 for grey, 3 for RGB.
    mean, std
        Per channel, in the units that ``low`` and ``high`` define. One value serves all channels.
    low, high
        What pixel values 0 and 1 become before the mean is taken off: ``(0, 1)``, ``(-1, 1)``, ``(0, 255)``.

    Raises
    ------
    ConventionError
        A value is out of range or the numbers of channels disagree.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if min(self.size) < 1 or max(self.size) > 4096:
            raise ConventionError(f"image size {self.size} is not between 1 and 4096 pixels")
        if self.channels < 1:
            raise ConventionError(f"{self.channels} channels: there must be at least one")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) == 1:
                values = values * self.channels
                object.__setattr__(self, name, values)
            if len(values) != self.channels:
                raise ConventionError(f"{name} has {len(values)} values for {self.channels} channels")
            if not all(math.isfinite(value) for value in values):
                raise ConventionError(f"{name} {values} is not finite")
        if min(self.std) <= 0:
            raise ConventionError(f"std {self.std} must be above zero")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConventionError(f"range {self.low},{self.high}: the first value must be below the second")

    def normalise(self, images: Tensor) -> Tensor:
        """Turn pixels into network input.

        Parameters
        ----------
        images
            ``(N, C, H, W)``, floating-point, in ``[0, 1]``, on any device.

        Returns
        -------
        Tensor
            Same shape; differentiable in `images`.
        """
        mean, std = (images.new_tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (images * (self.high - self.low) + (self.low - mean)) / std

    def describe(self) -> dict[str, object]:
        """Return the convention as plain values for a report."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "range": [self.low, self.high],
        }


def example_input(convention: InputConvention) -> Tensor:
    """Return one mid-grey image as network input, ``(1, C, H, W)``."""
    return convention.normalise(torch.full((1, convention.channels, *convention.size), 0.5))
