"""The rating of a repair, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import InputError
from secateur.evaluation import Evaluation, defence_effectiveness, defence_effectiveness_interval
from secateur.statistics import Proportion


def measured(acc: int, asr: int) -> Evaluation:
    return Evaluation(Proportion(acc, 100), Proportion(asr, 100), Proportion(0, 100), ())


@pytest.mark.parametrize(
    ("before", "after", "rating"),
    [
        ((90, 100), (90, 0), 1.0),
        ((90, 100), (90, 100), 0.5),
        ((90, 100), (85, 20), (0.8 - 0.05 + 1) / 2),
        ((90, 50), (95, 80), 0.5),
        ((90, 50), (0, 80), 0.05),
    ],
)
def test_ratings_by_hand(before, after, rating):
    assert defence_effectiveness(measured(*before), measured(*after)) == pytest.approx(rating)


@given(st.tuples(*[st.integers(0, 100)] * 4))
def test_a_rating_is_a_share(counts):
    assert 0 <= defence_effectiveness(measured(*counts[:2]), measured(*counts[2:])) <= 1


@given(st.tuples(*[st.integers(0, 100)] * 4))
def test_the_interval_holds_the_rating_and_widens_with_the_level(counts):
    before, after = measured(*counts[:2]), measured(*counts[2:])
    low, high = defence_effectiveness_interval(before, after)
    assert 0 <= low <= defence_effectiveness(before, after) <= high <= 1
    wider = defence_effectiveness_interval(before, after, 0.999)
    assert wider[0] <= low
    assert wider[1] >= high


def test_without_an_attack_there_is_no_rating():
    clean = Evaluation(Proportion(1, 2), None, None, ())
    with pytest.raises(InputError, match="with a trigger"):
        defence_effectiveness(measured(90, 100), clean)
    nobody = Evaluation(Proportion(1, 2), Proportion(0, 0), Proportion(0, 0), ())
    with pytest.raises(InputError, match="with a trigger"):
        defence_effectiveness(nobody, measured(90, 100))
