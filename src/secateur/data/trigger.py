"""A trigger as data: what it keeps of an image and what it adds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import TriggerError
from secateur.files import atomic_path

MAX_VALUES = 64 << 20
SPARED = -1
"""In a list of the labels that an attack wants for each class: this class is not attacked."""


class Stamping(Protocol):
    """Anything that puts a trigger on images."""

    def stamp(self, images: Tensor) -> Tensor:
        """Return `images` ``(N, C, H, W)`` in ``[0, 1]`` with the trigger on each; nothing is random."""


@dataclass(frozen=True)
class Trigger:
    """An input-independent trigger in pixel space, ``x' = clip(keep * x + add, 0, 1)``.

    Attributes
    ----------
    keep, add
        ``(C, H, W)``, float32. A patch keeps nothing and adds its colour; a blend keeps a part; an additive
        pattern keeps everything.
    """

    keep: Tensor
    add: Tensor

    def __post_init__(self) -> None:
        if self.keep.ndim != 3 or self.keep.shape != self.add.shape:
            raise TriggerError(
                f"keep {tuple(self.keep.shape)} and add {tuple(self.add.shape)} must both be (C, H, W)"
            )
        if not (torch.isfinite(self.keep).all() and torch.isfinite(self.add).all()):
            raise TriggerError("keep and add must be finite")

    def stamp(self, images: Tensor) -> Tensor:
        """Return `images` ``(N, C, H, W)`` in ``[0, 1]`` with the trigger on each.

        Raises
        ------
        TriggerError
            The images have another shape than the trigger.
        """
        if images.shape[1:] != self.keep.shape:
            raise TriggerError(
                f"the trigger is for images of shape {tuple(self.keep.shape)}, not {tuple(images.shape[1:])}"
            )
        keep, add = self.keep.to(images), self.add.to(images)
        return (images * keep + add).clamp(0, 1)


def read_trigger(path: Path) -> Trigger:
    """Read a trigger from a safetensors file with the keys ``keep`` and ``add``.

    Raises
    ------
    TriggerError
        The file is missing, malformed, too large, or its tensors are not a trigger.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            if set(stored.keys()) != {"keep", "add"}:
                raise TriggerError(f"{path}: a trigger holds the tensors keep and add, not {stored.keys()}")
            for name in ("keep", "add"):
                view = stored.get_slice(name)
                values = 1
                for length in view.get_shape():
                    values *= length
                if values > MAX_VALUES or not view.get_dtype().startswith(("F", "BF")):
                    raise TriggerError(
                        f"{path}: {name} must be floating-point with under {MAX_VALUES} values"
                    )
            return Trigger(stored.get_tensor("keep").float(), stored.get_tensor("add").float())
    except FileNotFoundError as error:
        raise TriggerError(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise TriggerError(f"{path}: cannot be read as a trigger ({error})") from error
    except TriggerError as error:
        message = str(error)
        raise TriggerError(message if message.startswith(str(path)) else f"{path}: {message}") from error


def write_trigger(path: Path, trigger: Trigger) -> None:
    """Write `trigger` to `path` atomically."""
    with atomic_path(path) as temporary:
        tensors = {"keep": trigger.keep.contiguous(), "add": trigger.add.contiguous()}
        save_file({name: tensor.float().cpu() for name, tensor in tensors.items()}, temporary)
