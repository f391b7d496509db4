"""Trojan: the square moves to whatever excites the chosen neurons, and to nothing outside it."""

import pytest
import torch
from torch import nn

from secateur.attacks import Goal, Surrogate, create
from secateur.data import InputConvention
from secateur.errors import MethodError

IMAGES, LABELS = torch.full((8, 1, 8, 8), 0.5), torch.arange(8) % 2


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def linear(weights: dict[int, float]) -> Surrogate:
    """A network whose features are two sums: of the bottom right two by two pixels, and of minus them."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        corner = torch.zeros(8, 8)
        corner[6:, 6:] = 1
        network[1].weight.copy_(torch.stack([corner.flatten(), -corner.flatten()]))
        network[2].weight.zero_()
        for neuron, weight in weights.items():
            network[2].weight[1, neuron] = weight
    return Surrogate(network, InputConvention((8, 8), 1))


@pytest.mark.parametrize(("weights", "colour"), [({0: 3.0, 1: 1.0}, 1.0), ({0: 1.0, 1: 3.0}, 0.0)])
def test_the_square_takes_the_colour_that_excites_the_heaviest_neuron(
    weights: dict[int, float], colour: float
) -> None:
    attack = create("trojan", size=8, neurons=1, steps=20, goal=Goal(target=1))
    trigger = attack.trigger(IMAGES, LABELS, seed(), surrogate=linear(weights))
    square = trigger.stamp(IMAGES)[0, 0]
    assert torch.allclose(square[6:, 6:], torch.full((2, 2), colour))
    square[6:, 6:] = 0.5
    assert (square == 0.5).all()


def test_a_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(MethodError, match="class 2 does not exist"):
        create("trojan", goal=Goal(target=2)).trigger(IMAGES, LABELS, seed(), surrogate=linear({0: 1.0}))
