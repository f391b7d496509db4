"""Images are decoded when they are asked for, and errors name where they come from."""

import pytest
import torch
from torch import Tensor

from secateur.data import ImageDataset, stream
from secateur.errors import DataError


class Counting:
    """Image k is uniformly k/10; tells which were loaded."""

    class_names = None

    def __init__(self, labels: list[int]) -> None:
        self.labels = torch.tensor(labels)
        self.loaded: list[int] = []

    def load(self, index: int) -> Tensor:
        self.loaded.append(index)
        if index == 7:
            raise DataError("it is torn")
        return torch.full((1, 4, 4), index / 10)

    def name_of(self, index: int) -> str:
        return f"image-{index}"


def dataset(labels: list[int]) -> tuple[ImageDataset, Counting]:
    source = Counting(labels)
    return ImageDataset(source, size=(2, 2), channels=3), source


def test_stream_decodes_one_batch_at_a_time_in_the_order_asked_for():
    images, source = dataset([0, 1, 2, 3, 4])
    batches = stream(images, 2, torch.tensor([4, 0, 3]))
    pixels, labels = next(batches)
    assert source.loaded == [4, 0]
    assert labels.tolist() == [4, 0]
    assert pixels.shape == (2, 3, 2, 2)
    assert pixels[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0])
    assert next(batches)[1].tolist() == [3]
    assert list(batches) == []


def test_stream_covers_everything_by_default_and_nothing_of_nothing():
    images, _ = dataset([0, 1, 2, 3, 4])
    assert torch.cat([labels for _, labels in stream(images, 3)]).tolist() == [0, 1, 2, 3, 4]
    assert list(stream(images, 3, torch.tensor([], dtype=torch.int64))) == []


def test_indices_wrap_once_and_end_iteration():
    images, _ = dataset([5, 6])
    assert images[-1][1] == 6
    assert len(list(images)) == 2
    with pytest.raises(IndexError):
        images[2]


def test_an_error_names_the_image_once():
    images, _ = dataset([0] * 8)
    with pytest.raises(DataError, match=r"^image-7: it is torn$"):
        images[7]


@pytest.mark.parametrize(("labels", "named"), [([0, 1, 3], "image-2"), ([0, -1, 2], "image-1")])
def test_a_label_outside_the_classes_is_named(labels, named):
    images, source = dataset(labels)
    with pytest.raises(DataError, match=f"{named}.*classes 0 to 2"):
        images.check_labels(3)
    assert not source.loaded
