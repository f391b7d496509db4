"""A walk takes out what is not needed, in order, and never more than its limits allow."""

import pytest
import torch
import torch.nn.functional as F

from secateur.data import example_input
from secateur.expose import predict
from secateur.progress import Silent
from secateur.repair import walking
from secateur.repair.choosing import Choice
from secateur.repair.walking import Limits, Walk
from secateur.units import all_units, discover, prune
from tiny import CONVENTION, backdoored, clean


def walk(order: list[int], limits: Limits, tolerances: torch.Tensor | None = None) -> Choice:
    network = backdoored()
    layers = discover(network, example_input(CONVENTION)).layers
    data = clean()
    route = Walk(network, layers, data, shift=True)
    return route.along(order, tolerances, limits, Silent())


def test_without_limits_everything_goes_in_the_given_order() -> None:
    order = torch.randperm(28, generator=torch.Generator().manual_seed(0)).tolist()
    choice = walk(order, Limits())
    assert list(choice.pruned) == order
    assert choice.spared == 0
    assert choice.curve[0].pruned == 0
    assert choice.curve[0].loss.value == 0


def test_each_point_of_the_curve_is_the_accuracy_of_the_network_pruned_so_far() -> None:
    order = list(range(12))
    choice = walk(order, Limits())
    network, data = backdoored(), clean()
    layers = discover(network, example_input(CONVENTION)).layers
    units = list(all_units(layers))
    for point in choice.curve[:: len(choice.curve) // 4]:
        pruned = prune(network, layers, [units[k] for k in choice.kept[: point.pruned]])
        right = predict(pruned, data.choose.images, CONVENTION).argmax(1) == data.choose.labels
        assert point.accuracy.hits == int(right.sum())


def test_pruning_stops_where_the_images_show_more_loss_than_the_budget() -> None:
    choice = walk(list(range(28)), Limits(budget=0.05))
    assert choice.curve[choice.chosen].loss.low <= 0.05
    assert len(choice.pruned) < 28
    assert choice.curve[-1].loss.low > 0.05


def test_no_more_units_than_allowed() -> None:
    assert len(walk(list(range(28)), Limits(units=5)).pruned) == 5
    assert walk([], Limits()).pruned == ()


def test_units_that_the_clean_task_needs_are_spared() -> None:
    tolerances = torch.full((28,), 0.003)
    choice = walk(list(range(28)), Limits(), tolerances)
    assert 0 < choice.spared < 28
    assert len(choice.pruned) + choice.spared == 28
    assert choice.curve[-1].loss.value < 0.05


def test_without_tolerances_the_limit_of_the_loss_stops_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "CHUNKS", 28)
    network, data, order = backdoored(), clean(), list(range(28))
    layers = discover(network, example_input(CONVENTION)).layers
    units = list(all_units(layers))

    def loss(count: int) -> float:
        pruned = prune(network, layers, [units[k] for k in order[:count]])
        return float(F.cross_entropy(predict(pruned, data.learn.images, CONVENTION), data.learn.labels))

    limit = 0.02
    choice = walk(order, Limits(loss=limit))
    stopped = len(choice.kept)
    assert 0 < stopped < 28
    assert loss(stopped) - loss(0) <= limit + 1e-5 < loss(stopped + 1) - loss(0)


def test_a_group_never_costs_more_than_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "CHUNKS", 4)
    choice = walk(list(range(28)), Limits(loss=0.02), torch.full((28,), 0.05))
    assert len(choice.kept) + choice.spared == 28
    network, data = backdoored(), clean()
    layers = discover(network, example_input(CONVENTION)).layers
    units = list(all_units(layers))
    pruned = prune(network, layers, [units[k] for k in choice.kept])
    before, after = (
        F.cross_entropy(predict(each, data.learn.images, CONVENTION), data.learn.labels)
        for each in (network, pruned)
    )
    assert choice.spared > 0
    assert float(after - before) <= 0.02 + 1e-5
