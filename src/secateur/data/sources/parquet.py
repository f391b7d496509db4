"""Parquet files with encoded images and integer labels, as Hugging Face data sets are stored."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from secateur.data.pixels import decode
from secateur.errors import DataError

LABEL_COLUMNS = ("label", "labels", "fine_label")
BUFFER = 1 << 20


class ParquetSource:
    """Rows of one or several Parquet files.

    The labels are read up front; the images of one row group at a time stay in memory, encoded.

    Parameters
    ----------
    files
        In order. The label column is `label`, `labels` or `fine_label`; the image column is the first other
        one that holds bytes, or a struct with a field `bytes`.
    labelled
        Whether there must be a label column; without one the labels are -1.

    Raises
    ------
    DataError
        A file cannot be read, lacks those columns, has an empty label, or there are no rows at all.
    """

    def __init__(self, files: Sequence[Path], *, labelled: bool = True) -> None:
        self._files: list[_File] = []
        labels = []
        self.class_names: tuple[str, ...] | None = None
        for path in files:
            try:
                opened = _File(path, labelled)
                labels.append(opened.read_labels())
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path}: cannot be read as Parquet ({error})") from error
            self._files.append(opened)
            self.class_names = self.class_names or opened.class_names
        self._starts = np.cumsum([0] + [len(part) for part in labels])
        self.labels = torch.from_numpy(np.concatenate(labels))
        if not len(self.labels):
            raise DataError(f"{', '.join(map(str, files))}: no rows")
        self._group: tuple[int, int] | None = None
        self._pictures: pa.ChunkedArray | None = None

    def load(self, index: int) -> Image.Image:
        """Decode one row."""
        number, row = self._locate(index)
        group, offset = self._files[number].group_of(row)
        if self._group != (number, group):
            # Let go of the previous row group before the next one is read.
            self._group, self._pictures = None, None
            try:
                self._pictures = self._files[number].read_group(group)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"row group {group} cannot be read ({error})") from error
            self._group = (number, group)
        assert self._pictures is not None
        data = self._pictures[offset].as_py()
        if isinstance(data, dict):
            data = data["bytes"]
        if data is None:
            raise DataError("the row holds no image bytes; images must be stored in the file itself")
        return decode(data)

    def name_of(self, index: int) -> str:
        """Return the file and the row, counted from 0."""
        number, row = self._locate(index)
        return f"{self._files[number].path}, row {row}"

    def _locate(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])


class _File:
    """The columns and row groups of one file; it is open only while something is read."""

    def __init__(self, path: Path, labelled: bool) -> None:
        self.path = path
        with pq.ParquetFile(path) as opened:
            schema: pa.Schema = opened.schema_arrow
            counts = [opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups)]
        self._starts = np.cumsum([0, *counts])
        self._label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
        self._image = next((f.name for f in schema if f.name != self._label and _holds_bytes(f.type)), None)
        if (labelled and self._label is None) or self._image is None:
            missing = "column of image bytes" if self._image is None else "label column"
            raise DataError(
                f"{path}: no {missing} among {', '.join(schema.names)}; labels are looked for in "
                f"{', '.join(LABEL_COLUMNS)}, images in columns of bytes or of structs with bytes"
            )
        if self._label is not None and not pa.types.is_integer(schema.field(self._label).type):
            raise DataError(f"{path}: {self._label} holds {schema.field(self._label).type}, not integers")
        self._leaf = (
            f"{self._image}.bytes" if pa.types.is_struct(schema.field(self._image).type) else self._image
        )
        self.class_names = None if self._label is None else _class_names(schema, self._label)

    def read_labels(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if self._label is None:
            return np.full(self._starts[-1], -1, dtype=np.int64)
        column = pq.read_table(self.path, columns=[self._label]).column(0)
        if column.null_count:
            row = column.is_null().to_numpy().argmax()
            raise DataError(f"{self.path}, row {row}: the label is empty; leave out rows without labels")
        labels: np.ndarray[tuple[int], np.dtype[np.int64]] = column.to_numpy().astype(np.int64)
        return labels

    def group_of(self, row: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - int(self._starts[group])

    def read_group(self, group: int) -> pa.ChunkedArray:
        # Read through a small buffer: the whole column would otherwise be held twice.
        with pq.ParquetFile(self.path, buffer_size=BUFFER, pre_buffer=False) as opened:
            return opened.read_row_group(group, columns=[self._leaf]).column(0)


def parquet_files(folder: Path, split: str) -> list[Path]:
    """Return the Parquet files of a split: ``<split>*.parquet`` in `folder` or in one of its subfolders.

    Returns
    -------
    list
        In order of their names; empty if there are no Parquet files at all.

    Raises
    ------
    DataError
        There are Parquet files, but none of this split.
    """
    splits: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            splits.setdefault(re.split(r"[-_.]", path.name)[0], []).append(path)
    if splits and split not in splits:
        raise DataError(f"{folder}: no Parquet files of the split {split!r}; there are {', '.join(splits)}")
    return splits.get(split, [])


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the names in the metadata that Hugging Face writes; what is malformed counts as absent."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
