"""How far to prune follows from what held-out images show."""

import torch

from secateur.repair.choosing import Choice
from secateur.repair.result import CurvePoint
from secateur.statistics import Proportion, paired_loss

IMAGES = 200


def after(pruned: int, lost: int) -> CurvePoint:
    """Return a point at which so many of 200 answers that were right are wrong."""
    before, now = torch.ones(IMAGES, dtype=torch.bool), torch.arange(IMAGES) >= lost
    return CurvePoint(pruned, Proportion.of(now), paired_loss(before, now))


# 3 of 200 lost are 1.5 points; of 13, the lower end is above 2 points and below 4, of 30 above 4.
CURVE = [after(0, 0), after(2, 3), after(4, 13)]


def test_the_budget_is_held_against_the_lower_end_of_the_loss() -> None:
    assert CURVE[1].loss.low < 0.02 < CURVE[2].loss.low < 0.04 < after(4, 30).loss.low
    choice = Choice.within(0.02, [5, 6, 7, 8], CURVE)
    assert choice.chosen == 1
    assert choice.pruned == (5, 6)


def test_all_units_may_cost_more_than_some_of_them() -> None:
    assert Choice.within(0.02, [5, 6, 7, 8], CURVE, whole=0.04).pruned == (5, 6, 7, 8)
    too_much = [*CURVE[:2], after(4, 30)]
    assert Choice.within(0.02, [5, 6, 7, 8], too_much, whole=0.04).pruned == (5, 6)
