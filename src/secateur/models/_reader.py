"""Child process that turns an untrusted PyTorch file into safetensors.

Run by path (``python -I _reader.py``), never imported: it knows nothing of secateur, and what goes
wrong in it ends with it.  It takes its orders as JSON on standard input and leaves in the current
folder ``outcome.json`` and, when the file could be read, ``tensors.safetensors``.
"""

import json
import pickletools
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# What torch's restricted unpickler knows outside of torch itself; numpy is left to torch to judge.
HARMLESS_IMPORTS = frozenset(
    {
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "__builtin__.bytearray",
        "__builtin__.complex",
        "__builtin__.set",
        "collections.Counter",
        "collections.OrderedDict",
    }
)
JUDGED_BY_TORCH = ("torch.", "numpy.")
ZIP_START = b"PK\x03\x04"
# Magic number, version, system, content, keys of the storages; what follows in a legacy file is raw data.
PICKLES_IN_FILE = 5
IMPORT_NAME = re.compile(r"[A-Za-z_][\w.]*")
LONGEST_REASON = 160
DEEPEST_NESTING = 16
MOST_ENTRIES = 1_000_000
FORBIDDEN_EVENTS = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system")


class RefusalError(Exception):
    """The file wants to import things; the arguments are their names."""


class UnusableError(Exception):
    """The file is no checkpoint that can be read; the argument says why."""


def pickles_in(path: Path) -> Iterator[IO[bytes]]:
    """Yield the pickle streams of a zip, a tar or a plain pickle, without extracting anything."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == ZIP_START:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                raise UnusableError(
                    "it is a TorchScript archive, which holds code; export its state_dict() instead"
                )
            records = [name for name in names if name.endswith(".pkl")]
            if not records:
                raise UnusableError("it is a zip archive without PyTorch weights in it")
            for name in records:
                with archive.open(name) as record:
                    yield record
    elif any(start) and tarfile.is_tarfile(path):
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                record_or_none = tar.extractfile(member)
                if record_or_none is not None:
                    yield record_or_none
        # Only a tar that asked for nothing gets here: torch cannot read this form without trusting it.
        raise UnusableError(
            "it is a tar archive; only files in PyTorch's own format can be read, unpack it first"
        )
    else:
        with path.open("rb") as stream:
            yield stream


def imports_of(stream: IO[bytes]) -> tuple[set[str], bool]:
    """List what the pickles in `stream` would import; nothing is executed.

    Returns
    -------
    names : set of str
        Dotted names, found up to the first byte that is no pickle instruction.
    complete : bool
        Whether at least one pickle was well formed to its end.
    """
    names: set[str] = set()
    complete = False
    texts: list[str] = []
    memo: dict[int, str] = {}
    with suppress(ValueError, IndexError, EOFError, OSError, zipfile.BadZipFile):
        for _ in range(PICKLES_IN_FILE):
            for opcode, argument, _ in pickletools.genops(stream):
                slot = argument if isinstance(argument, int) else -1
                if opcode.name in ("GLOBAL", "INST"):
                    names.add(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.add(".".join(texts[-2:]))
                elif opcode.name == "MEMOIZE" and texts:
                    memo[len(memo)] = texts[-1]
                elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT") and texts:
                    memo[slot] = texts[-1]
                elif opcode.name in ("BINGET", "LONG_BINGET", "GET") and slot in memo:
                    texts.append(memo[slot])
                elif isinstance(argument, str):
                    texts.append(argument)
            complete = True
            texts.clear()
            memo.clear()
    return {name for name in names if IMPORT_NAME.fullmatch(name)}, complete


def inspect(path: Path) -> None:
    """Refuse what is visibly unsafe or no checkpoint, before torch sees it."""
    with path.open("rb") as raw:
        recognised = raw.read(4).startswith((b"\x80", ZIP_START))
    for stream in pickles_in(path):
        names, complete = imports_of(stream)
        # Stray bytes can look like an import; a text file shall not be called an attack.
        recognised |= complete
        suspects = {
            name for name in names if name not in HARMLESS_IMPORTS and not name.startswith(JUDGED_BY_TORCH)
        }
        if suspects and recognised:
            raise RefusalError(*sorted(suspects))
    if not recognised:
        raise UnusableError("it is neither safetensors nor a file written by torch.save")


def limit_address_space(allowance: int) -> None:
    """Let this process grow by at most `allowance` bytes from here on, where the system can enforce it."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = pages * resource.getpagesize() + allowance
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def lift_address_space() -> None:
    """Undo `limit_address_space`, so that torch itself can be imported."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def limit_time_and_files(seconds: int, file_bytes: int) -> None:
    """Bound processor time and the size of anything written."""
    try:
        import resource
    except ImportError:
        return
    for what, wanted in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, file_bytes)):
        hard = resource.getrlimit(what)[1]
        value = wanted if hard < 0 else min(wanted, hard)
        # A hard limit a little above: reaching the soft one is told apart from being killed.
        resource.setrlimit(what, (value, value + 5 if hard < 0 else hard))


def forbid_processes_and_network() -> None:
    """Make starting a process or opening a connection raise: a second lock behind the unpickler."""

    def deny(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN_EVENTS):
            raise RefusalError(event)

    sys.addaudithook(deny)


def state_entries(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield ``(path, tensor)`` for everything but optimiser state, depth first."""
    import torch

    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if len(path) >= DEEPEST_NESTING:
        return
    if isinstance(value, dict):
        if "param_groups" not in value:
            for key, child in value.items():
                yield from state_entries(child, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from state_entries(child, (*path, str(index)))


def unreadable_because(tensor: "torch.Tensor") -> str | None:
    """Say why a tensor has no plain values, or None."""
    import torch

    if tensor.layout is not torch.strided:
        return f"has layout {tensor.layout}"
    if tensor.is_meta:
        return "has no values (meta device)"
    if tensor.is_quantized or tensor.is_complex():
        return f"is of type {tensor.dtype}"
    return None


def extract(path: Path, allowance: int) -> dict[str, Any]:
    """Read `path` with torch's restricted unpickler and write its tensors; return the outcome."""
    import safetensors.torch
    import torch

    torch.set_num_threads(1)
    limit_address_space(allowance)
    forbid_processes_and_network()
    content = torch.load(path, map_location="cpu", weights_only=True)
    entries: list[tuple[list[str], str]] = []
    unreadable: list[tuple[list[str], str]] = []
    names: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    tensors: dict[str, torch.Tensor] = {}
    for where, tensor in state_entries(content):
        if len(entries) >= MOST_ENTRIES:
            raise UnusableError(f"it holds more than {MOST_ENTRIES} tensors")
        if reason := unreadable_because(tensor):
            unreadable.append((list(where), reason))
            continue
        tensor = tensor.detach()
        storage = tensor.untyped_storage().data_ptr()
        # Tied weights are one tensor under several names: written once, told apart by the entries.
        identity = (storage, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        name = names.setdefault(identity, str(len(names))) if tensor.numel() else f"empty{len(entries)}"
        if name not in tensors:
            private = tensor.is_contiguous() and storage not in storages
            tensors[name] = tensor if private else tensor.clone(memory_format=torch.contiguous_format)
            storages.add(storage)
        entries.append((list(where), name))
    safetensors.torch.save_file(tensors, "tensors.safetensors")
    return {"status": "read", "entries": entries, "unreadable": unreadable}


def brief(error: BaseException) -> str:
    """One short line of an error's message, without torch's advice to trust the file."""
    text = str(error).rsplit("WeightsUnpickler error:", 1)[-1].strip()
    return (text.splitlines() or [type(error).__name__])[0][:LONGEST_REASON] or type(error).__name__


def outcome_of(orders: dict[str, Any]) -> dict[str, Any]:
    """Carry out the orders; every failure becomes an outcome that the parent can tell."""
    path = Path(orders["path"])
    try:
        limit_time_and_files(orders["seconds"], orders["file_bytes"])
        limit_address_space(orders["memory_bytes"])
        inspect(path)
        lift_address_space()
        sys.path.extend(entry for entry in orders["search_path"] if entry not in sys.path)
        return extract(path, orders["memory_bytes"])
    except RefusalError as refusal:
        return {"status": "refused", "imports": list(refusal.args)}
    except UnusableError as unusable:
        return {"status": "unusable", "reason": str(unusable)}
    except MemoryError:
        return {"status": "exceeded", "what": "memory"}
    except Exception as error:
        # Any error here comes from reading a file of which nothing is known; the parent gives it a name.
        message = str(error)
        if found := re.findall(r"GLOBAL ([\w.]+)", message):
            return {"status": "refused", "imports": found[:1]}
        if "allocate memory" in message or "not enough memory" in message or "bad_alloc" in message:
            return {"status": "exceeded", "what": "memory"}
        if "File too large" in message:
            return {"status": "exceeded", "what": "space"}
        return {
            "status": "unusable",
            "reason": f"it is damaged or was not written by torch.save ({brief(error)})",
        }


def main() -> None:
    """Read the orders, do them, leave the outcome in the current folder."""
    outcome = outcome_of(json.load(sys.stdin))
    lift_address_space()
    Path("outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
