"""Trials tell what taking out units does to a trigger at work and to clean answers."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from planted import BACKDOOR, CLEAN, CONVENTION, SPARE, TARGET, Planted, corner, found_units
from secateur.data import CleanData, LabelledImages, Trigger
from secateur.expose import images_of_others
from secateur.repair.dominance import Dominance
from secateur.repair.trials import FREE, Trials, _mixed, variance_of_mean


def trials(network: nn.Module) -> tuple[Trials, torch.Tensor]:
    network.requires_grad_(False)
    discovery, units = found_units(network)
    masks = torch.ones(len(units))
    tried = Trials(network, discovery.layers, CLEAN, [corner()], group=1, shift=True, temperature=2.0)
    return tried, masks


def margin(network: nn.Module, *, stamped: bool = True) -> float:
    images = images_of_others(CLEAN.learn, TARGET)
    outputs = network(CONVENTION.normalise(corner().trigger.stamp(images) if stamped else images))
    others = torch.cat([outputs[:, :TARGET], outputs[:, TARGET + 1 :]], 1).max(1).values
    return float((outputs[:, TARGET] - others).mean())


def test_the_strength_is_what_is_left_of_the_margin() -> None:
    network = Planted()
    tried, masks = trials(network)
    assert tried.now.cost == pytest.approx(0, abs=1e-6)
    assert tried.now.success == 1
    assert tried.now.strength == pytest.approx(1)
    whole, safe = margin(network), margin(network, stamped=False)
    masks[min(BACKDOOR)] = 0
    tried.settle(masks)
    with torch.no_grad():
        network.answer.weight[TARGET, min(BACKDOOR)] = 0
    left = (margin(network) - safe) / (whole - safe)
    assert 0 < left < 1
    assert tried.now.strength == pytest.approx(left, abs=1e-3)


def test_the_cost_is_the_divergence_on_mixed_images() -> None:
    network = Planted()
    tried, masks = trials(network)
    masks[0] = 0
    tried.settle(masks)
    images = CLEAN.learn.images
    mixed = _mixed(images)
    assert torch.equal(mixed, _mixed(images))
    assert not torch.isclose(mixed, images).flatten(1).all(1).any()

    def answers(inputs: torch.Tensor) -> torch.Tensor:
        return (network(CONVENTION.normalise(inputs)) / 2.0).log_softmax(1)

    with torch.no_grad():
        before, plain = answers(mixed), answers(images)
        network.answer.weight[:, 0] = 0.0
        cost, other = (
            float(F.kl_div(answers(inputs), wanted, log_target=True, reduction="batchmean"))
            for inputs, wanted in ((mixed, before), (images, plain))
        )
    assert tried.now.cost == pytest.approx(cost, abs=1e-5)
    assert abs(cost - other) > 0.01


def test_an_image_is_safe_at_the_margin_of_clean_ones() -> None:
    tried, masks = trials(Planted())
    masks[list(BACKDOOR)] = 0
    tried.settle(masks)
    # Half of the images are a little above the mean.
    assert 0 < tried.now.strength < 0.02
    masks[TARGET] = 0
    tried.settle(masks)
    assert tried.now.strength == 0


def test_what_unlearning_points_to_weighs_as_much_as_the_triggers_however_sure_it_is() -> None:
    network = Planted().requires_grad_(False)
    sure = deepcopy(network)
    sure.hidden.bias[-1] = 500.0
    sure.answer.weight[TARGET, -1] = 1.0
    layers, masks = found_units(network)[0].layers, torch.ones(len(found_units(network)[1]))
    pointed = Dominance(TARGET, sure)
    tried = Trials(network, layers, CLEAN, [corner()], pointed=pointed, group=1, shift=True, temperature=2.0)
    assert tried.now.strength == pytest.approx(1)
    masks[list(BACKDOOR)] = 0
    tried.settle(masks)
    assert tried.now.strength == pytest.approx(0.5, abs=0.05)
    assert tried.now.success == 0
    masks[-1] = 0
    tried.settle(masks)
    assert tried.now.strength == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_the_less_unlearning_says_the_fewer_images_show_it(share: float) -> None:
    network = Planted().requires_grad_(False)
    layers, masks = found_units(network)[0].layers, torch.ones(len(found_units(network)[1]))
    pointed = Dominance(TARGET, deepcopy(network), share)
    with torch.no_grad():
        pointed.unlearned.hidden.bias[-1] = 500.0
        pointed.unlearned.answer.weight[TARGET, -1] = 1.0
    tried = Trials(network, layers, CLEAN, [corner()], pointed=pointed, group=1, shift=True, temperature=2.0)
    masks[list(BACKDOOR)] = 0
    tried.settle(masks)
    assert tried.now.strength == pytest.approx(share, abs=0.05)


def test_the_best_units_are_those_of_the_backdoor() -> None:
    tried, masks = trials(Planted())
    expected = tried.expect(masks, torch.Generator().manual_seed(0))
    best = tried.best(masks, expected, candidates=4, taken=2, price=0)
    assert set(best) == BACKDOOR
    masks[best] = 0
    tried.settle(masks)
    assert tried.now.success == 0
    assert tried.now.cost == pytest.approx(0, abs=1e-6)
    assert tried.now.strength < 0.02
    expected = tried.expect(masks, torch.Generator().manual_seed(0))
    assert tried.best(masks, expected, candidates=4, taken=2, price=0) == [TARGET]
    assert tried.best(masks, expected, candidates=4, taken=2, price=1) == []


def test_the_labels_own_unit_comes_back() -> None:
    tried, masks = trials(Planted())
    taken = [*BACKDOOR, TARGET]
    masks[taken] = 0
    tried.settle(masks)
    assert tried.now.cost > 0.1
    assert tried.needless(masks, taken, success=0.01, price=1) == [TARGET]
    assert tried.needless(masks, taken, success=0.01, price=0) == []


def test_a_unit_that_costs_as_good_as_nothing_stays_out() -> None:
    network = Planted()
    network.hidden.bias.data[-SPARE] = 0.05
    network.answer.weight.data[0, -SPARE] = 1.0
    tried, masks = trials(network)
    taken = [*BACKDOOR, len(masks) - SPARE]
    masks[taken] = 0
    tried.settle(masks)
    assert 0 < tried.now.cost < FREE
    assert tried.needless(masks, taken, success=0.01, price=1) == []


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_is_expected_is_what_small_changes_do(share: float) -> None:
    network = Planted().requires_grad_(False)
    layers, masks = found_units(network)[0].layers, torch.ones(len(found_units(network)[1]))
    pointed = Dominance(TARGET, deepcopy(network), share) if share else None
    if pointed:
        pointed.unlearned.hidden.bias[-1] = 20.0
        pointed.unlearned.answer.weight[TARGET, -1] = 1.0
    tried = Trials(network, layers, CLEAN, [corner()], pointed=pointed, group=1, shift=True, temperature=2.0)
    step = 0.01
    weak = masks.clone()
    weak[list(BACKDOOR)] = 0.15
    for flat in (masks, 0.9 * masks, weak):
        draws = [tried.expect(flat, torch.Generator().manual_seed(seed)) for seed in range(20)]
        curvature = torch.stack([expected.curvature for expected in draws]).mean(0)
        for unit in range(len(masks)):
            found = []
            for change in (-step, 0, step):
                moved = flat.clone()
                moved[unit] += change
                tried.settle(moved)
                found.append(tried.now)
            left, cost = ((found[2].left - found[0].left), (found[2].cost - found[0].cost))
            assert draws[0].left[unit] == pytest.approx(left / (2 * step), abs=0.02)
            strength = found[2].strength - found[0].strength
            assert draws[0].strength[unit] == pytest.approx(strength / (2 * step), abs=0.02)
            assert draws[0].cost[unit] == pytest.approx(cost / (2 * step), abs=0.02)
            if flat is masks:
                # Where answers are those of the network as it came, Fisher information is the curvature.
                second = (found[0].cost - 2 * found[1].cost + found[2].cost) / step**2
                assert curvature[unit] == pytest.approx(second, rel=0.3, abs=0.02)


def test_risk_falls_with_the_trigger_and_not_in_steps() -> None:
    tried, masks = trials(Planted())
    assert (tried.now.risk, tried.now.left) == (pytest.approx(1), pytest.approx(1))
    risks = []
    for share in (0.3, 0.2, 0.1):
        masks[list(BACKDOOR)] = share
        tried.settle(masks)
        risks.append(tried.now.risk)
    assert 1 > risks[0] > risks[1] > risks[2]
    masks[list(BACKDOOR)] = 0
    tried.settle(masks)
    assert tried.now.risk < 0.02


def test_a_gain_is_told_with_its_standard_error() -> None:
    tried, masks = trials(Planted())
    masks[min(BACKDOOR)] = 0
    tried.settle(masks)
    now, other = tried.now, masks.clone()
    other[[max(BACKDOOR), 0]] = 0
    found = tried.compare(other, 2.0)
    then = tried.measure(other)
    assert found.measured == then
    assert then.cost > now.cost
    assert found.gain == pytest.approx(now.left - then.left - 2.0 * (then.cost - now.cost), abs=1e-5)
    # The same images twice say no more, but look as if they did.
    twice = replace(CLEAN, learn=CLEAN.learn.subset(torch.arange(len(CLEAN.learn)).repeat_interleave(2)))
    assert found.error > 0
    same = tried.compare(masks, 2.0)
    assert (same.gain, same.error) == (0, 0)
    assert tried.now == now
    discovery = found_units(Planted())[0]
    doubled = Trials(
        Planted().requires_grad_(False),
        discovery.layers,
        twice,
        [corner()],
        group=1,
        shift=True,
        temperature=2.0,
    )
    doubled.settle(masks)
    assert doubled.compare(other, 0.0).error == pytest.approx(
        tried.compare(other, 0.0).error / 2**0.5, rel=0.02
    )


def test_classes_that_take_turns_are_no_reason_to_refuse() -> None:
    # Of 320 images every second is tried, and all of these are of the label or of one other class.
    labels = torch.tensor([TARGET, 0]).repeat(160)
    images = 0.1 * torch.rand(320, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[torch.arange(320), 0, labels + 1] += 0.7
    images[:, :, 0] = 0
    clean = CleanData(LabelledImages(images, labels), CLEAN.choose, CONVENTION)
    network = Planted().requires_grad_(False)
    layers = found_units(network)[0].layers
    tried = Trials(network, layers, clean, [corner()], group=1, shift=True, temperature=2.0)
    assert tried.now.success == 1
    masks = torch.ones(9)
    masks[list(BACKDOOR)] = 0
    # As safe as images of the other class are.
    assert 0 <= tried.measure(masks).strength < 0.02


def test_what_was_measured_before_something_else_is_not_accepted() -> None:
    tried, masks = trials(Planted())
    settled = tried.now
    masks[list(BACKDOOR)] = 0
    tried.measure(masks)
    tried.needless(masks, sorted(BACKDOOR), success=0.0, price=1.0)
    tried.accept()
    assert tried.now == settled


def test_what_is_compared_last_can_be_accepted() -> None:
    tried, masks = trials(Planted())
    other = masks.clone()
    other[list(BACKDOOR)] = 0
    measured = tried.compare(other, 1.0).measured
    tried.accept()
    assert tried.now == measured
    assert tried.compare(masks, 1.0).gain < 0


def test_the_error_of_a_gain_knows_that_mixed_images_share_one() -> None:
    """Every image has an effect of its own, and a mixture of two what their shares of them add up to."""
    generator = torch.Generator().manual_seed(0)
    count, means, variances = 40, list[float](), list[float]()
    for _ in range(4000):
        effects = torch.randn(count, generator=generator)
        shares = torch.rand(count, generator=generator)
        mixed = shares * effects + (1 - shares) * effects.roll(1)
        means.append(float(mixed.mean()))
        variances.append(variance_of_mean(mixed, neighbours=True))
    true = float(torch.tensor(means).var())
    assert sum(variances) / len(variances) == pytest.approx(true, rel=0.1)
    assert variance_of_mean(torch.tensor([1.0, 3.0])) == pytest.approx(1.0)
    assert variance_of_mean(torch.tensor([1.0, 3.0]), neighbours=True) == pytest.approx(1.0)
    assert variance_of_mean(torch.tensor([1.0])) == float("inf")


def test_each_image_is_in_two_mixtures() -> None:
    images = torch.eye(6)[:, :, None, None]
    mixed = _mixed(images)[:, :, 0, 0]
    assert torch.equal((mixed > 0).sum(0), torch.full((6,), 2))
    assert torch.allclose(mixed.sum(1), torch.ones(6))
    assert bool(((mixed > 0) & (mixed.roll(1, 0) > 0)).any(1).all())


def test_with_fewer_images_than_triggers_the_last_are_shown_as_well() -> None:
    """A trigger that was just found is among the last: without it nothing would be done about it."""
    network = Planted().requires_grad_(False)
    discovery, units = found_units(network)
    keep = corner().trigger.keep
    blank = replace(corner(), trigger=Trigger(torch.ones_like(keep), torch.zeros_like(keep)))
    few = replace(CLEAN, learn=CLEAN.learn.subset((CLEAN.learn.labels != TARGET).nonzero().flatten()[:5]))
    tried = Trials(
        network, discovery.layers, few, [*[blank] * 8, corner()], group=1, shift=True, temperature=2.0
    )
    assert tried.now.success > 0
    masks = torch.ones(len(units))
    masks[list(BACKDOOR)] = 0
    tried.settle(masks)
    assert tried.now.success == 0


def test_answers_that_change_anyway_are_no_success_of_a_trigger_without_a_label() -> None:
    network = Planted().requires_grad_(False)
    discovery, units = found_units(network)
    trigger = replace(corner(), label=None)
    tried = Trials(network, discovery.layers, CLEAN, [trigger], group=1, shift=True, temperature=2.0)
    images = CLEAN.learn.images
    with torch.no_grad():
        plain, stamped = (
            network(CONVENTION.normalise(shown)).argmax(1)
            for shown in (images, trigger.trigger.stamp(images))
        )
    assert tried.now.success == pytest.approx(float((plain != stamped).double().mean()))
    assert tried.now.success > 0.5
    tried.settle(torch.zeros(len(units)))
    assert tried.now.agreement < 0.5
    assert tried.now.success == pytest.approx(0, abs=0.05)
