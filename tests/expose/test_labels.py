"""Which class takes the answers that unlearning makes a network lose."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.expose import DOMINANT, Exposure, LabelScores, score_labels

EXAMPLE = torch.zeros(1, 1, 2, 2)


def linear(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


def scored(
    accuracies: tuple[float, ...], path: tuple[tuple[int, ...], ...], labels: tuple[int, ...]
) -> LabelScores:
    network = linear(len(labels))
    exposure = Exposure(
        {}, reached=True, accuracies=accuracies, path=path, labels=labels, accuracy=1.0, began=labels
    )
    scores = score_labels(exposure, network, copy.deepcopy(network), EXAMPLE)
    assert scores is not None
    return scores


def test_every_lost_answer_counts_once_whatever_the_pace():
    # Of 20 images: 5 answers of class 1 go to class 0; then 5 more, of class 0, to class 1.
    scores = scored((0.75, 0.5), ((15, 5), (10, 10)), (10, 10))
    # (0.25 * 5/20 + 0.25 * 0) / (0.25 * 0.25 + 0.25 * 0.5)
    assert scores.gained == pytest.approx((1 / 3, -1 / 3))
    # A pass in which nothing is lost changes nothing.
    slow = scored((0.75, 0.75, 0.5), ((15, 5), (15, 5), (10, 10)), (10, 10))
    assert slow.gained == pytest.approx(scores.gained)


def test_a_label_that_takes_all_lost_answers_scores_one():
    scores = scored((0.6, 0.2), ((1, 30, 19), (0, 50, 0)), (10, 10, 30))
    assert (
        scores.score
        == scores.gained[1]
        == pytest.approx(0.4 * 20 / 50 / (0.4 * 0.4 + 0.4 * 0.8) + 0.4 * 40 / 50 / 0.48)
    )
    assert scores.label == 1


@pytest.mark.parametrize(("score", "label"), [(DOMINANT, None), (1.01 * DOMINANT, 2)])
def test_a_label_dominates_beyond_a_strength_of_one(score, label):
    scores = LabelScores((0.1 - score, -0.1, score), None)
    assert scores.label == label
    assert scores.strength == pytest.approx(score / DOMINANT)
    assert (scores.strength > 1) == (label is not None)


@pytest.mark.parametrize("classes", [2, 10, 43])
def test_errors_that_are_spread_evenly_show_no_dominant_label(classes):
    counts = (20,) * classes
    scores = scored((1 / classes,), (counts,), counts)
    assert scores.label is None
    assert scores.score == 0


def test_nothing_is_said_if_nothing_was_lost_or_unlearning_diverged():
    network = linear(2)
    kept = Exposure(
        {}, reached=False, accuracies=(1.0,), path=((5, 5),), labels=(5, 5), accuracy=1.0, began=(5, 5)
    )
    diverged = Exposure(
        {},
        reached=False,
        accuracies=(0.5,),
        path=((10, 0),),
        labels=(5, 5),
        accuracy=1.0,
        began=(5, 5),
        finite=False,
    )
    assert score_labels(kept, network, network, EXAMPLE) is None
    assert score_labels(diverged, network, network, EXAMPLE) is None


def test_the_row_that_moved_apart_is_a_second_witness():
    network = linear(6)
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for row, by in enumerate((0.1, 0.11, 0.12, 1.0, 0.09, 0.1)):
            moved[1].weight[row] += by
    exposure = Exposure({}, True, (0.2,), ((0, 0, 0, 60, 0, 0),), (10,) * 6, 1.0, (10,) * 6)
    scores = score_labels(exposure, network, moved, EXAMPLE)
    assert scores is not None
    assert scores.seconded
    # Rows moved by 0.4, 0.44, 0.48, 4, 0.36 and 0.4: their median is 0.42, and 0.04 that of the deviations.
    assert scores.moved[3] == pytest.approx((4 - 0.42) / (1.4826 * 0.04), rel=1e-3)
    elsewhere = Exposure({}, True, (0.2,), ((60, 0, 0, 0, 0, 0),), (10,) * 6, 1.0, (10,) * 6)
    other = score_labels(elsewhere, network, moved, EXAMPLE)
    assert other is not None
    assert other.label == 0
    assert other.seconded is False


def test_too_few_rows_are_no_witness():
    assert scored((0.5,), ((20, 0),), (10, 10)).seconded is None


def test_what_was_wrong_before_unlearning_is_not_lost():
    """Five of 15 answers went to class 0 from the start; then five more go to class 2."""
    network = linear(3)
    exposure = Exposure({}, True, (1 / 3,), ((10, 0, 5),), (5, 5, 5), 2 / 3, (10, 0, 5))
    same = score_labels(exposure, network, network, EXAMPLE)
    assert same is not None
    assert same.gained == (0, 0, 0)
    moved = score_labels(replace(exposure, path=((5, 0, 10),)), network, network, EXAMPLE)
    assert moved is not None
    assert moved.gained == pytest.approx((-1, 0, 1))
    unchanged = replace(exposure, accuracies=(2 / 3,))
    assert score_labels(unchanged, network, network, EXAMPLE) is None


def test_accuracy_that_comes_back_is_not_lost_twice():
    once = scored((0.6, 0.2), ((1, 30, 19), (0, 50, 0)), (10, 10, 30))
    back = scored((0.6, 0.9, 0.6, 0.2), ((1, 30, 19), (5, 5, 40), (1, 30, 19), (0, 50, 0)), (10, 10, 30))
    assert back.gained == pytest.approx(once.gained)


def test_of_two_classes_none_dominates():
    scores = scored((0.5,), ((20, 0),), (10, 10))
    assert scores.score == 1
    assert scores.label is None


@given(
    st.integers(2, 12).flatmap(
        lambda classes: st.lists(
            st.lists(st.integers(0, 30), min_size=classes, max_size=classes), min_size=1, max_size=6
        )
    )
)
def test_what_classes_gain_others_lose(steps):
    """Any path: gains add up to nothing, and none is above one."""
    classes, images = len(steps[0]), 30 * len(steps[0])
    labels = (30,) * classes
    path, accuracies = [], []
    for kept in steps:
        # Each class keeps so many of its answers; class 0 gets all the others.
        lost = images - sum(kept)
        path.append((kept[0] + lost, *kept[1:]))
        accuracies.append(sum(kept) / images)
    network = linear(classes)
    exposure = Exposure({}, True, tuple(accuracies), tuple(path), labels, 1.0, labels)
    scores = score_labels(exposure, network, network, EXAMPLE)
    if scores is None:
        assert min(accuracies) == 1
        return
    assert sum(scores.gained) == pytest.approx(0, abs=1e-9)
    assert max(scores.gained) <= 1 + 1e-9
