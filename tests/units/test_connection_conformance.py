"""Pruning a unit changes exactly the units that its edges lead to, when nothing passes on through others."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import Tensor, nn

from networks import ALL, Case
from secateur.units import Unit, UnitLayer, all_units, connect, discover, prune

# One of each kind: what is left out has the same blocks.
LEFT_OUT = {
    "vgg16_bn",
    "vgg11",
    "efficientnet_b0",
    "resnet18",
    "mobilenet_v2",
    "smallvgg_gtsrb",
    "cnn_cifar10",
}
CASES = [case for case in ALL if str(case.id).split(":")[-1] not in LEFT_OUT]
Seen = dict[str, list[Tensor]]


def observable(network: nn.Module, layer: UnitLayer) -> bool:
    """Tell whether a hook sees the units: a packed attention does not call its projection."""
    return not isinstance(network.get_submodule(layer.name), nn.MultiheadAttention)


@contextmanager
def observed(network: nn.Module, layers: list[UnitLayer], pretended: Seen | None = None) -> Iterator[Seen]:
    """Note what each layer's units take or give, and let the network go on with what is pretended."""
    seen: Seen = {layer.name: [] for layer in layers}

    def note(layer: UnitLayer, tensor: Tensor, axis: int) -> Tensor:
        seen[layer.name].append(tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis]).clone())
        if pretended is None:
            return tensor
        calm = pretended[layer.name][len(seen[layer.name]) - 1]
        return calm.view(tensor.movedim(axis, -1).shape).movedim(-1, axis).clone()

    with ExitStack() as undo:
        for layer in layers:
            module = network.get_submodule(layer.name)
            if layer.kind in ("norm", "heads"):
                # What a norm takes shows more than what it gives: timm's norms have an activation inside.
                module, axis = (module, 1) if layer.kind == "norm" else (module.get_submodule("proj"), -1)
                handle = module.register_forward_pre_hook(
                    lambda _, inputs, layer=layer, axis=axis: (note(layer, inputs[0], axis),)
                )
            else:
                axis = 1 if layer.kind == "conv" else -1
                handle = module.register_forward_hook(
                    lambda _, __, output, layer=layer, axis=axis: note(layer, output, axis)
                )
            undo.callback(handle.remove)
        yield seen


def changed(layer: UnitLayer, calm: list[Tensor], disturbed: list[Tensor]) -> set[Unit]:
    units = set()
    for before, after in zip(calm, disturbed, strict=True):
        difference = (after - before).abs().view(len(before), layer.count, -1).amax((0, 2))
        different = (difference > 1e-9 * before.abs().max()).nonzero().flatten().tolist()
        units |= {Unit(layer.name, index) for index in different}
    return units


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES)
def test_pruning_a_unit_changes_the_units_at_its_edges_and_no_other(case: Case) -> None:
    network, images = case.network(), case.batch(size=8)
    discovery = discover(network, images[:1])
    connections = connect(network, discovery, images[:1], strongest=None)
    assert connections.unknown == ()
    units = list(all_units(discovery.layers))
    layers = [layer for layer in discovery.layers if observable(network, layer)]
    with torch.no_grad(), observed(network, layers) as calm:
        network(images)
    silent, rng = 0, random.Random(0)
    chosen = rng.sample(discovery.layers, min(5, len(discovery.layers)))
    for layer in chosen:
        unit = Unit(layer.name, rng.randrange(layer.count))
        pruned = prune(network, discovery.layers, [unit])
        others = [other for other in layers if other != layer]
        with torch.no_grad(), observed(pruned, others, calm) as disturbed:
            pruned(images)
        different = [changed(other, calm[other.name], disturbed[other.name]) for other in others]
        actual = set[Unit]().union(*different)
        targets = connections.edges[1][connections.edges[0] == units.index(unit)].tolist()
        expected = {units[target] for target in targets if units[target].layer in disturbed}
        # A unit that an activation blocks for every image changes nothing.
        assert actual in (expected, set()), unit
        silent += actual != expected
    assert silent <= len(chosen) // 2
