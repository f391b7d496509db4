"""A file that somebody else made becomes named tensors, without running anything in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from secateur.errors import CheckpointError
from secateur.files import sha256
from secateur.models.isolation import RawTensors, read_isolated

USUAL_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
)
CLEAR_LEAD = 4
WRAPPERS = ("module.", "_orig_mod.")
SHOWN = 8


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and where they came from.

    Attributes
    ----------
    state : dict of str to Tensor
        On the CPU, with the element type they are stored in; floating-point values are finite.
        The prefixes that parallel and compiled modules add are removed.
    state_key : str or None
        Dotted path under which the state was found; None when it is the file itself.
    path : Path
        The file.
    sha256 : str
        Hexadecimal digest of the file's bytes.
    """

    state: dict[str, Tensor]
    state_key: str | None
    path: Path
    sha256: str


def read_checkpoint(path: Path, *, state_key: str | None = None) -> Checkpoint:
    """Read the weights in a safetensors or PyTorch file.

    Safetensors hold no code and are read here.  Everything else is opened only by a child process
    with limits on memory and time, by torch's restricted unpickler, and comes back as safetensors.

    Parameters
    ----------
    path : Path
        ``.safetensors``, or what ``torch.save`` wrote, whatever its suffix.
    state_key : str, optional
        Dotted path of the state dict, such as ``state_dict`` or ``checkpoint.ema``; it may go on
        with a prefix of the tensors' names (``state_dict.backbone``).  By default the largest state
        is taken, those under usual names first.

    Returns
    -------
    Checkpoint

    Raises
    ------
    UnsafeCheckpointError
        The file would have to import something, or exceeds the limits of the reading process.
    CheckpointError
        The file is missing, damaged, holds no tensors, several states that could be meant, no state
        at `state_key`, or weights that are not finite.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give the checkpoint file in it")
    try:
        if not path.stat().st_size:
            raise CheckpointError(f"{path}: is empty; was it downloaded completely?")
        raw = _read_safetensors(path) if _looks_like_safetensors(path) else read_isolated(path)
        digest = sha256(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    states = _states(raw)
    if not states:
        raise CheckpointError(f"{path}: holds no named tensors, so there are no weights in it")
    key, state = choose_state(path, states, state_key)
    _check_values(path, key, state, raw)
    return Checkpoint(_without_wrappers(path, state), key or None, path, digest)


def _looks_like_safetensors(path: Path) -> bool:
    if path.suffix.lower() == ".safetensors":
        return True
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> RawTensors:
    try:
        # Copied, because the file stays mapped otherwise and may be replaced while it is in use.
        return RawTensors({(name,): tensor.clone() for name, tensor in load_file(path).items()}, {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: is no valid safetensors file ({error}); was it downloaded completely?"
        ) from None


def _states(raw: RawTensors) -> dict[str, dict[str, Tensor]]:
    """Group tensors by the dict that holds them; keys are dotted paths, "" for the file itself."""
    states: dict[str, dict[str, Tensor]] = {}
    for where, tensor in raw.tensors.items():
        if where:
            states.setdefault(".".join(where[:-1]), {})[where[-1]] = tensor
    return states


def choose_state(
    path: Path, states: Mapping[str, dict[str, Tensor]], state_key: str | None = None
) -> tuple[str, dict[str, Tensor]]:
    """Pick the state dict that holds the weights.

    Parameters
    ----------
    path : Path
        Named in messages.
    states : mapping of str to dict
        States by dotted path; "" is the file itself.
    state_key : str, optional
        The user's choice.

    Returns
    -------
    tuple of str and dict
        Its dotted path and the state: the one under the first of the usual names, unless another
        is several times larger; else the largest, if it clearly is.

    Raises
    ------
    CheckpointError
        Nothing is at `state_key`, or several states could be meant.
    """
    if state_key is not None:
        return state_key, _at(path, states, state_key)
    for name in USUAL_KEYS:
        named = {key: state for key, state in states.items() if key.rsplit(".", 1)[-1] == name}
        if named:
            key = max(named, key=lambda candidate: len(named[candidate]))
            if CLEAR_LEAD * len(named[key]) > max(map(len, states.values())):
                return key, named[key]
    first, *others = sorted(states, key=lambda candidate: len(states[candidate]), reverse=True)
    if others and len(states[first]) < CLEAR_LEAD * len(states[others[0]]):
        raise CheckpointError(
            f"{path}: holds several states: {_listed(states)}. Say which one with --state-key"
        )
    return first, states[first]


def _at(path: Path, states: Mapping[str, dict[str, Tensor]], state_key: str) -> dict[str, Tensor]:
    if state_key in states:
        return states[state_key]
    full_names = {
        f"{key}.{name}" if key else name: tensor
        for key, state in states.items()
        for name, tensor in state.items()
    }
    prefix = f"{state_key}."
    inner = {
        name.removeprefix(prefix): tensor for name, tensor in full_names.items() if name.startswith(prefix)
    }
    if not inner:
        raise CheckpointError(f"{path}: nothing at --state-key {state_key}; it holds {_listed(states)}")
    return inner


def _listed(states: Mapping[str, dict[str, Tensor]]) -> str:
    ordered = sorted(states, key=lambda key: len(states[key]), reverse=True)
    shown = [f"{key or '(top level)'} ({len(states[key])} tensors)" for key in ordered[:SHOWN]]
    return ", ".join(shown) + (f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else "")


def _check_values(path: Path, key: str, state: Mapping[str, Tensor], raw: RawTensors) -> None:
    for where, why in raw.unreadable.items():
        dotted = ".".join(where)
        if not key or dotted.startswith(f"{key}."):
            raise CheckpointError(f"{path}: tensor {dotted} {why}; only ordinary dense weights can be used")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int(tensor.numel() - torch.isfinite(tensor).sum())
            raise CheckpointError(
                f"{path}: tensor {name} has {bad} of {tensor.numel()} values that are not finite; "
                "the training went wrong or the file is damaged"
            )


def _without_wrappers(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {name: name.replace("_orig_mod.", "") for name in state}
    while all(name.startswith(WRAPPERS) for name in names.values()):
        names = {old: new.split(".", 1)[1] for old, new in names.items()}
    if len(set(names.values())) < len(names):
        raise CheckpointError(f"{path}: two tensors have the same name once wrapper prefixes are removed")
    return {names[name]: tensor for name, tensor in state.items()}
