"""Areas and overlaps by hand, with scikit-learn and numbers worked out as oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from secateur.data import Trigger
from secateur.errors import InputError
from secateur.evaluation import mask_overlap, separation
from secateur.evaluation.detection import _area


def test_the_area_counts_pairs_and_ties_half() -> None:
    # Of 3 x 2 pairs, 4 are in order and 1 is tied.
    found = separation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0]))
    assert found.value == pytest.approx((1.5 + 3) / 6)
    assert found.low <= found.value <= found.high
    assert (found.clean, found.triggered) == (3, 2)


numbers = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(numbers, numbers)
def test_the_area_is_that_of_the_roc_curve(clean: list[float], triggered: list[float]) -> None:
    truth = [0] * len(clean) + [1] * len(triggered)
    expected = roc_auc_score(truth, [*clean, *triggered])
    assert _area(np.array(clean), np.array(triggered)) == pytest.approx(expected)


def test_the_interval_repeats_and_narrows_with_more_images() -> None:
    generator = torch.Generator().manual_seed(0)
    wide, narrow = (
        separation(torch.randn(n, generator=generator), 1 + torch.randn(n, generator=generator))
        for n in (30, 1000)
    )
    # Two normal distributions one deviation apart: the area is that of a normal beyond -1 / sqrt(2).
    assert narrow.low < 0.7602 < narrow.high
    assert narrow.high - narrow.low < 0.3 * (wide.high - wide.low)
    scores = torch.arange(10.0)
    assert separation(scores, scores + 3) == separation(scores, scores + 3)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError):
        separation(torch.ones(1), torch.ones(3))


def patch(*pixels: tuple[int, int], opacity: float = 1.0) -> Trigger:
    keep, add = torch.ones(3, 4, 4), torch.zeros(3, 4, 4)
    for row, column in pixels:
        keep[:, row, column], add[:, row, column] = 1 - opacity, opacity
    return Trigger(keep, add)


def test_the_overlap_anywhere_is_that_of_the_shift_that_fits_best() -> None:
    planted = patch((0, 0), (0, 1), (1, 0))
    moved = patch((2, 2), (2, 3), (3, 2))
    assert mask_overlap(moved, planted) == 0
    assert mask_overlap(moved, planted, anywhere=True) == 1
    # One pixel fits on one of three; beyond the edge nothing fits.
    assert mask_overlap(patch((3, 3)), planted, anywhere=True) == pytest.approx(1 / 3)
    assert mask_overlap(patch((3, 2), (3, 3)), planted, anywhere=True) == pytest.approx(2 / 3)


def test_the_overlap_is_intersection_over_union() -> None:
    planted = patch((0, 0), (0, 1), (1, 0))
    assert mask_overlap(planted, planted) == 1
    assert mask_overlap(patch((0, 0), (3, 3)), planted) == pytest.approx(1 / 4)
    assert mask_overlap(patch((3, 3)), planted) == 0
    # Faint pixels of a mask do not count, but a mask that is faint everywhere does.
    mixed = Trigger(patch((0, 0)).keep * patch((2, 2), opacity=0.3).keep, patch((0, 0)).add)
    assert mask_overlap(mixed, planted) == pytest.approx(1 / 3)
    assert mask_overlap(patch((0, 0), opacity=0.3), planted) == pytest.approx(1 / 3)
    additive = Trigger(torch.ones(3, 4, 4), planted.add)
    assert mask_overlap(planted, additive) == 1
    assert mask_overlap(additive, planted) == 0
    with pytest.raises(InputError):
        mask_overlap(Trigger(torch.ones(1, 4, 4), torch.ones(1, 4, 4)), planted)
