"""Start the process that opens untrusted files, bound it, and bring back what it read."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from secateur.errors import CheckpointError, UnsafeCheckpointError

READER = Path(__file__).with_name("_reader.py")
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP")
MEGABYTE = 1 << 20
# How a process ends that meets a limit outside of Python's own error handling.
STOPPED_FOR = {
    getattr(signal, name).value: what
    for name, what in (("SIGXCPU", "time"), ("SIGABRT", "memory"), ("SIGKILL", "memory"))
    if hasattr(signal, name)
}


@dataclass(frozen=True)
class ReadLimits:
    """What the reading process may use on top of what importing torch takes.

    Attributes
    ----------
    memory_bytes : int
        Growth of its address space, in bytes.
    file_bytes : int
        Size of the largest file that it may write, in bytes.
    seconds : int
        Processor time, importing torch included; it may take four times as long by the clock.
    """

    memory_bytes: int
    file_bytes: int
    seconds: int

    def __post_init__(self) -> None:
        if min(self.memory_bytes, self.file_bytes, self.seconds) <= 0:
            raise ValueError(f"limits must be positive, not {self}")

    @classmethod
    def for_file(cls, size: int) -> "ReadLimits":
        """Return generous limits for a file of `size` bytes: copies of its tensors fit, a bomb does not."""
        return cls(
            memory_bytes=4 * size + 512 * MEGABYTE,
            file_bytes=2 * size + 64 * MEGABYTE,
            seconds=60 + size // (20 * MEGABYTE),
        )


@dataclass(frozen=True)
class RawTensors:
    """Every tensor of a file with the path of keys that leads to it.

    Attributes
    ----------
    tensors : dict of tuple of str to Tensor
        Tied weights appear under each of their paths as the same tensor.
    unreadable : dict of tuple of str to str
        Paths of tensors without plain values (sparse, quantized, ...), and why.
    """

    tensors: dict[tuple[str, ...], Tensor]
    unreadable: dict[tuple[str, ...], str]


def read_isolated(path: Path, limits: ReadLimits | None = None) -> RawTensors:
    """Read a PyTorch file in a child process that has limits on memory, time and output.

    Parameters
    ----------
    path : Path
        An existing, non-empty file.
    limits : ReadLimits, optional
        By default in proportion to the size of the file.

    Raises
    ------
    UnsafeCheckpointError
        The file wants to import something, or exceeds the limits.
    CheckpointError
        The file is damaged or not a PyTorch file.
    """
    limits = limits or ReadLimits.for_file(path.stat().st_size)
    orders = {
        "path": str(path.resolve()),
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "seconds": limits.seconds,
        "search_path": [entry for entry in sys.path if Path(entry).is_absolute()],
    }
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    # Threads and per-thread heaps would eat the address space that is meant for tensors.
    environment |= {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory(prefix="secateur-") as name:
        folder = Path(name)
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(READER)],
                input=json.dumps(orders),
                text=True,
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=4 * limits.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnsafeCheckpointError(_exceeded(path, "time")) from None
        return _result(path, folder, done.returncode)


def _exceeded(path: Path, what: str) -> str:
    return (
        f"{path}: reading it takes more {what} than a checkpoint of this size can need, so it was stopped; "
        "if you trust its origin, convert it to safetensors where it was made"
    )


def _result(path: Path, folder: Path, return_code: int) -> RawTensors:
    if stopped := STOPPED_FOR.get(-return_code):
        raise UnsafeCheckpointError(_exceeded(path, stopped))
    try:
        outcome = json.loads((folder / "outcome.json").read_text())
        status = outcome["status"]
        if status == "read":
            stored = load_file(folder / "tensors.safetensors")
            values = {name: tensor.clone() for name, tensor in stored.items()}
            return RawTensors(
                {tuple(where): values[tensor_name] for where, tensor_name in outcome["entries"]},
                {tuple(where): why for where, why in outcome["unreadable"]},
            )
    except (OSError, ValueError, KeyError, SafetensorError):
        raise CheckpointError(
            f"{path}: the process that reads checkpoints ended without a result (exit code {return_code}); "
            "the file is probably damaged; if no other can be read either, the installation is"
        ) from None
    if status == "refused":
        names = ", ".join(outcome["imports"])
        raise UnsafeCheckpointError(
            f"{path}: refused, because loading it would import {names}; weights need no such thing. "
            "If you trust its origin, save only the state_dict() again where it was made"
        )
    if status == "exceeded":
        raise UnsafeCheckpointError(_exceeded(path, outcome["what"]))
    raise CheckpointError(
        f"{path}: no weights can be read: {outcome['reason']}; was it downloaded completely?"
    )
