"""Weights are found wherever they are nested; all else is refused in one sentence that names the file."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.errors import CheckpointError
from secateur.files import sha256
from secateur.models.checkpoint import choose_state, read_checkpoint


def state_of(count: int) -> dict[str, Tensor]:
    return {f"layer{index}.weight": torch.ones(1) for index in range(count)}


def test_training_checkpoint_gives_its_weights(tmp_path: Path) -> None:
    """Wrapper prefixes, tied and transposed tensors, an optimiser and counters, in the form of today."""
    network = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    base = torch.arange(6.0).reshape(2, 3)
    state = {
        "module._orig_mod.a.weight": nn.Parameter(base),
        "module._orig_mod.tied.weight": base,
        "module._orig_mod.turned.weight": base.t(),
        "module._orig_mod.part.weight": base[1],
        "module._orig_mod.half.weight": torch.ones(2, dtype=torch.bfloat16),
        "module._orig_mod.bn.num_batches_tracked": torch.tensor(4),
    }
    path = tmp_path / "model.pth.tar"
    torch.save(
        {"epoch": 3, "state_dict": state, "optimizer": optimizer.state_dict(), "loss": torch.ones(1)}, path
    )

    read = read_checkpoint(path)

    assert read.state_key == "state_dict"
    assert read.sha256 == sha256(path)
    assert {name: tensor.tolist() for name, tensor in read.state.items()} == {
        "a.weight": [[0, 1, 2], [3, 4, 5]],
        "tied.weight": [[0, 1, 2], [3, 4, 5]],
        "turned.weight": [[0, 3], [1, 4], [2, 5]],
        "part.weight": [3, 4, 5],
        "half.weight": [1, 1],
        "bn.num_batches_tracked": 4,
    }
    assert read.state["a.weight"].data_ptr() == read.state["tied.weight"].data_ptr()
    assert read.state["half.weight"].dtype == torch.bfloat16
    assert read.state["bn.num_batches_tracked"].dtype == torch.int64


def test_bare_state_in_the_legacy_format(tmp_path: Path) -> None:
    state = nn.BatchNorm1d(4).state_dict()
    path = tmp_path / "model.th"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    read = read_checkpoint(path)
    assert read.state_key is None
    assert {name: tensor.tolist() for name, tensor in read.state.items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }


def test_published_checkpoints_are_read(shared: Path) -> None:
    """One of each container: a zip with a nested state, a legacy pickle."""
    files = shared / "checkpoints/files"
    assert len(read_checkpoint(files / "wrn16-1-badnets-centre.pth.tar").state) == 82
    assert read_checkpoint(files / "resnet20-cifar10-clean.th").state_key == "state_dict"


def test_safetensors_is_recognised_by_content_and_can_be_replaced_after_reading(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    save_file({"net.a": torch.tensor([1.0, 2.0]), "other": torch.zeros(1)}, path)
    assert read_checkpoint(path, state_key="net").state["a"].tolist() == [1, 2]
    read = read_checkpoint(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert read.state["net.a"].tolist() == [1, 2]


def test_usual_names_come_before_others(tmp_path: Path) -> None:
    states = {
        "": state_of(1),
        "wrapped.ema": state_of(9),
        "wrapped.net": state_of(8),
        "projector": state_of(9),
    }
    assert choose_state(tmp_path, states)[0] == "wrapped.net"


def test_the_only_large_state_is_taken_whatever_its_name(tmp_path: Path) -> None:
    assert choose_state(tmp_path, {"": state_of(2), "classifier_v2": state_of(40)})[0] == "classifier_v2"
    # A usual name on something tiny does not hide the network beside it.
    assert choose_state(tmp_path, {"params": state_of(1), "backbone": state_of(40)})[0] == "backbone"


def test_two_states_are_ambiguous_until_one_is_named(tmp_path: Path) -> None:
    states = {"netC": state_of(30), "netG": state_of(40)}
    with pytest.raises(CheckpointError, match=r"netG \(40 tensors\), netC \(30 tensors\).*--state-key"):
        choose_state(tmp_path, states)
    assert choose_state(tmp_path, states, "netC") == ("netC", states["netC"])


def test_state_key_may_go_on_into_the_names(tmp_path: Path) -> None:
    states = {"state_dict": {"model.a": torch.ones(1), "loss.b": torch.ones(1)}}
    assert set(choose_state(tmp_path, states, "state_dict.model")[1]) == {"a"}
    with pytest.raises(
        CheckpointError, match=r"nothing at --state-key ema; it holds state_dict \(2 tensors\)"
    ):
        choose_state(tmp_path, states, "ema")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"fine": torch.ones(2), "broken": torch.tensor([1.0, value])}, path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor broken has 1 of 2 values"):
        read_checkpoint(path)


def write_truncated_zip(path: Path) -> None:
    torch.save(state_of(20), path)
    path.write_bytes(path.read_bytes()[:-400])


def write_truncated_legacy(path: Path) -> None:
    torch.save({"w": torch.ones(4000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-4000])


def write_truncated_safetensors(path: Path) -> None:
    save_file({"w": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-10])


def write_random(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(5000))


UNUSABLE = {
    "empty.pth": (lambda path: path.write_bytes(b""), "is empty"),
    "folder.pth": (Path.mkdir, "is a folder"),
    "missing.pth": (lambda path: None, "no such file"),
    "picture.pth": (
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)),
        "neither safetensors nor",
    ),
    "notes.pt": (lambda path: path.write_text("checkpoint of\nMonday\nwas good"), "neither safetensors nor"),
    "random.ckpt": (write_random, "neither safetensors nor"),
    "zeros.bin": (lambda path: path.write_bytes(bytes(5000)), "neither safetensors nor"),
    "cut.pt": (write_truncated_zip, "damaged"),
    "cut.th": (write_truncated_legacy, "damaged"),
    "cut.safetensors": (write_truncated_safetensors, "no valid safetensors"),
    "numbers.pt": (lambda path: torch.save({"epoch": 3}, path), "no named tensors"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    write, reason = UNUSABLE[name]
    path = tmp_path / name
    write(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_sparse_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(2), "b": torch.eye(2).to_sparse()}, path)
    with pytest.raises(CheckpointError, match=r"tensor b has layout torch.sparse_coo"):
        read_checkpoint(path)
