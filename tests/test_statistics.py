"""Intervals are what they claim to be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from secateur.statistics import Proportion, paired_loss


@given(
    counts=st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))),
    level=st.sampled_from([0.8, 0.9, 0.95, 0.99]),
)
def test_the_interval_is_wilsons(counts, level):
    low, high = Proportion(*counts).interval(level)
    oracle = binomtest(*counts).proportion_ci(level, method="wilson")
    assert low == pytest.approx(oracle.low, abs=1e-9)
    assert high == pytest.approx(oracle.high, abs=1e-9)
    assert 0 <= low <= Proportion(*counts).value <= high <= 1


def test_nothing_counted_says_nothing():
    nothing = Proportion.of(torch.tensor([], dtype=torch.bool))
    assert math.isnan(nothing.value)
    assert nothing.interval() == (0, 1)
    with pytest.raises(ValueError, match="3 of 2"):
        Proportion(3, 2)


def flags(*runs: tuple[bool, int]) -> torch.Tensor:
    return torch.tensor([flag for flag, count in runs for _ in range(count)], dtype=torch.bool)


def test_a_loss_by_hand():
    before = flags((True, 80), (True, 12), (False, 2), (False, 6))
    after = flags((True, 80), (False, 12), (True, 2), (False, 6))
    loss = paired_loss(before, after)
    assert loss.value == pytest.approx(0.10)
    # 12.5 lost and 2.5 gained of 102, 1.959964 standard errors of sqrt(15 - 100/102)/102 each way.
    assert loss.low == pytest.approx(10 / 102 - 1.959964 * math.sqrt(15 - 100 / 102) / 102, abs=1e-6)
    assert loss.high == pytest.approx(10 / 102 + 1.959964 * math.sqrt(15 - 100 / 102) / 102, abs=1e-6)
    gain = paired_loss(after, before)
    assert (gain.value, gain.low, gain.high) == pytest.approx((-loss.value, -loss.high, -loss.low))


def test_equal_answers_lose_nothing_but_are_not_certain():
    loss = paired_loss(flags((True, 100)), flags((True, 100)))
    assert loss.value == 0
    assert loss.low < 0 < loss.high
    assert loss.high == pytest.approx(1.959964 / 102, abs=1e-6)
    empty = paired_loss(flags(), flags())
    assert math.isnan(empty.value)
    assert (empty.low, empty.high) == (-1, 1)
    with pytest.raises(ValueError, match="not pairs"):
        paired_loss(flags((True, 2)), flags((True, 3)))


@pytest.mark.parametrize(("lost", "gained", "size"), [(0.05, 0.01, 200), (0.02, 0.02, 200), (0.3, 0.1, 60)])
def test_the_interval_covers_the_truth_as_often_as_it_says(lost, gained, size):
    draws = torch.rand(1500, size, generator=torch.Generator().manual_seed(0))
    before, after = draws >= gained, (draws >= gained + lost) | (draws < gained)
    losses = [paired_loss(*pair) for pair in zip(before, after, strict=True)]
    covered = sum(loss.low <= lost - gained <= loss.high for loss in losses) / len(losses)
    assert 0.935 <= covered <= 0.985
    too_narrow = sum(
        abs(loss.value - (lost - gained)) <= 0.75 * (loss.high - loss.low) / 2 for loss in losses
    ) / len(losses)
    assert too_narrow < 0.92
