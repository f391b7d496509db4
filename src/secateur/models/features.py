"""The last layer of a network, and what it sees."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def last_layer(network: nn.Module, example: Tensor) -> str | None:
    """Return the name of the linear layer or convolution that runs last; None if none does."""
    with _last_call(network) as last, torch.no_grad():
        network(example)
    return last[0][0] if last else None


def answers_and_features(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the network's output, ``(N, K)``, and what the last layer with weights received, ``(N, D)``.

    Of a convolution, that is the mean over all places.

    Of a network without a `last_layer`, the output stands for its features. Both are differentiable in
    `inputs`.
    """
    with _last_call(network) as last:
        output: Tensor = network(inputs)
    features = last[0][1] if last else output
    return output, features.flatten(2).mean(2) if features.ndim > 2 else features


@contextmanager
def _last_call(network: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Keep name and input of the layer that ran last while the block runs; hooks are removed after it."""
    last: list[tuple[str, Tensor]] = []

    def remember(name: str, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if arguments:
            last[:] = [(name, arguments[0])]

    hooks = [
        module.register_forward_pre_hook(partial(remember, name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | _ConvNd)
    ]
    try:
        yield last
    finally:
        for hook in hooks:
            hook.remove()
