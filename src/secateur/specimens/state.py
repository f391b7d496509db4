"""The state of an unfinished training as one safetensors file: nothing is unpickled to go on."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.models import write_weights

Part = nn.Module | torch.optim.Optimizer


def write_state(
    path: Path,
    parts: Mapping[str, Part],
    generators: Mapping[str, torch.Generator],
    epoch: int,
    identity: str,
) -> None:
    """Write modules, optimizers and generators atomically, after `epoch` epochs of the run `identity`."""
    tensors: dict[str, Tensor] = {}
    groups: dict[str, object] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            tensors |= {f"{name}/{key}": value for key, value in part.state_dict().items()}
        else:
            state = part.state_dict()
            groups[name] = state["param_groups"]
            for index, values in state["state"].items():
                tensors |= {
                    f"{name}/{index}/{key}": torch.as_tensor(value)
                    for key, value in values.items()
                    if value is not None
                }
    tensors |= {f"generator/{name}": generator.get_state() for name, generator in generators.items()}
    about = {"epoch": epoch, "identity": identity, "groups": groups}
    write_weights(path, tensors, {"training": json.dumps(about)})


def read_state(
    path: Path, parts: Mapping[str, Part], generators: Mapping[str, torch.Generator], identity: str
) -> int:
    """Restore modules, optimizers and generators in place; return how many epochs were done.

    Raises
    ------
    InputError
        The file is damaged or belongs to another run.
    """
    remedy = "remove it to train from the beginning"
    try:
        with safe_open(path, framework="pt") as stored:
            about = json.loads((stored.metadata() or {})["training"])
            tensors = {name: stored.get_tensor(name) for name in tuple(stored.keys())}
        if about["identity"] != identity:
            raise InputError(f"{path}: is the state of another training; {remedy}")
        for name, part in parts.items():
            mine = {
                key.removeprefix(f"{name}/"): value
                for key, value in tensors.items()
                if key.startswith(f"{name}/")
            }
            if isinstance(part, nn.Module):
                part.load_state_dict(mine)
            else:
                state: dict[int, dict[str, Tensor]] = {}
                for key, value in mine.items():
                    index, field = key.split("/")
                    state.setdefault(int(index), {})[field] = value
                part.load_state_dict({"state": state, "param_groups": about["groups"][name]})
        for name, generator in generators.items():
            generator.set_state(tensors[f"generator/{name}"])
        return int(about["epoch"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as the state of a training ({error}); {remedy}") from error
