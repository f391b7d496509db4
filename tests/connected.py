"""What tests of connections ask of a network."""

import torch
from torch import Tensor, nn

from secateur.units import Connections, connect, discover


def connected(
    network: nn.Module, *shape: int, strongest: int | None = None
) -> tuple[Connections, dict[str, range]]:
    """Connect a network, and tell which units each layer has."""
    example = torch.randn(1, *(shape or (3, 8, 8)))
    discovery = discover(network, example)
    ends = 0
    units = {}
    for layer in discovery.layers:
        units[layer.name] = range(ends, ends + layer.count)
        ends += layer.count
    return connect(network, discovery, example, strongest=strongest), units


def matrix(connections: Connections, sources: range, targets: range) -> Tensor:
    """Return the edges between two layers, shape ``(targets, sources)``."""
    dense = torch.zeros(len(connections.groups), len(connections.groups))
    dense[connections.edges[1], connections.edges[0]] = connections.weights
    return dense[targets.start : targets.stop, sources.start : sources.stop]


def named_groups(connections: Connections, units: dict[str, range]) -> set[frozenset[tuple[str, int]]]:
    """Return the groups of more than one unit, as layers and channels."""
    groups: dict[int, set[tuple[str, int]]] = {}
    for name, own in units.items():
        for channel, unit in enumerate(own):
            groups.setdefault(int(connections.groups[unit]), set()).add((name, channel))
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def conv(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options)


def l1(layer: nn.Module) -> Tensor:
    """Return the L1 norms of a convolution's or linear layer's kernels, shape ``(outputs, inputs)``."""
    weight = layer.get_parameter("weight").detach()
    return weight.abs().flatten(2).sum(2) if weight.dim() > 2 else weight.abs()


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
