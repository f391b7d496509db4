"""The sample is stratified, seeded and disjoint."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from secateur.data import InputConvention, sample_clean, wrap_dataset
from secateur.data.sampling import apportion, sample_indices
from secateur.errors import DataError, InputError

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def draw(labels: torch.Tensor, **changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    options = {"samples": 20, "per_class": None, "choose_fraction": 0.4, "seed": 0} | changes
    return sample_indices(labels, **options)


def shuffled_labels(sizes: list[int]) -> torch.Tensor:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


@given(sizes=SIZES, seats=st.integers(0, 300), cover=st.booleans())
def test_seats_are_shared_out_fully_and_fairly(sizes, seats, cover):
    held = apportion(seats, sizes, cover=cover)
    assert sum(held) == min(seats, sum(sizes))
    assert all(0 <= got <= size for got, size in zip(held, sizes, strict=True))
    inhabited = [got for got, size in zip(held, sizes, strict=True) if size]
    if cover and seats >= len(inhabited):
        assert all(inhabited)
        assert all(
            mine >= yours
            for mine, size in zip(held, sizes, strict=True)
            for yours, other in zip(held, sizes, strict=True)
            if size > other
        )


def test_seats_by_hand():
    assert apportion(10, [10, 20, 70], cover=False) == [1, 2, 7]
    assert apportion(3, [1, 1, 100], cover=False) == [0, 0, 3]
    assert apportion(3, [1, 1, 100], cover=True) == [1, 1, 1]


@given(
    sizes=SIZES.filter(lambda sizes: sum(sizes) >= 2), samples=st.integers(2, 200), seed=st.integers(0, 99)
)
def test_parts_are_disjoint_ascending_seeded_and_of_the_right_size(sizes, samples, seed):
    labels = shuffled_labels(sizes)
    learn, choose = draw(labels, samples=samples, seed=seed)
    both = torch.cat([learn, choose])
    assert len(both.unique()) == len(both) == min(samples, len(labels))
    assert len(choose) == min(max(1, round(0.4 * len(both))), len(both) - 1)
    assert (learn.diff() > 0).all()
    assert (choose.diff() > 0).all()
    again = draw(labels, samples=samples, seed=seed)
    assert torch.equal(again[0], learn)
    assert torch.equal(again[1], choose)


def test_both_parts_have_the_shares_of_the_classes():
    labels = shuffled_labels([1000, 500, 250, 250])
    learn, choose = draw(labels, samples=200)
    assert labels[learn].bincount().tolist() == [60, 30, 15, 15]
    assert labels[choose].bincount().tolist() == [40, 20, 10, 10]


def test_another_seed_draws_others_and_a_larger_sample_contains_the_smaller():
    labels = shuffled_labels([100, 50, 30])
    small, large, other = (
        set(torch.cat(draw(labels, samples=n, seed=s)).tolist()) for n, s in ((20, 0), (60, 0), (20, 1))
    )
    assert small < large
    assert small != other


def test_per_class_takes_that_many_or_what_there_is():
    labels = shuffled_labels([100, 5, 30])
    drawn = labels[torch.cat(draw(labels, per_class=10))]
    assert drawn.bincount().tolist() == [10, 5, 10]


def test_only_the_images_drawn_are_decoded():
    class Fragile(TensorDataset):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    seen: list[int] = []
    labels = shuffled_labels([50, 50])
    dataset = wrap_dataset(Fragile(torch.rand(100, 1, 2, 2), labels), size=(2, 2), channels=1)
    clean = sample_clean(dataset, InputConvention((2, 2), 1), samples=10, num_classes=2)
    assert len(clean.learn) == 6
    assert len(clean.choose) == 4
    assert len(seen) == 10
    for part, indices in zip((clean.learn, clean.choose), draw(labels, samples=10), strict=True):
        assert torch.equal(part.images, dataset._source._dataset.tensors[0][indices])
        assert torch.equal(part.labels, labels[indices])


def test_labels_and_numbers_out_of_range_are_refused():
    convention = InputConvention((2, 2), 1)
    dataset = wrap_dataset(
        TensorDataset(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])), size=(2, 2), channels=1
    )
    with pytest.raises(DataError, match="item 2"):
        sample_clean(dataset, convention, num_classes=2)
    for numbers in ({"samples": 1}, {"per_class": 0}, {"choose_fraction": 1.0}):
        with pytest.raises(InputError):
            sample_clean(dataset, convention, **numbers)
    single = wrap_dataset(TensorDataset(torch.rand(1, 1, 2, 2), torch.tensor([0])), size=(2, 2), channels=1)
    with pytest.raises(DataError, match="at least 2"):
        sample_clean(single, convention)
