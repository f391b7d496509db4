"""Repair methods by name: ours, and those of other packages."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

import torch
from torch import nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.progress import Progress
from secateur.repair.result import Repair

ENTRY_POINTS = "secateur.repairs"


class RepairMethod(Protocol):
    """What a method is once its hyperparameters are chosen."""

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        *,
        generator: torch.Generator | None = None,
        progress: Progress = ...,
    ) -> Repair:
        """Return the repair of `network`, which is not changed."""


@dataclass(frozen=True)
class Entry:
    """A registered method.

    Attributes
    ----------
    name
        What ``--method`` takes.
    build
        Makes the method from hyperparameters given by keyword.
    title, paper, year
        The publication.
    presets
        Named sets of hyperparameters; ``default`` is always there.
    """

    name: str
    build: Callable[..., RepairMethod]
    title: str
    paper: str
    year: int
    presets: dict[str, dict[str, object]]


_entries: dict[str, Entry] = {}


def register(
    name: str, *, title: str, paper: str, year: int, presets: dict[str, dict[str, object]] | None = None
) -> Callable[[type], type]:
    """Register the decorated dataclass as the repair method `name`."""

    def remember(cls: type) -> type:
        _entries[name] = Entry(name, cls, title, paper, year, {"default": {}, **(presets or {})})
        return cls

    return remember


def methods() -> dict[str, Entry]:
    """Return every known method by name; packages with an entry point in ``secateur.repairs`` included."""
    for point in entry_points(group=ENTRY_POINTS):
        if point.name not in _entries:
            point.load()
    return dict(sorted(_entries.items()))


def create(name: str, preset: str = "default", **hyperparameters: object) -> RepairMethod:
    """Make the method `name` with a preset's hyperparameters, overridden by those given.

    Raises
    ------
    MethodError
        The method, the preset or a hyperparameter is unknown, or a value is out of range.
    """
    known = methods()
    if name not in known:
        raise MethodError(f"no repair method is called {name!r}; there are: {', '.join(known)}")
    entry = known[name]
    if preset not in entry.presets:
        raise MethodError(f"{name} has no preset {preset!r}; there are: {', '.join(entry.presets)}")
    try:
        return entry.build(**{**entry.presets[preset], **hyperparameters})
    except TypeError as error:
        raise MethodError(f"{name}: {error}") from error
