"""WaNet: an imperceptible warp of the image (Nguyen and Tran, ICLR 2021, arXiv 2102.10369)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks.attack import Attack, Surrogate
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import Stamping
from secateur.errors import MethodError


class Warp(nn.Module):
    """A fixed field of displacements.

    Attributes
    ----------
    grid
        ``(H, W, 2)``: where each pixel is taken from, x then y, in ``[-1, 1]``.
    """

    grid: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("grid", _identity(height, width))

    def stamp(self, images: Tensor) -> Tensor:
        """Return the warped images, same shape."""
        return self.warped(images, self.grid.expand(len(images), -1, -1, -1))

    @staticmethod
    def warped(images: Tensor, grid: Tensor) -> Tensor:
        """Sample `images` ``(N, C, H, W)`` at `grid` ``(N, H, W, 2)``, bilinearly."""
        return F.grid_sample(images, grid.to(images), align_corners=True).clamp(0, 1)


@register(
    "wanet",
    title="WaNet: Imperceptible Warping-based Backdoor Attack",
    paper="arXiv:2102.10369",
    year=2021,
)
@dataclass(frozen=True, kw_only=True)
class WaNet(Attack):
    """Warp images by a smooth random field; covers are warped by the field plus noise and keep their label.

    Attributes
    ----------
    points
        Control points along each edge (k, section 3.2).
    strength
        Mean displacement of the control points along each axis, in half pixels (s).
    """

    goal: Goal = Goal(rate=0.1, cover_rate=0.2)
    points: int = 4
    strength: float = 0.5

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.points < 2 or not 0 < self.strength < 100:
            raise MethodError("WaNet needs at least two control points and a strength in (0, 100)")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Warp:
        """Draw the field: uniform control points, divided by their mean size, interpolated (equation 4)."""
        height, width = images.shape[2:]
        field = torch.rand(1, 2, self.points, self.points, generator=generator) * 2 - 1
        field = F.interpolate(field / field.abs().mean(), (height, width), mode="bicubic", align_corners=True)
        trigger = self.blank((images.shape[1], height, width))
        shift = self.strength * field[0].permute(1, 2, 0) / torch.tensor([width, height])
        trigger.grid = (trigger.grid + shift).clamp(-1, 1)
        return trigger

    def blank(self, shape: tuple[int, int, int]) -> Warp:
        """Return a warp that moves nothing."""
        return Warp(shape[1], shape[2])

    def stamp_covers(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Warp with up to half a pixel of noise on every displacement (section 3.3, noise mode)."""
        assert isinstance(trigger, Warp)
        height, width = images.shape[2:]
        noise = torch.rand(len(images), height, width, 2, generator=generator) * 2 - 1
        grid = trigger.grid.cpu() + noise / torch.tensor([width, height])
        return Warp.warped(images, grid.clamp(-1, 1))


def _identity(height: int, width: int) -> Tensor:
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
