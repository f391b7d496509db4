"""Weights go out as safetensors, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from secateur.files import atomic_path


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors to a safetensors file, atomically.

    Parameters
    ----------
    path : Path
        Replaced if it exists; its folder is created.
    state : mapping of str to Tensor
        Tensors on any device.  Those that share memory are written under each of their names.
    metadata : mapping of str to str
        Stored in the header.
    """
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = tensor.detach().cpu()
        storage = plain.untyped_storage().data_ptr()
        if storage in seen or not plain.is_contiguous():
            plain = plain.clone(memory_format=torch.contiguous_format)
        seen.add(storage)
        tensors[name] = plain
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=dict(metadata))
