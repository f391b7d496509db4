"""LF: the pattern has no higher frequency than it may, whatever the network asks for."""

import math

import pytest
import torch
from torch import nn

from secateur.attacks import Goal, Surrogate, create
from secateur.data import InputConvention
from secateur.errors import MethodError

IMAGES, LABELS = torch.rand(32, 1, 12, 16, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 2


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def wave(frequency: int) -> torch.Tensor:
    """Return a horizontal cosine ``(12, 16)``."""
    return torch.cos(math.pi / 16 * frequency * (torch.arange(16) + 0.5)).expand(12, 16)


def asking_for(frequency: int) -> Surrogate:
    """A linear network whose class 1 is a horizontal cosine."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12 * 16, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([-wave(frequency).flatten(), wave(frequency).flatten()]))
    return Surrogate(network, InputConvention((12, 16), 1))


def test_a_network_that_asks_for_a_low_frequency_gets_it() -> None:
    attack = create("lf", strength=0.2, frequencies=4, steps=60, goal=Goal(target=1))
    add = attack.trigger(IMAGES, LABELS, seed(), surrogate=asking_for(2)).add[0]
    assert add.abs().max() == pytest.approx(0.2, abs=1e-6)
    assert torch.cosine_similarity(add.flatten(), wave(2).flatten(), dim=0) > 0.7


def test_no_higher_frequency_passes() -> None:
    attack = create("lf", frequencies=4, steps=10, goal=Goal(target=1))
    add = attack.trigger(IMAGES, LABELS, seed(), surrogate=asking_for(7)).add[0]
    for frequency in range(4, 16):
        assert (add * wave(frequency)).sum(1).abs().max() < 1e-5


def test_a_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(MethodError, match="class 2 does not exist"):
        create("lf", goal=Goal(target=2)).trigger(IMAGES, LABELS, seed(), surrogate=asking_for(2))
