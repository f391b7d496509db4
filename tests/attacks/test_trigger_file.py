"""A trigger file decides on no memory and no image shape that its tensors do not bear out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.attacks import create, read_any_trigger, write_any_trigger
from secateur.errors import TriggerError
from secateur.evaluation.passes import stamped
from secateur.models import write_weights

SMALL = {"grid": torch.zeros(8, 8, 2)}


def stored(path: Path, recipe: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> Path:
    write_weights(path, SMALL if tensors is None else tensors, {"trigger": json.dumps(recipe)})
    return path


@pytest.mark.parametrize(
    "recipe",
    [
        {"attack": "wanet", "shape": [3, 4096, 4096], "hyperparameters": {}},
        {"attack": "refool", "shape": [3, 4096, 4096], "hyperparameters": {"reflections": 100000}},
        {"attack": "ssba", "shape": [3, 8, 8], "hyperparameters": {"bits": 10**9}},
        {"attack": "wanet", "shape": [float("inf"), 1, 1], "hyperparameters": {}},
        {"attack": "wanet", "shape": [3, 8], "hyperparameters": {}},
        {"attack": "wanet", "shape": [3, 8, 8], "hyperparameters": {"points": "x"}},
        {"attack": "wanet", "shape": [3, 8, 8], "hyperparameters": 3},
        {"attack": "badnets", "shape": [3, 8, 8], "hyperparameters": {}},
        {"attack": "nothing", "shape": [3, 8, 8], "hyperparameters": {}},
        {"attack": ["wanet"], "shape": [3, 8, 8], "hyperparameters": {}},
        {},
        [],
    ],
)
def test_what_the_tensors_do_not_bear_out_is_refused(recipe: Any, tmp_path: Path) -> None:
    path = stored(tmp_path / "trigger.safetensors", recipe)
    with pytest.raises(TriggerError) as raised:
        read_any_trigger(path)
    assert str(path) in str(raised.value)


def test_a_learned_trigger_is_for_images_of_its_shape(tmp_path: Path) -> None:
    attack = create("wanet")
    path = tmp_path / "trigger.safetensors"
    write_any_trigger(path, "wanet", attack, attack.blank((3, 8, 8)), (3, 8, 8))
    trigger = read_any_trigger(path)
    assert stamped(trigger, torch.rand(2, 3, 8, 8)).shape == (2, 3, 8, 8)
    for shape in ((2, 3, 16, 16), (2, 1, 8, 8)):
        with pytest.raises(TriggerError, match="for images of shape"):
            stamped(trigger, torch.rand(shape))
