"""Image files without labels."""

from pathlib import Path

import torch
from PIL import Image

from secateur.data.pixels import decode_file
from secateur.data.sources.folder import SUFFIXES, image_files
from secateur.errors import DataError


class FilesSource:
    """Every image file in a folder and below, in the order of their paths; labels are -1.

    Hidden files and files that are not images are passed over.

    Raises
    ------
    DataError
        There are no images.
    """

    class_names: tuple[str, ...] | None = None

    def __init__(self, folder: Path) -> None:
        self._files = image_files(folder)
        if not self._files:
            raise DataError(f"{folder}: no images; known are {', '.join(sorted(SUFFIXES))}")
        self.labels = torch.full((len(self._files),), -1)

    def load(self, index: int) -> Image.Image:
        """Decode one file."""
        return decode_file(self._files[index])

    def name_of(self, index: int) -> str:
        """Return the path of the file."""
        return str(self._files[index])
