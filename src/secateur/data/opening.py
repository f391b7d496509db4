"""Whatever holds images is opened as one kind of data set."""

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from secateur.data.dataset import ImageDataset, Source
from secateur.data.sources import (
    FilesSource,
    FolderSource,
    NpzSource,
    ParquetSource,
    WrappedSource,
    open_torchvision,
)
from secateur.data.sources.folder import image_files
from secateur.data.sources.parquet import parquet_files
from secateur.errors import DataError

TORCHVISION = "torchvision:"


def open_images(
    source: str,
    *,
    split: str = "train",
    root: Path | None = None,
    size: tuple[int, int],
    channels: int,
    labelled: bool = True,
) -> ImageDataset:
    """Open images; nothing is decoded yet.

    Parameters
    ----------
    source
        A folder of class folders (possibly below ``train``, ``test`` or ``val``); a Parquet file, or a folder
        with ``<split>*.parquet``; an ``.npz`` file; or ``torchvision:<name>``.
    split
        Where the source has several. A source without splits serves any.
    root
        The folder of a torchvision data set's files.
    size
        Height and width that images are given.
    channels
        1 or 3.
    labelled
        Whether labels are needed. If not, all image files in a folder and below are taken, whatever the
        split, and Parquet files without a label column are as well; the labels of such images are -1.

    Raises
    ------
    DataError
        The source does not exist or holds nothing that can be used; the message names it and the remedy.
    """
    return ImageDataset(_open_source(source, split, root, labelled), size=size, channels=channels)


def wrap_dataset(dataset: Dataset[Any], *, size: tuple[int, int], channels: int) -> ImageDataset:
    """Use any PyTorch data set of pictures (PIL, array or tensor) with integer labels.

    Its pictures must not be normalised: floating-point values lie in ``[0, 1]``.

    Raises
    ------
    DataError
        The data set has no length, no items, or items of another kind.
    """
    return ImageDataset(WrappedSource(dataset), size=size, channels=channels)


def _open_source(source: str, split: str, root: Path | None, labelled: bool) -> Source:
    if source.startswith(TORCHVISION):
        return open_torchvision(source.removeprefix(TORCHVISION), root, split)
    if not source:
        raise DataError("no data are named: give a folder or a file with images")
    path = Path(source)
    if path.is_dir():
        # Anyone may have put a Parquet file among the images: it must not hide them.
        if not labelled and image_files(path):
            return FilesSource(path)
        files = parquet_files(path, split)
        return ParquetSource(files, labelled=labelled) if files else FolderSource(path, split)
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder; for a data set of torchvision write torchvision:<name>"
        )
    if path.suffix == ".npz":
        return NpzSource(path, split)
    if path.suffix == ".parquet":
        return ParquetSource([path], labelled=labelled)
    raise DataError(f"{path}: give a folder, a .parquet file or an .npz file")
