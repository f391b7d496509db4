"""The fingerprint of a network's weights, whatever file they come in."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the hexadecimal SHA-256 of a state dict's content.

    It covers, for every entry in the order of sorted names, the name, the type, the shape and the bytes, so
    that two states have the same fingerprint exactly if they are equal bit for bit; order, device, memory
    layout and file format do not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        header = f"{tensor.dtype} {tuple(tensor.shape)}"
        for text in (name.encode(), header.encode()):
            digest.update(len(text).to_bytes(8, "little"))
            digest.update(text)
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
