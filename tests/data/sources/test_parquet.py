"""Parquet files, in memory one row group at a time."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from secateur.data import ImageDataset, InputConvention, open_images, sample_clean, stream
from secateur.data.sources import ParquetSource
from secateur.errors import DataError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, columns: dict[str, list[object]], metadata: object = None, group: int = 3) -> None:
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


def structs(values: list[int]) -> list[object]:
    return [{"bytes": png(value), "path": f"{value}.png"} for value in values]


def opened(path: Path, split: str = "train") -> ImageDataset:
    return open_images(str(path), split=split, size=(2, 2), channels=1)


def values(images: ImageDataset) -> list[int]:
    return [round(float(pixels.mean()) * 255) for pixels, _ in images]


def test_rows_over_row_groups_and_files_keep_their_order(tmp_path):
    for part, start in enumerate((0, 7)):
        rows = list(range(start, start + 7))
        write(
            tmp_path / "data" / f"train-0000{part}-of-00002.parquet", {"image": structs(rows), "label": rows}
        )
    images = opened(tmp_path)
    assert images.labels.tolist() == values(images) == list(range(14))
    shuffled = torch.tensor([13, 0, 6, 7, 3])
    assert torch.equal(torch.cat([labels for _, labels in stream(images, 2, shuffled)]), shuffled)
    assert images.name_of(8) == f"{tmp_path / 'data' / 'train-00001-of-00002.parquet'}, row 1"
    assert values(pickle.loads(pickle.dumps(images))) == list(range(14))


def test_each_row_group_is_read_once_however_many_rows_are_drawn(tmp_path, monkeypatch):
    path = tmp_path / "train.parquet"
    write(path, {"image": structs(list(range(12))), "label": [0, 1] * 6})
    read = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **k: read.append(i) or original(self, i, **k)
    )
    images = opened(path)
    assert read == []
    sample_clean(images, InputConvention((2, 2), 1), samples=12, choose_fraction=0.01)
    assert read[:4] == [0, 1, 2, 3]
    assert len(read) == 5


def test_class_names_come_from_the_schema_and_nonsense_there_is_no_error(tmp_path):
    columns = {"img": structs([1, 2]), "fine_label": [1, 0]}
    named = {"info": {"features": {"fine_label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    for metadata, names in ((named, ("a", "b")), ({"info": []}, None), ([1], None), (None, None)):
        write(tmp_path / "train.parquet", columns, metadata)
        assert opened(tmp_path).class_names == names


def test_plain_bytes_and_any_column_order_serve(tmp_path):
    columns = {"name": ["x", "y"], "labels": pa.array([1, 0], pa.int8()), "pixels": [png(3), png(4)]}
    write(tmp_path / "a.parquet", columns)
    images = opened(tmp_path / "a.parquet", "any")
    assert values(images) == [3, 4]
    assert images.labels.tolist() == [1, 0]
    assert images.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [b"x"]}, "no label column among image"),
        ({"label": [1], "text": ["x"]}, "no column of image bytes among label, text"),
        ({"image": [b"x"], "label": ["cat"]}, "label holds string"),
        ({"image": [b"x", b"y"], "label": [0, None]}, "row 1: the label is empty"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "no rows"),
    ],
)
def test_unsuitable_columns_are_named(tmp_path, columns, words):
    path = tmp_path / "train.parquet"
    write(path, columns)
    with pytest.raises(DataError, match=words) as caught:
        opened(path)
    assert str(path) in str(caught.value)


def test_corrupt_rows_are_named_and_the_others_still_read(tmp_path):
    path = tmp_path / "train.parquet"
    rows = [{"bytes": png(1)}, {"bytes": b"junk"}, {"bytes": None}, {"bytes": png(2)}]
    write(path, {"image": rows, "label": [0, 1, 0, 1]}, group=2)
    images = opened(path)
    with pytest.raises(DataError, match=r"train\.parquet, row 1: not a readable image"):
        images[1]
    with pytest.raises(DataError, match=r"train\.parquet, row 2: the row holds no image bytes"):
        images[2]
    assert images[0][1] == 0
    assert images[3][1] == 1


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read as Parquet"):
        opened(path)
    write(path, {"image": structs([1] * 400), "label": [0] * 400}, group=400)
    data = bytearray(path.read_bytes())
    data[4:300] = b"\xff" * 296
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"row 0: row group 0 cannot be read"):
        opened(path)[0]


def test_a_missing_split_lists_the_others(tmp_path):
    write(tmp_path / "train.parquet", {"image": structs([1]), "label": [0]})
    write(tmp_path / "plain" / "test-0.parquet", {"image": structs([2]), "label": [0]})
    assert values(opened(tmp_path, "test")) == [2]
    with pytest.raises(DataError, match="'validation'; there are"):
        opened(tmp_path, "validation")


@pytest.mark.parametrize(
    ("name", "side", "channels", "classes"),
    [("cifar10", 32, 3, 10), ("gtsrb32", 32, 3, 43), ("mnist", 28, 1, 10)],
)
def test_real_files_sample_without_being_decoded_whole(shared, name, side, channels, classes, monkeypatch):
    images = open_images(str(shared / "data" / name), size=(side, side), channels=channels)
    decoded = []
    original = ParquetSource.load
    monkeypatch.setattr(
        ParquetSource, "load", lambda self, index: decoded.append(index) or original(self, index)
    )
    convention = InputConvention((side, side), channels)
    clean = sample_clean(images, convention, num_classes=classes)
    assert (len(clean.learn), len(clean.choose)) == (300, 200)
    assert len(set(decoded)) == len(decoded) == 500
    assert clean.class_names is not None
    assert len(clean.class_names) == classes
    assert clean.learn.labels.unique().numel() == classes
    assert 0.05 < clean.learn.images.mean() < 0.95
