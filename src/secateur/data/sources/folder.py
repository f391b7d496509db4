"""A folder with one folder of image files for each class."""

from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

from secateur.data.pixels import decode_file
from secateur.errors import DataError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".gif")
)
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}


class FolderSource:
    """Image files in class folders, possibly below split folders.

    A subfolder called train, test or val (or training, testing, valid, validation) is a split if it has
    subfolders itself. Without any, the folder is one split that serves whichever is asked for. Classes are
    numbered in the order of their names (numbers by value), over all splits together, so that a class that
    is missing from one split moves no label. The first class has label 0: folders ``0`` to ``42`` are the
    labels 0 to 42, folders ``1`` to ``43`` as well. Hidden files and files that are not images are passed
    over.

    Raises
    ------
    DataError
        The split does not exist, there are no class folders or no images, or the classes are numbers
        with gaps or start above 1.
    """

    def __init__(self, folder: Path, split: str) -> None:
        splits = {
            sub.name: sub for sub in _subfolders(folder) if sub.name.lower() in SPLITS and _subfolders(sub)
        }
        if splits:
            parts = list(splits.values())
            root = _choose(folder, splits, split)
        else:
            parts, root = [folder], folder
        names = _sorted_names(folder, {sub.name for part in parts for sub in _subfolders(part)})
        if all(name.lower() in SPLITS for name in names):
            raise DataError(
                f"{root}: no class folders; put the images of each class into a folder of its own"
            )
        self.class_names: tuple[str, ...] | None = names
        self._files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            files = image_files(root / name)
            self._files += files
            labels += [label] * len(files)
        if not labels:
            raise DataError(
                f"{root}: no images in its class folders; known are {', '.join(sorted(SUFFIXES))}"
            )
        self.labels = torch.tensor(labels)

    def load(self, index: int) -> Image.Image:
        """Decode one file."""
        return decode_file(self._files[index])

    def name_of(self, index: int) -> str:
        """Return the path of the file."""
        return str(self._files[index])


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error


def _choose(folder: Path, splits: dict[str, Path], split: str) -> Path:
    if split in splits:
        return splits[split]
    wanted = SPLITS.get(split.lower())
    for name, path in splits.items():
        if SPLITS[name.lower()] == wanted:
            return path
    raise DataError(f"{folder}: no split {split!r}; there are {', '.join(splits)}")


def _sorted_names(folder: Path, names: set[str]) -> tuple[str, ...]:
    if not all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names))
    ordered = sorted(names, key=lambda name: (int(name), name))
    if ordered and int(ordered[0]) > 1:
        raise DataError(
            f"{folder}: class folders are numbers that start at {ordered[0]}, not at 0 or 1; "
            "add empty folders for the classes without images so that labels keep their numbers"
        )
    for before, after in pairwise(ordered):
        if int(after) != int(before) + 1:
            raise DataError(
                f"{folder}: class folders are numbers, and {after} does not follow {before}; "
                "add empty folders for the classes without images so that labels keep their numbers"
            )
    return tuple(ordered)


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and below, in the order of their paths; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
