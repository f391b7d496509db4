"""Bounded changes of images that a network's loss decides: projected gradient descent."""

from collections.abc import Callable

import torch
from torch import Tensor

BATCH = 256
"""Images per gradient, so that memory does not grow with their number."""


def descend(
    images: Tensor, loss: Callable[[Tensor, Tensor], Tensor], *, bound: float, steps: int, rate: float
) -> Tensor:
    """Lower a loss over images within an L-infinity ball (Madry et al., arXiv 1706.06083).

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
            moved = current.detach() - rate * gradient.sign()
            current = torch.clamp(moved, original - bound, original + bound).clamp(0, 1)
        changed[chosen] = current.detach()
    return changed
