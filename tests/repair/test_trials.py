"""Trials tell what taking out units does to a trigger at work and to clean answers."""

import pytest
import torch
from torch import nn

from planted import BACKDOOR, CLEAN, CONVENTION, SPARE, TARGET, Planted, corner, found_units
from secateur.expose import images_of_others
from secateur.repair.trials import DEFEATED, FREE, Trials


def trials(network: nn.Module) -> tuple[Trials, torch.Tensor]:
    network.requires_grad_(False)
    discovery, units = found_units(network)
    masks = torch.ones(len(units))
    tried = Trials(network, discovery.layers, CLEAN, [corner()], masks, group=1, shift=True, temperature=2.0)
    return tried, masks


def test_with_all_units_the_margin_is_that_of_the_network() -> None:
    network = Planted()
    tried, _ = trials(network)
    stamped = corner().trigger.stamp(images_of_others(CLEAN.learn, TARGET))
    outputs = network(CONVENTION.normalise(stamped))
    others = torch.cat([outputs[:, :TARGET], outputs[:, TARGET + 1 :]], 1).max(1).values
    assert tried.now.cost == pytest.approx(0, abs=1e-6)
    assert tried.now.success == 1
    assert tried.now.depth == pytest.approx(float((outputs[:, TARGET] - others).mean()), abs=1e-4)
    assert tried.now.strength == pytest.approx(tried.now.depth)


def test_the_best_units_are_those_of_the_backdoor() -> None:
    tried, masks = trials(Planted())
    best = tried.best(masks, tried.slopes(masks), candidates=8, taken=2)
    assert set(best) == BACKDOOR
    masks[best] = 0
    tried.settle(masks)
    assert tried.now.success == 0
    assert tried.now.cost == pytest.approx(0, abs=1e-6)
    assert tried.now.strength == pytest.approx(DEFEATED)
    assert tried.now.depth < DEFEATED


def test_the_labels_own_unit_comes_back() -> None:
    tried, masks = trials(Planted())
    taken = [*BACKDOOR, TARGET]
    masks[taken] = 0
    tried.settle(masks)
    assert tried.now.cost > 0.1
    assert tried.needless(masks, taken, success=0.01) == [TARGET]


def test_a_unit_that_costs_as_good_as_nothing_stays_out() -> None:
    network = Planted()
    network.hidden.bias.data[-SPARE] = 0.05
    network.answer.weight.data[0, -SPARE] = 1.0
    tried, masks = trials(network)
    taken = [*BACKDOOR, len(masks) - SPARE]
    masks[taken] = 0
    tried.settle(masks)
    assert 0 < tried.now.cost < FREE
    assert tried.needless(masks, taken, success=0.01) == []
