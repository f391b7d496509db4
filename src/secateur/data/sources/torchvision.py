"""Data sets of torchvision by name, from files that are already there."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from secateur.data.sources.wrapped import WrappedSource
from secateur.errors import DataError, MissingExtraError


def open_torchvision(name: str, root: Path | None, split: str) -> WrappedSource:
    """Open ``torchvision.datasets.<name>``; nothing is downloaded.

    Raises
    ------
    DataError
        No such data set or split, no root, or the files are not below it.
    MissingExtraError
        The data set needs a package that is not installed.
    """
    # Imported here: it takes longer than all else that a command imports.
    import torchvision.datasets

    factory: Callable[..., Dataset[Any]] | None = getattr(torchvision.datasets, name, None)
    if factory is None or name not in torchvision.datasets.__all__:
        raise DataError(f"torchvision has no data set {name!r}; the names are those of torchvision.datasets")
    if root is None:
        raise DataError(f"torchvision:{name} needs a root: the folder that its files are in (--root)")
    takes = inspect.signature(factory).parameters
    options: dict[str, object] = {"download": False} if "download" in takes else {}
    if "train" in takes:
        if split not in ("train", "test"):
            raise DataError(f"torchvision:{name}: no split {split!r}; there are train, test")
        options["train"] = split == "train"
    elif "split" in takes:
        options["split"] = split
    else:
        raise DataError(f"torchvision:{name} has no splits; open it in Python and use wrap_dataset")
    try:
        dataset = factory(root, **options)
    except ImportError as error:
        raise MissingExtraError(f"torchvision:{name} needs a package that is missing ({error})") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"torchvision:{name} cannot be opened in {root} ({error}); secateur downloads nothing: put the "
            "files there"
        ) from error
    return WrappedSource(dataset, f"torchvision:{name} {split}")
