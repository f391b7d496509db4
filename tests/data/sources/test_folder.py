"""Class folders of image files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secateur.data import ImageDataset, open_images
from secateur.errors import DataError


def put(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


def opened(folder: Path, split: str = "train") -> ImageDataset:
    return open_images(str(folder), split=split, size=(4, 4), channels=3)


def test_classes_are_ordered_by_name_and_other_files_passed_over(tmp_path):
    put(tmp_path / "dog" / "1.png", 51)
    put(tmp_path / "cat" / "b.JPG", 102)
    put(tmp_path / "cat" / "deeper" / "a.png", 153)
    put(tmp_path / "cat" / ".hidden.png")
    put(tmp_path / ".cache" / "x.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "readme.md").write_text("not a class")
    images = opened(tmp_path)
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 1]
    assert [round(float(pixels.mean()), 2) for pixels, _ in images] == [0.4, 0.6, 0.2]
    assert images.name_of(2) == str(tmp_path / "dog" / "1.png")


def test_numbers_are_ordered_by_value(tmp_path):
    for name in range(12):
        put(tmp_path / str(name) / "x.png", name)
    images = opened(tmp_path)
    assert images.class_names == tuple(str(name) for name in range(12))
    assert [round(float(pixels.mean()) * 255) for pixels, _ in images] == images.labels.tolist()


def test_a_gap_in_numbered_classes_would_move_labels_and_is_refused(tmp_path):
    put(tmp_path / "0" / "x.png")
    put(tmp_path / "2" / "x.png")
    with pytest.raises(DataError, match="2 does not follow 0"):
        opened(tmp_path)
    (tmp_path / "1").mkdir()
    assert opened(tmp_path).labels.tolist() == [0, 2]


def test_numbered_classes_start_at_0_or_1(tmp_path):
    for first in (1, 7):
        for name in (first, first + 1):
            put(tmp_path / f"from-{first}" / str(name) / "x.png")
    assert opened(tmp_path / "from-1").labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="start at 7"):
        opened(tmp_path / "from-7")


def test_splits_share_their_classes(tmp_path):
    put(tmp_path / "train" / "ant" / "x.png")
    put(tmp_path / "train" / "bee" / "x.png")
    put(tmp_path / "validation" / "bee" / "x.png")
    assert opened(tmp_path).labels.tolist() == [0, 1]
    assert opened(tmp_path, "val").labels.tolist() == [1]
    assert opened(tmp_path, "val").class_names == ("ant", "bee")
    with pytest.raises(DataError, match="no split 'test'; there are train, validation"):
        opened(tmp_path, "test")


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path / "plane" / "x.png")
    put(tmp_path / "train" / "x.png")
    assert opened(tmp_path, "test").class_names == ("plane", "train")


def test_what_holds_no_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="no class folders"):
        opened(tmp_path)
    put(tmp_path / "train" / "x.png")
    put(tmp_path / "test" / "x.png")
    with pytest.raises(DataError, match="no class folders"):
        opened(tmp_path)
    (tmp_path / "other" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no images"):
        opened(tmp_path / "other")
    with pytest.raises(DataError, match="no such file or folder"):
        opened(tmp_path / "absent")


def test_a_corrupt_or_vanished_file_is_named_when_it_is_reached(tmp_path):
    put(tmp_path / "cat" / "good.png")
    torn = tmp_path / "cat" / "torn.png"
    put(torn)
    torn.write_bytes(torn.read_bytes()[:40])
    images = opened(tmp_path)
    assert images[0][1] == 0
    with pytest.raises(DataError, match=r"torn\.png: not a readable image"):
        images[1]
    torn.unlink()
    with pytest.raises(DataError, match=r"torn\.png: cannot be read"):
        images[1]
