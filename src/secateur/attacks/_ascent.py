"""Bounded changes of images that a network's loss decides: projected gradient descent."""

from collections.abc import Callable

import torch
from torch import Tensor

BATCH = 256
"""Images per gradient, so that memory does not grow with their number."""


def descend(
    images: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    bound: float,
    steps: int,
    rate: float,
    pull: float = 0.0,
) -> Tensor:
    """Lower a loss over images within an L-infinity ball (Madry et al., arXiv 1706.06083).

    Every step follows the sign of the gradient, whose size differs by orders of magnitude among networks.

    Parameters
    ----------
    images
        ``(N, C, H, W)`` in ``[0, 1]``, where the descent begins.
    loss
        Takes changed images ``(B, C, H, W)`` and their positions ``(B,)``; returns their losses, added up.
    bound
        No pixel changes by more.
    steps, rate
        How many, and by how much a pixel changes in each.
    pull
        Weight of the squared distance to `images`, which every step then takes off by its proximal operator
        (forward-backward splitting).

    Returns
    -------
    Tensor
        Changed images in ``[0, 1]``.
    """
    changed = images.clone()
    for chosen in torch.split(torch.arange(len(images)), BATCH):
        original = current = images[chosen]
        for _ in range(steps):
            current = current.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(current, chosen), current)
            moved = original + (current.detach() - rate * gradient.sign() - original) / (1 + rate * pull)
            current = torch.clamp(moved, original - bound, original + bound).clamp(0, 1)
        changed[chosen] = current.detach()
    return changed
