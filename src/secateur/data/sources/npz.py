"""A NumPy archive with an array of images and an array of labels."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from secateur.errors import DataError

IMAGE_KEYS = ("images", "x", "data")
LABEL_KEYS = ("labels", "y", "targets")
SPLITS = ("train", "test", "val")
MAX_BYTES = 8 << 30
LOCAL_HEADER = 30
# The last three: encrypted or unknown compression, corrupt compression, absurd shapes.
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, RuntimeError, zlib.error, OverflowError)


class NpzSource:
    """Arrays in an ``.npz`` file.

    The arrays are called ``images``/``labels``, ``x``/``y`` or ``data``/``targets``, or have the split before
    or after that name (``x_train``, ``train_images``). Arrays without a split in their names serve whichever
    split is asked for. Uncompressed images are memory-mapped; compressed ones are
    unpacked once. Nothing is unpickled.

    Raises
    ------
    DataError
        The file cannot be read, has no such arrays or split, or the arrays do not go together.
    """

    class_names: tuple[str, ...] | None = None

    def __init__(self, path: Path, split: str) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
                images, labels = _choose_keys(path, arrays, split)
                values = np.asarray(_read(path, archive, labels))
                self._images = _read(path, archive, images)
        except _UNREADABLE as error:
            raise DataError(f"{path}: cannot be read as an npz file of plain arrays ({error})") from error
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"{path}: {labels} is {values.dtype} {values.shape}, not one integer per image")
        if self._images.ndim not in (3, 4) or len(self._images) != len(values):
            raise DataError(f"{path}: {images} {self._images.shape} does not go with {len(values)} labels")
        if not len(values):
            raise DataError(f"{path}: {images} is empty")
        self._key = images
        self.labels = torch.from_numpy(values.astype(np.int64))

    def load(self, index: int) -> NDArray[Any]:
        """Return one image as stored."""
        picture: NDArray[Any] = self._images[index]
        return picture

    def name_of(self, index: int) -> str:
        """Return the file and the position in the array."""
        return f"{self._path}, {self._key}[{index}]"


def _choose_keys(path: Path, present: set[str], split: str) -> tuple[str, str]:
    def find(part: str) -> tuple[str, str] | None:
        for images, labels in zip(IMAGE_KEYS, LABEL_KEYS, strict=True):
            for pattern in (f"{{}}_{part}", f"{part}_{{}}") if part else ("{}",):
                if {pattern.format(images), pattern.format(labels)} <= present:
                    return pattern.format(images), pattern.format(labels)
        return None

    if keys := find(split):
        return keys
    if available := [part for part in SPLITS if find(part)]:
        raise DataError(f"{path}: no split {split!r}; there are {', '.join(available)}")
    if keys := find(""):
        return keys
    raise DataError(
        f"{path}: no images and labels among its arrays {', '.join(sorted(present)) or '(none)'}; "
        "call them images and labels, x and y, or x_train and y_train"
    )


def _read(path: Path, archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as stream:
        # Both versions that plain arrays are written in; others are for exotic field names.
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        header = stream.tell()
        needed = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise DataError(f"{path}: {key} holds Python objects; save plain numbers")
        if min(shape, default=0) < 0 or header + needed > member.file_size:
            raise DataError(f"{path}: {key} is shorter than its header says")
        if member.compress_type == zipfile.ZIP_STORED and needed:
            return np.memmap(
                path,
                dtype=dtype,
                mode="r",
                offset=_start(path, member) + header,
                shape=shape,
                order="F" if fortran else "C",
            )
        if needed > MAX_BYTES:
            raise DataError(
                f"{path}: {key} unpacks to {needed >> 30} GiB; save it uncompressed (numpy.savez)"
            )
        values = np.frombuffer(stream.read(needed), dtype=dtype)
        return values.reshape(shape, order="F" if fortran else "C")


def _start(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where the bytes of a stored member begin."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(LOCAL_HEADER)
    # The name and the extra field may be longer here than in the archive's directory.
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return member.header_offset + LOCAL_HEADER + name + extra
