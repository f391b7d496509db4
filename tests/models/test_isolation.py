"""Files that want to run code, or to exhaust the machine, are stopped in the reading process."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from secateur.errors import UnsafeCheckpointError
from secateur.models.isolation import ReadLimits, read_isolated


class Calls:
    """Pickles as a call that happens when it is loaded."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def system_call(sentinel: Path) -> Calls:
    return Calls(os.system, f"touch {sentinel}")


def evaluation(sentinel: Path) -> Calls:
    return Calls(eval, f"open({str(sentinel)!r}, 'w').close()")


def as_pickle(payload: object, path: Path, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps({"state_dict": payload}, protocol=protocol))


def as_old_pickle(payload: object, path: Path) -> None:
    as_pickle(payload, path, protocol=0)


def as_new_pickle(payload: object, path: Path) -> None:
    as_pickle(payload, path, protocol=4)


def as_zip(payload: object, path: Path) -> None:
    """A real torch.save file whose data.pkl is replaced."""
    honest = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, honest)
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = (
                pickle.dumps({"state_dict": payload}, protocol=2)
                if name.endswith("data.pkl")
                else source.read(name)
            )
            target.writestr(name, data)


def as_legacy_tar(payload: object, path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            data = pickle.dumps(payload if name == "storages" else {}, protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("payload", [system_call, evaluation])
def test_payloads_run_when_they_are_unpickled_carelessly(
    tmp_path: Path, payload: Callable[[Path], Calls]
) -> None:
    """The control: without it the tests below could pass with payloads that do nothing."""
    sentinel = tmp_path / "ran"
    pickle.loads(pickle.dumps(payload(sentinel), protocol=2))
    assert sentinel.exists()


@pytest.mark.parametrize("write", [as_pickle, as_old_pickle, as_new_pickle, as_zip, as_legacy_tar])
@pytest.mark.parametrize(
    ("payload", "imported"), [(system_call, rf"{os.name}\.system"), (evaluation, r"builtin\w*\.eval")]
)
def test_code_in_a_checkpoint_does_not_run(
    tmp_path: Path, write: Callable[[object, Path], None], payload: Callable[[Path], Calls], imported: str
) -> None:
    sentinel = tmp_path / "ran"
    path = tmp_path / "model.pth"
    write(payload(sentinel), path)
    with pytest.raises(UnsafeCheckpointError, match=rf"model\.pth: refused, .* import \w*{imported}"):
        read_isolated(path)
    assert not sentinel.exists()


def test_torch_s_own_functions_are_not_called_either(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    as_zip(Calls(torch.hub.load_state_dict_from_url, "file:///etc/hostname"), path)
    with pytest.raises(UnsafeCheckpointError, match=r"import torch\.hub\.load_state_dict_from_url"):
        read_isolated(path)


def test_raw_tensor_data_is_not_taken_for_imports(tmp_path: Path) -> None:
    """Values whose bytes spell a pickle instruction that imports os.system."""
    path = tmp_path / "model.pth"
    text = b"\x80\x02cos\nsystem\n." * 8
    torch.save(
        {"weight": torch.frombuffer(bytearray(text), dtype=torch.uint8)},
        path,
        _use_new_zipfile_serialization=False,
    )
    assert bytes(read_isolated(path).tensors["weight",].tolist()) == text


def test_whole_pickled_networks_are_refused_by_their_class(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(Calls, path)
    with pytest.raises(UnsafeCheckpointError, match=r"test_isolation\.Calls"):
        read_isolated(path)


def test_memory_is_limited(tmp_path: Path) -> None:
    """A file of a few hundred bytes that claims a tensor of 16 GiB."""
    path = tmp_path / "bomb.pth"
    torch.save({"weight": torch.ones(7)}, path, _use_new_zipfile_serialization=False)
    count, claim = b"K\x07N", b"\x8a\x05" + struct.pack("<q", 1 << 32)[:5] + b"N"
    claimed = path.read_bytes().replace(count, claim)
    assert claimed != path.read_bytes()
    path.write_bytes(claimed)
    with pytest.raises(UnsafeCheckpointError, match=r"bomb\.pth: reading it takes more memory"):
        read_isolated(path)


def test_time_is_limited(tmp_path: Path) -> None:
    """A dict whose key is a tuple nested so that hashing it takes 2**64 steps."""
    path = tmp_path / "slow.pth"
    doubled = b")" + b"q\x00h\x00\x86" * 64
    as_zip(None, path)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in members.items():
            target.writestr(name, b"\x80\x02}" + doubled + b"K\x01s." if name.endswith("data.pkl") else data)
    limits = ReadLimits(memory_bytes=1 << 29, file_bytes=1 << 20, seconds=4)
    with pytest.raises(UnsafeCheckpointError, match=r"slow\.pth: reading it takes more time"):
        read_isolated(path, limits)


def test_output_is_limited(tmp_path: Path) -> None:
    """One stored number that claims to be a tensor of 64 MB."""
    path = tmp_path / "wide.pth"
    torch.save({"weight": torch.ones(1).expand(1 << 24)}, path)
    limits = ReadLimits(memory_bytes=1 << 30, file_bytes=1 << 20, seconds=60)
    with pytest.raises(UnsafeCheckpointError, match=r"wide\.pth: reading it takes more space"):
        read_isolated(path, limits)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        ReadLimits(memory_bytes=0, file_bytes=1, seconds=1)
