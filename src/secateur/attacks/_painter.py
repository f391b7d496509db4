"""The small image-to-image network of attacks that learn their trigger."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Painter(nn.Module):
    """Two scales of 3x3 convolutions; costs about a third of a ResNet-20 and never mixes images of a batch.

    Shapes
    ------
    ``(N, channels, H, W)`` in ``[0, 1]`` to ``(N, painted, H, W)``, unbounded, for any H and W.
    """

    def __init__(self, channels: int, painted: int, width: int = 16) -> None:
        super().__init__()
        self.fine = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.Conv2d(3 * width, width, 3, padding=1)
        self.last = nn.Conv2d(width, painted, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Paint every image."""
        fine = F.relu(self.fine(2 * images - 1))
        coarse = F.relu(self.down(fine))
        coarse = coarse + F.relu(self.deep(coarse))
        back = F.interpolate(coarse, fine.shape[2:], mode="nearest")
        painted: Tensor = self.last(F.relu(self.up(torch.cat([fine, back], 1))))
        return painted


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of every convolution and linear layer (He et al., arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
