"""For every network of the table: units are found, masks equal pruning, and nothing is left behind."""

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from networks import ALL, Case
from secateur.units import (
    Discovery,
    Masks,
    Recipe,
    ScoredUnit,
    Unit,
    all_units,
    discover,
    masked,
    prune,
    state_sha256,
)

BATCH_NORM = nn.modules.batchnorm._BatchNorm
WEIGHTED = (BATCH_NORM, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class Subject:
    """A network of the table with its discovery; tests leave it as it is."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.network = case.network()
        self.batch = case.batch()
        self.before = Trace(self.network)
        self.found = discover(self.network, case.batch(size=1))

    def some_units(self, seed: int, share: float = 0.1) -> list[Unit]:
        """Pick at least one unit of every layer."""
        rng = random.Random(seed)
        return [
            Unit(layer.name, index)
            for layer in self.found.layers
            for index in rng.sample(range(layer.count), max(1, int(share * layer.count)))
        ]


class Trace:
    """All that must be the same afterwards: tensors as objects and bits, order, modes, hooks."""

    def __init__(self, network: nn.Module) -> None:
        self.objects = [(name, id(p)) for name, p in network.named_parameters(remove_duplicate=False)]
        self.objects += [(name, id(b)) for name, b in network.named_buffers(remove_duplicate=False)]
        self.pointers = [(name, tensor.data_ptr()) for name, tensor in network.state_dict().items()]
        self.content = state_sha256(network.state_dict())
        self.flags = [(p.requires_grad, p.grad is None) for p in network.parameters()]
        self.modes = [(module.training, getattr(module, "inplace", None)) for module in network.modules()]
        self.hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
        self.hooks += [len(m._forward_hooks_always_called) for m in network.modules()]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture(scope="module", params=ALL)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Subject(request.param)
    torch.set_num_threads(threads)


def test_discovery_finds_the_units_of_the_published_layer_list(subject: Subject) -> None:
    counts: Counter[str] = Counter()
    for layer in subject.found.layers:
        counts[layer.kind] += layer.count
    assert dict(counts) == subject.case.units
    assert subject.found.total == sum(subject.case.units.values())


def test_discovery_explains_every_other_layer(subject: Subject) -> None:
    found: Discovery = subject.found
    names = [layer.name for layer in found.layers]
    assert len(set(names)) == len(names)
    weighted = {name for name, module in subject.network.named_modules() if isinstance(module, WEIGHTED)}
    assert weighted <= set(names) | set(found.refused)
    assert not set(names) & set(found.refused)
    assert all(len(reason) > 10 for reason in found.refused.values())


def test_layers_come_in_forward_order(subject: Subject) -> None:
    reached: list[str] = []
    handles = [
        subject.network.get_submodule(layer.name).register_forward_hook(
            lambda *_, name=layer.name: reached.append(name)
        )
        for layer in subject.found.layers
    ]
    subject.network(subject.batch)
    for handle in handles:
        handle.remove()
    assert list(dict.fromkeys(reached)) == [layer.name for layer in subject.found.layers]


def test_discovery_leaves_the_network_as_it_was(subject: Subject) -> None:
    assert Trace(subject.network) == subject.before


@pytest.mark.parametrize("shift", [True, False])
def test_masked_network_computes_what_the_pruned_one_does(subject: Subject, shift: bool) -> None:
    units = subject.some_units(seed=1)
    masks = Masks.from_units(subject.found.layers, units, dtype=torch.float64)
    pruned = prune(subject.network, subject.found.layers, units, shift=shift)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            original, expected = subject.network(subject.batch), pruned(subject.batch)
            with masked(subject.network, subject.found.layers, masks.flat, shift=shift):
                assert_close(subject.network(subject.batch), expected)
            assert (original - expected).abs().max() > 1e-6 * original.abs().max(), "pruning must show"
    assert Trace(subject.network) == subject.before


def test_masks_equal_pruning_in_training_mode_too(subject: Subject) -> None:
    units = subject.some_units(seed=2)
    masks = Masks.from_units(subject.found.layers, units, dtype=torch.float64)
    network = copy.deepcopy(subject.network).train()
    pruned = prune(network, subject.found.layers, units)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = pruned(subject.batch)
        torch.manual_seed(0)
        with masked(network, subject.found.layers, masks.flat, shift=True):
            assert_close(network(subject.batch), expected)


def test_gradients_reach_every_layer_and_no_parameter(subject: Subject) -> None:
    network = copy.deepcopy(subject.network).requires_grad_(False)
    masks = Masks.ones(subject.found.layers, dtype=torch.float64)
    with masked(network, masks.layers, masks.flat, shift=True):
        network(subject.batch).square().sum().backward()
    assert masks.flat.grad is not None
    for layer in masks.layers:
        assert Masks(masks.layers, masks.flat.grad).of(layer.name).abs().max() > 0, layer.name
    assert all(parameter.grad is None for parameter in network.parameters())


class StopHereError(RuntimeError):
    pass


def _raise(*_: object) -> None:
    raise StopHereError


def _fail_inside_the_forward_pass(subject: Subject) -> None:
    last = subject.network.get_submodule(subject.found.layers[-1].name)
    handle = last.register_forward_pre_hook(_raise)
    try:
        subject.network(subject.batch)
    finally:
        handle.remove()


def _fail_on_the_input(subject: Subject) -> None:
    subject.network(subject.batch[:, :, 0])


def _fail_in_the_block(subject: Subject) -> None:
    subject.network(subject.batch)
    _raise()


def half_masked(subject: Subject) -> AbstractContextManager[None]:
    flat = torch.full((subject.found.total,), 0.5, dtype=torch.float64, requires_grad=True)
    return masked(subject.network, subject.found.layers, flat, shift=True)


def test_nothing_remains_of_the_masks(subject: Subject) -> None:
    with half_masked(subject):
        subject.network(subject.batch)
    assert Trace(subject.network) == subject.before


@pytest.mark.parametrize("work", [_fail_inside_the_forward_pass, _fail_on_the_input, _fail_in_the_block])
def test_nothing_remains_of_the_masks_after_an_exception(
    subject: Subject, work: Callable[[Subject], None]
) -> None:
    refusals = (RuntimeError, AssertionError, ValueError, IndexError)  # each network has its own
    with pytest.raises(refusals), half_masked(subject):
        work(subject)
    assert Trace(subject.network) == subject.before


@pytest.mark.parametrize("gamma_only", [True, False])
def test_recipe_repeats_the_pruning_bit_for_bit(subject: Subject, gamma_only: bool) -> None:
    units = [ScoredUnit(unit, score) for score, unit in enumerate(subject.some_units(seed=3))]
    state = subject.network.state_dict()
    names = {"method": "rnp", "architecture": subject.case.name}
    recipe = Recipe.record(state, subject.found.layers, units, gamma_only=gamma_only, **names)
    assert Recipe.from_json(recipe.to_json()) == recipe
    pruned = prune(
        subject.network, subject.found.layers, [scored.unit for scored in units], shift=not gamma_only
    ).state_dict()
    repaired = recipe.apply(state)
    assert list(repaired) == list(pruned)
    assert all(torch.equal(repaired[name], pruned[name]) for name in pruned)
    assert state_sha256(repaired) == state_sha256(pruned) == recipe.repaired_sha256
    assert Trace(subject.network) == subject.before


def test_masks_hold_one_number_per_unit(subject: Subject) -> None:
    masks = Masks.ones(subject.found.layers)
    assert masks.units() == tuple(all_units(subject.found.layers))
    assert masks.flat.shape == (subject.found.total,)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11 * scale)
