"""Any data set of PyTorch that yields pictures with integer labels."""

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from secateur.errors import DataError


class WrappedSource:
    """A map-style data set of ``(picture, label)``.

    The labels come from the data set's `targets` or `labels`, if it has them and does not transform them;
    otherwise every item is loaded once to learn its label.

    Raises
    ------
    DataError
        The data set has no length or no items, or an item is not a picture with an integer label.
    """

    def __init__(self, dataset: Dataset[Any], name: str | None = None) -> None:
        self._dataset = dataset
        self._name = name or type(dataset).__name__
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise DataError(
                f"{self._name}: items must be reachable by their index; give a map-style data set"
            )
        if not len(dataset):
            raise DataError(f"{self._name}: the data set is empty")
        known = _known_labels(dataset)
        self.labels = known if known is not None else self._labels_of_items(len(dataset))
        self.class_names = _class_names(dataset)

    def load(self, index: int) -> object:
        """Return one picture after making sure that its label is the one expected."""
        picture, label = self._item(index)
        if label != int(self.labels[index]):
            raise DataError(
                f"the item's label is {label}, the data set lists it as {int(self.labels[index])}"
            )
        return picture

    def name_of(self, index: int) -> str:
        """Return the data set and the index."""
        return f"{self._name}, item {index}"

    def _item(self, index: int) -> tuple[object, int]:
        try:
            item = self._dataset[index]
        except (OSError, SyntaxError) as error:
            raise DataError(f"cannot be read ({error})") from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError("an item must be a picture and its label")
        picture, label = item
        if isinstance(label, (Tensor, np.ndarray)) and label.ndim == 0:
            label = label.item()
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
            raise DataError(f"the label {label!r} is not an integer")
        return picture, int(label)

    def _labels_of_items(self, length: int) -> Tensor:
        labels = torch.empty(length, dtype=torch.int64)
        for index in range(length):
            try:
                labels[index] = self._item(index)[1]
            except DataError as error:
                raise DataError(f"{self.name_of(index)}: {error}") from error
        return labels


def _known_labels(dataset: Dataset[Any]) -> Tensor | None:
    """Return the labels that the data set lists, or None where they cannot be told without its items."""
    if isinstance(dataset, Subset):
        inner = _known_labels(dataset.dataset)
        return None if inner is None else inner[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        listed: object = dataset.tensors[-1]
    elif getattr(dataset, "target_transform", None) is not None:
        return None
    else:
        listed = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if not isinstance(listed, (list, tuple, np.ndarray, Tensor)):
        return None
    try:
        labels = torch.as_tensor(np.asarray(listed))
    except (ValueError, TypeError):
        return None
    plain = labels.ndim == 1 and not labels.is_floating_point() and not labels.is_complex()
    return labels.long() if plain and len(labels) == len(dataset) else None  # type: ignore[arg-type]


def _class_names(dataset: Dataset[Any]) -> tuple[str, ...] | None:
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset)
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)):
        return None
    # ImageNet lists several words for one class.
    return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in names)
