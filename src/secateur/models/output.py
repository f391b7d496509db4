"""Logits from networks that hide them behind a softmax of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.models.modes import kept_modes

_SOFTMAX = (nn.Softmax, nn.LogSoftmax, nn.Softmax2d)


@contextmanager
def logits(network: nn.Module, example: Tensor) -> Iterator[None]:
    """Make `network` answer with logits while the block runs.

    The cross-entropy of a saturated softmax has no gradient, so a network that ends in a softmax cannot be
    unlearned. If a softmax module's output is the network's output, it is bypassed; if the softmax is a
    function call, the output's logarithm is taken, which is a logit up to a constant but keeps the
    saturation. Networks that answer with logits are left alone. Every hook is removed afterwards, also when
    the block raises.

    Parameters
    ----------
    network
        A classifier; in evaluation mode it is deterministic.
    example
        Network input, ``(N, C, H, W)``, that tells which of the cases holds.
    """
    last: list[tuple[nn.Module, Tensor]] = []
    watchers = [
        module.register_forward_hook(lambda m, _, output: last.append((m, output)))
        for module in network.modules()
        if isinstance(module, _SOFTMAX)
    ]
    try:
        with kept_modes(network), torch.no_grad():
            network.eval()
            output = network(example)
    finally:
        for watcher in watchers:
            watcher.remove()

    softmax = next((module for module, answer in last if answer is output), None)
    # One that also works inside the network must stay there.
    if softmax is not None and [module for module, _ in last].count(softmax) == 1:
        hook = softmax.register_forward_hook(lambda _module, inputs, _output: inputs[0])
    elif _are_probabilities(output):
        smallest = torch.finfo(output.dtype).tiny
        hook = network.register_forward_hook(lambda _m, _i, answer: answer.clamp_min(smallest).log())
    else:
        yield
        return
    try:
        yield
    finally:
        hook.remove()


def _are_probabilities(output: Tensor) -> bool:
    sums = output.sum(1)
    return bool((output >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))
