"""Pruning zeroes exactly what a unit owns, in a copy."""

import pytest
import torch
from torch import nn

from secateur.units import Slices, Unit, UnitLayer, prune
from secateur.units.pruning import zero_slices


def test_blocks_of_an_axis_are_zeroed() -> None:
    tensor = torch.ones(2, 6)
    zero_slices(tensor, Slices("w", 1, 2), 3, [0, 2])
    assert tensor.tolist() == [[0, 0, 1, 1, 0, 0]] * 2


def test_zeroing_leaves_no_negative_zero_and_no_nan() -> None:
    tensor = torch.tensor([-1.0, float("nan"), float("inf")])
    zero_slices(tensor, Slices("w", 0), 3, [0, 1, 2])
    assert tensor.view(torch.int32).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("axis", "count"), [(0, 5), (1, 2), (2, 6)])
def test_slices_that_do_not_fit_are_refused(axis: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"w has shape \(2, 6\)"):
        zero_slices(torch.ones(2, 6), Slices("w", axis), count, [0])


@pytest.mark.parametrize("shift", [True, False])
def test_the_copy_loses_its_units_and_the_original_nothing(shift: bool) -> None:
    network = nn.Sequential(nn.BatchNorm1d(3))
    nn.init.ones_(network[0].bias)
    layer = UnitLayer("0", "norm", 3, (Slices("0.weight", 0),), (Slices("0.bias", 0),))
    pruned = prune(network, [layer], [Unit("0", 1), Unit("0", 1)], shift=shift)
    assert pruned.get_parameter("0.weight").tolist() == [1, 0, 1]
    assert pruned.get_parameter("0.bias").tolist() == [1, 0 if shift else 1, 1]
    assert pruned.get_parameter("0.weight").requires_grad
    assert network[0].weight.tolist() == network[0].bias.tolist() == [1, 1, 1]


def test_layers_of_another_network_are_refused() -> None:
    layer = UnitLayer("1", "norm", 3, (Slices("1.weight", 0),))
    with pytest.raises(ValueError, match=r"no parameter 1\.weight"):
        prune(nn.Sequential(nn.BatchNorm1d(3)), [layer], [Unit("1", 0)])


@pytest.mark.parametrize("unit", [Unit("1", 0), Unit("0", 3), Unit("0", -1)])
def test_units_that_do_not_exist_are_refused(unit: Unit) -> None:
    layer = UnitLayer("0", "norm", 3, (Slices("0.weight", 0),))
    with pytest.raises(ValueError, match=r"no layer|units 0 to 2"):
        prune(nn.Sequential(nn.BatchNorm1d(3)), [layer], [unit])
