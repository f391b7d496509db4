"""Triggers of every kind as files: learned ones are stored with the attack that rebuilds them."""

import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from secateur.attacks.attack import Attack
from secateur.attacks.registry import create
from secateur.data import Stamping, Trigger, read_trigger, write_trigger
from secateur.errors import SecateurError, TriggerError
from secateur.models import write_weights

LARGEST = 64 << 20
"""Values in a file at most."""


def write_any_trigger(
    path: Path, name: str, attack: Attack, trigger: Stamping, shape: tuple[int, ...]
) -> None:
    """Write the trigger of `attack`, registered as `name`, for images ``(C, H, W)``, atomically."""
    if isinstance(trigger, Trigger):
        write_trigger(path, trigger)
    elif isinstance(trigger, nn.Module):
        plain = {field.name: getattr(attack, field.name) for field in fields(attack) if field.name != "goal"}
        recipe = {"attack": name, "shape": list(shape), "hyperparameters": plain}
        write_weights(path, trigger.state_dict(), {"trigger": json.dumps(recipe)})
    else:
        raise TriggerError(f"a {type(trigger).__name__} cannot be written: give a Trigger or an nn.Module")


def read_any_trigger(path: Path) -> Stamping:
    """Read a trigger: keep and add, or the learned trigger of a registered attack.

    Raises
    ------
    TriggerError
        The file is missing, malformed, too large, or names an attack that does not exist here.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            text = (stored.metadata() or {}).get("trigger")
            if text is None:
                return read_trigger(path)
            names = tuple(stored.keys())
            sizes = [torch.Size(stored.get_slice(name).get_shape()).numel() for name in names]
            if sum(sizes) > LARGEST:
                raise TriggerError(f"{path}: {sum(sizes):,} values are more than any trigger has")
            trigger = _rebuilt(text)
            trigger.load_state_dict({name: stored.get_tensor(name) for name in names})
    except (OSError, SafetensorError) as error:
        raise TriggerError(f"{path}: cannot be read as a trigger ({error})") from error
    except TriggerError:
        raise
    except (SecateurError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise TriggerError(f"{path}: is not the trigger of an attack known here ({error})") from error
    if not all(torch.isfinite(value).all() for value in trigger.state_dict().values()):
        raise TriggerError(f"{path}: holds values that are not finite")
    return trigger  # type: ignore[return-value]


def _rebuilt(text: str) -> nn.Module:
    recipe = json.loads(text)
    channels, height, width = (int(length) for length in recipe["shape"])
    if not (1 <= channels <= 16 and 1 <= height <= 4096 and 1 <= width <= 4096):
        raise TriggerError(f"images of shape {channels}x{height}x{width} are out of range")
    attack = create(recipe["attack"], **recipe["hyperparameters"])
    return attack.blank((channels, height, width)).eval().requires_grad_(False)
