"""A fingerprint changes with every bit of content and with nothing else."""

import hashlib
import struct

import torch
from torch import Tensor

from secateur.units import state_sha256

BASE = {"a": torch.tensor([[1.0, -0.0], [2.0, 3.0]]), "b": torch.tensor(7)}


def changed(**entries: Tensor) -> str:
    return state_sha256({**BASE, **entries})


def test_the_fingerprint_is_what_the_description_says() -> None:
    digest = hashlib.sha256()
    for name, header, content in (
        (b"a", b"torch.float32 (2, 2)", struct.pack("<4f", 1.0, -0.0, 2.0, 3.0)),
        (b"b", b"torch.int64 ()", struct.pack("<q", 7)),
    ):
        digest.update(struct.pack("<Q", len(name)) + name + struct.pack("<Q", len(header)) + header + content)
    assert state_sha256(BASE) == digest.hexdigest()


def test_layout_and_order_do_not_matter() -> None:
    transposed = BASE["a"].T.contiguous().T
    assert not transposed.is_contiguous()
    assert state_sha256({"b": BASE["b"], "a": transposed.requires_grad_()}) == state_sha256(BASE)


def test_every_bit_of_content_matters() -> None:
    prints = [
        state_sha256(BASE),
        changed(a=BASE["a"] + 0.0),
        changed(a=BASE["a"].double()),
        changed(a=BASE["a"].flatten()),
        changed(a=BASE["a"].T),
        changed(a=BASE["a"].view(torch.int32)),
        changed(a=BASE["a"].bfloat16()),
        changed(b=torch.tensor(True)),
        changed(c=torch.empty(0)),
        changed(c=torch.empty(0, 2)),
        state_sha256({"a": BASE["a"]}),
        state_sha256({"a": BASE["b"], "b": BASE["a"]}),
        state_sha256({}),
    ]
    assert len(set(prints)) == len(prints)
