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
            attack, shape = _attack_and_shape(text)
            # What the file says of itself decides on no memory before its tensors were seen to fit.
            with torch.device("meta"):
                expected = attack.blank(shape).state_dict()
            for name, tensor in expected.items():
                if tuple(stored.get_slice(name).get_shape()) != tuple(tensor.shape):
                    raise TriggerError(f"{path}: {name} has another shape than the attack gives it")
            values = sum(tensor.numel() for tensor in expected.values())
            if values > LARGEST:
                raise TriggerError(f"{path}: {values:,} values are more than any trigger has")
            trigger = attack.blank(shape).eval().requires_grad_(False)
            trigger.load_state_dict({name: stored.get_tensor(name) for name in expected})
            trigger.image_shape = shape  # type: ignore[assignment]
    except FileNotFoundError as error:
        raise TriggerError(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise TriggerError(f"{path}: cannot be read as a trigger ({error})") from error
    except TriggerError:
        raise
    except (
        SecateurError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise TriggerError(f"{path}: is not the trigger of an attack known here ({error})") from error
    if not all(torch.isfinite(value).all() for value in trigger.state_dict().values()):
        raise TriggerError(f"{path}: holds values that are not finite")
    return trigger  # type: ignore[return-value]


def _attack_and_shape(text: str) -> tuple[Attack, tuple[int, int, int]]:
    recipe = json.loads(text)
    channels, height, width = (int(length) for length in recipe["shape"])
    if not (1 <= channels <= 16 and 1 <= height <= 4096 and 1 <= width <= 4096):
        raise TriggerError(f"images of shape {channels}x{height}x{width} are out of range")
    return create(recipe["attack"], **recipe["hyperparameters"]), (channels, height, width)
