"""NumPy archives: every layout, nothing unpickled."""

import io
import zipfile

import numpy as np
import pytest

from secateur.data import open_images
from secateur.data.sources import NpzSource
from secateur.errors import DataError

IMAGES = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
LABELS = np.array([2, 0, 1])


def opened(path, split="train", channels=3):
    return open_images(str(path), split=split, size=(4, 4), channels=channels)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("fortran", [False, True])
def test_stored_and_compressed_archives_hold_the_same(tmp_path, save, fortran):
    path = tmp_path / "a.npz"
    save(path, images=np.asfortranarray(IMAGES) if fortran else IMAGES, labels=LABELS[:, None])
    images = opened(path)
    assert images.labels.tolist() == [2, 0, 1]
    for index, (pixels, _) in enumerate(images):
        assert (pixels.permute(1, 2, 0).numpy() * 255).round().astype(int).tolist() == IMAGES[index].tolist()
    assert isinstance(NpzSource(path, "train")._images, np.memmap) == (save is np.savez)


@pytest.mark.parametrize("pattern", ["x_{}/y_{}", "{}_images/{}_labels", "data_{}/targets_{}"])
def test_splits_by_name(tmp_path, pattern):
    path = tmp_path / "a.npz"
    arrays = {}
    for split, count in (("train", 3), ("test", 2)):
        images, labels = pattern.format(split, split).split("/")
        arrays |= {images: IMAGES[:count], labels: LABELS[:count]}
    np.savez(path, **arrays)
    assert len(opened(path)) == 3
    assert len(opened(path, "test")) == 2
    with pytest.raises(DataError, match="no split 'val'; there are train, test"):
        opened(path, "val")


def test_planes_first_grey_and_floating_point(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=IMAGES.transpose(0, 3, 1, 2), y=LABELS)
    assert opened(path)[1][0][2, 0, 0] == pytest.approx(IMAGES[1, 0, 0, 2] / 255)
    np.savez(path, x=IMAGES[..., 0] / 255, y=LABELS)
    assert opened(path, channels=1)[1][0][0, 0, 1] == pytest.approx(IMAGES[1, 0, 1, 0] / 255)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": IMAGES}, "no images and labels among its arrays a"),
        ({"x": IMAGES, "y": LABELS[:2]}, "does not go with 2 labels"),
        ({"x": IMAGES, "y": LABELS / 2}, "not one integer per image"),
        ({"x": IMAGES[0, 0], "y": LABELS}, "does not go with"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "empty"),
        ({"x": IMAGES, "y": np.array([None, {}, []], dtype=object)}, "Python objects"),
    ],
)
def test_unsuitable_arrays_are_named(tmp_path, arrays, words):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=words) as caught:
        opened(path)
    assert str(path) in str(caught.value)


def test_only_arrays_at_the_top_of_the_archive_count(tmp_path):
    array = io.BytesIO()
    np.save(array, LABELS)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("sub/images.npy", "sub/labels.npy", "x.png", "y.txt"):
            archive.writestr(name, array.getvalue())
    with pytest.raises(DataError, match=r"among its arrays sub/images, sub/labels;"):
        opened(path)


def test_an_image_out_of_range_is_named_by_its_place(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=IMAGES.astype(np.float32), y=LABELS)
    with pytest.raises(DataError, match=r"a\.npz, x\[1\]: pixels reach"):
        opened(path)[1]


def test_a_header_that_promises_more_than_the_file_has_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 4, 4, 3)}
    )
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        labels = io.BytesIO()
        np.save(labels, LABELS)
        archive.writestr("y.npy", labels.getvalue())
    with pytest.raises(DataError, match="shorter than its header says"):
        opened(path)


def test_damage_anywhere_is_a_data_error(tmp_path):
    whole = io.BytesIO()
    np.savez_compressed(whole, x=IMAGES, y=LABELS)
    path = tmp_path / "a.npz"
    for position in range(0, len(whole.getvalue()), 7):
        data = bytearray(whole.getvalue())
        data[position] ^= 0xFF
        path.write_bytes(data)
        try:
            list(opened(path))
        except DataError:
            continue
