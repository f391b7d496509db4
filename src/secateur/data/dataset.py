"""Images with labels that are decoded one at a time."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from secateur.data.pixels import to_tensor
from secateur.errors import DataError


class Source(Protocol):
    """Where images come from; the labels are known before any image is decoded.

    Attributes
    ----------
    labels
        ``(N,)``, int64.
    class_names
        In label order, where they are known.
    """

    labels: Tensor
    class_names: tuple[str, ...] | None

    def load(self, index: int) -> object:
        """Return picture `index` as a PIL image, array or tensor; DataError says what is wrong with it."""

    def name_of(self, index: int) -> str:
        """Return the file or row that errors name."""


class ImageDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A source seen at one size and number of channels.

    Parameters
    ----------
    source
        Where the images come from.
    size
        Height and width of every image.
    channels
        1 or 3 of most networks.

    Attributes
    ----------
    labels
        ``(N,)``, int64.
    class_names
        In label order, or None where the source has none.
    """

    def __init__(self, source: Source, *, size: tuple[int, int], channels: int) -> None:
        self._source = source
        self.size = size
        self.channels = channels
        self.labels = source.labels
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the image ``(C, H, W)``, float32 in ``[0, 1]``, and its label.

        Raises
        ------
        DataError
            The image cannot be decoded or converted; the message names the file.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        try:
            image = to_tensor(self._source.load(index), size=self.size, channels=self.channels)
        except DataError as error:
            raise DataError(f"{self.name_of(index)}: {error}") from error
        return image, int(self.labels[index])

    def name_of(self, index: int) -> str:
        """Return the file, or the file and row, that holds image `index`."""
        return self._source.name_of(index)

    def check_labels(self, num_classes: int | None) -> None:
        """Make sure that every label is one of the network's classes.

        Raises
        ------
        DataError
            One is negative or not below `num_classes`; the message names its file.
        """
        wrong = self.labels < 0
        if num_classes is not None:
            wrong |= self.labels >= num_classes
        if not wrong.any():
            return
        first = int(wrong.nonzero()[0])
        classes = "" if num_classes is None else f" and the network has classes 0 to {num_classes - 1}"
        raise DataError(
            f"{self.name_of(first)}: the label is {int(self.labels[first])}{classes}; "
            f"{int(wrong.sum())} of {len(self)} images are affected. Leave them out, or choose the data "
            "that the network was trained for"
        )


def stream(
    dataset: ImageDataset, batch_size: int, indices: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode images batch by batch, holding one batch at a time.

    Parameters
    ----------
    batch_size
        At least 1; the last batch may be smaller.
    indices
        ``(M,)``, int64: which images and in which order; all of them by default. Ascending order is fastest.

    Yields
    ------
    tuple
        Images ``(B, C, H, W)``, float32 in ``[0, 1]``, and labels ``(B,)``, int64.
    """
    order = torch.arange(len(dataset)) if indices is None else indices
    for chosen in torch.split(order, batch_size):
        if len(chosen):
            yield torch.stack([dataset[int(index)][0] for index in chosen]), dataset.labels[chosen]
