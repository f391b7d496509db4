"""A threshold keeps its promise, and a filter judges a stream as it would a single batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tiny
from secateur.data import wrap_dataset
from secateur.errors import MethodError
from secateur.expose.samples import Filter, Threshold, create


def test_the_threshold_is_the_score_that_the_share_of_clean_images_stays_below() -> None:
    scores = torch.arange(199.0)
    threshold = Threshold.of(scores, 0.01)
    # Of 199 and one more, 198 may lie at most as high: 2 of 200 are 1 %.
    assert (threshold.value, threshold.images) == (197.0, 199)
    assert threshold.rate == pytest.approx(0.01)


def test_too_few_images_give_the_highest_score_and_say_what_that_is_worth() -> None:
    threshold = Threshold.of(torch.tensor([3.0, 1.0, 2.0]), 0.01)
    assert (threshold.value, threshold.rate) == (3.0, 0.25)


@given(st.integers(1, 400), st.floats(0.001, 0.5))
def test_the_rate_told_is_that_of_the_order(count: int, rate: float) -> None:
    threshold = Threshold.of(torch.arange(float(count)), rate)
    # The place of one more score among them is uniform over count + 1.
    above = sum(place > threshold.value for place in range(count)) + 1
    assert threshold.rate == pytest.approx(above / (count + 1))
    assert threshold.rate <= rate + 1e-9 or threshold.value == count - 1


def pictures() -> tuple[Tensor, Tensor]:
    data = tiny.images(120, 9)
    images = data.images.clone()
    images[::3] = tiny.stamp(images[::3])
    return images, data.labels


class Pairs(torch.utils.data.Dataset):
    """Images with labels, one at a time."""

    def __init__(self) -> None:
        self.images, self.labels = pictures()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


@pytest.mark.parametrize("labelled", [False, True])
def test_batches_are_judged_as_the_whole_is(labelled: bool) -> None:
    network, data = tiny.backdoored(), wrap_dataset(Pairs(), size=(8, 8), channels=1)
    images, labels = pictures()
    found = []
    for size in (120, 17):
        judging = Filter(create("strip", overlays=4), rate=0.1, labelled=labelled, batch_size=size)
        with judging.prepared(network, tiny.clean(), data) as judge:
            parts = [judge(*part) for part in zip(images.split(size), labels.split(size), strict=True)]
        found.append(torch.cat([part.values for part in parts]))
        flagged = torch.cat([part.suspicious for part in parts])
        assert torch.equal(flagged, found[-1] > judge.threshold.value)
        assert judge.threshold.images == 120
    assert torch.allclose(*found, atol=1e-5)


def test_labels_reach_the_detector_only_if_they_count() -> None:
    seen: list[Tensor] = []

    def detector(network, clean, sample, *, generator, progress):  # type: ignore[no-untyped-def]
        seen.extend(labels for _, labels in sample)

        def score(images: Tensor, labels: Tensor) -> Tensor:
            seen.append(labels)
            return torch.zeros(len(labels))

        return score

    network, data = tiny.backdoored(), wrap_dataset(Pairs(), size=(8, 8), channels=1)
    images, labels = pictures()
    for labelled in (False, True):
        seen.clear()
        with Filter(detector, labelled=labelled).prepared(network, tiny.clean(), data) as judge:
            judge(images, labels)
        expected = labels if labelled else network(tiny.CONVENTION.normalise(images)).argmax(1)
        assert torch.equal(seen[-1], expected)
        assert len(seen[0]) == 120
        assert torch.equal(seen[0], expected)


def test_numbers_out_of_range_are_refused() -> None:
    for wrong in ({"rate": 0.0}, {"rate": 1.0}, {"sample": 0}, {"batch_size": 0}):
        with pytest.raises(MethodError):
            Filter(create("strip"), **wrong)
