"""Copies of networks that remember what went through them."""

import copy

import torch
from torch import Tensor, nn


def duplicate(network: nn.Module) -> nn.Module:
    """Return a deep copy of `network`.

    Some networks keep an activation as an attribute. After a pass with gradients that cannot be copied; the
    copy gets its values alone.
    """
    kept = {
        id(value): value.detach()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    return copy.deepcopy(network, kept)


def to_fastest_layout(network: nn.Module, example: Tensor) -> None:
    """Keep the weights of `network` with the channels last, in place, if it still runs on `example`.

    A network that flattens with ``view`` does not: its activations have the channels last as well.
    """
    network.to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            network(example)
    except RuntimeError:
        network.to(memory_format=torch.contiguous_format)
