"""Weights come back bit for bit, and an interrupted write leaves nothing."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from secateur.models.checkpoint import read_checkpoint
from secateur.models.writing import write_weights


def test_tied_and_transposed_tensors_come_back_equal(tmp_path: Path) -> None:
    base = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    state = {
        "a": base,
        "tied": base,
        "turned": base.t(),
        "row": base[1],
        "count": torch.tensor(7),
        "none": base[:0],
    }
    path = tmp_path / "new" / "weights.safetensors"
    write_weights(path, state, {"method": "rnp"})
    read = read_checkpoint(path).state
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"method": "rnp"}


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(path, {"a": torch.ones(1)}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_weights(path, {"a": torch.zeros(1)}, {"number": 3})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
