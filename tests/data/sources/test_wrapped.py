"""Data sets of PyTorch, and torchvision's by name."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ChainDataset, Dataset, Subset, TensorDataset

from secateur.data import open_images, wrap_dataset
from secateur.errors import DataError


class Pictures(Dataset):
    """Three grey pictures that count how often they are loaded."""

    classes = ("zero", "one", "two")

    def __init__(self, items):
        self.items = items
        self.loads = 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.loads += 1
        return self.items[index]


def pictures():
    return Pictures([(Image.new("L", (2, 2), 51 * label), label) for label in range(3)])


def wrapped(dataset, channels=1):
    return wrap_dataset(dataset, size=(2, 2), channels=channels)


def test_listed_labels_save_loading_the_items():
    dataset = pictures()
    dataset.targets = [0, 1, 2]
    images = wrapped(Subset(Subset(dataset, [2, 1]), [0]))
    assert dataset.loads == 0
    assert images.labels.tolist() == [2]
    assert images.class_names == ("zero", "one", "two")
    assert images[0][0].mean() == pytest.approx(0.4)


def test_without_a_list_the_items_tell_their_labels():
    dataset = pictures()
    assert wrapped(dataset).labels.tolist() == [0, 1, 2]
    assert dataset.loads == 3
    dataset.targets = [0, 1, 2]
    dataset.target_transform = lambda label: label
    wrapped(dataset)
    assert dataset.loads == 6


def test_a_list_that_disagrees_with_the_items_is_found_out():
    dataset = pictures()
    dataset.targets = torch.tensor([0, 2, 2])
    with pytest.raises(DataError, match=r"Pictures, item 1: the item's label is 1, .* lists it as 2"):
        wrapped(dataset)[1]


def test_tensors_with_labels_of_any_integer_type():
    dataset = TensorDataset(torch.rand(3, 3, 2, 2), torch.tensor([1, 0, 1], dtype=torch.uint8))
    images = wrapped(dataset, 3)
    assert images.labels.tolist() == [1, 0, 1]
    assert torch.equal(images[2][0], dataset.tensors[0][2])


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Pictures([None]), "Pictures, item 0: an item must be"),
        (Pictures([(np.zeros((2, 2)), 0), (np.zeros((2, 2)), "cat")]), "Pictures, item 1: the label 'cat'"),
        (Pictures([]), "Pictures: the data set is empty"),
        (ChainDataset([]), "ChainDataset: items must be reachable"),
    ],
)
def test_items_of_another_kind_are_named(dataset, words):
    with pytest.raises(DataError, match=words):
        wrapped(dataset)


def put_mnist(root: Path, part: str, labels: list[int]) -> None:
    """Write the files that torchvision's FashionMNIST reads."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    pixels = b"".join(bytes([label]) * 784 for label in labels)
    (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, len(labels), 28, 28) + pixels)
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(labels)) + bytes(labels))


def test_torchvision_by_name(tmp_path):
    put_mnist(tmp_path, "train", [3, 1])
    put_mnist(tmp_path, "t10k", [5])
    options = {"root": tmp_path, "size": (28, 28), "channels": 1}
    train = open_images("torchvision:FashionMNIST", **options)
    assert train.labels.tolist() == [3, 1]
    assert train.class_names[0] == "T-shirt/top"
    test = open_images("torchvision:FashionMNIST", split="test", **options)
    assert test[0][0].mean() == pytest.approx(5 / 255)
    assert test.name_of(0) == "torchvision:FashionMNIST test, item 0"
    with pytest.raises(DataError, match="no split 'val'"):
        open_images("torchvision:FashionMNIST", split="val", **options)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CIFAR11", "no data set 'CIFAR11'"),
        ("os", "no data set 'os'"),
        ("ImageFolder", "has no splits"),
        ("CIFAR10", "cannot be opened in .*not found"),
        ("STL10", "cannot be opened in"),
    ],
)
def test_torchvision_names_and_files_that_are_not_there(tmp_path, name, words):
    with pytest.raises(DataError, match=words):
        open_images(f"torchvision:{name}", root=tmp_path, size=(32, 32), channels=3)


def test_torchvision_needs_a_root():
    with pytest.raises(DataError, match="needs a root"):
        open_images("torchvision:CIFAR10", size=(32, 32), channels=3)
