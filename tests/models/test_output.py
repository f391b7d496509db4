"""Logits come out of networks that end in a softmax, and the network is as before afterwards."""

import pytest
import torch
from torch import nn

from secateur.models import logits

EXAMPLE = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)) * 30


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).softmax(1)


def test_a_softmax_module_at_the_end_is_bypassed() -> None:
    linear = nn.Linear(3, 4)
    for last in (nn.Softmax(dim=1), nn.LogSoftmax(dim=1)):
        network = nn.Sequential(linear, last)
        before = network(EXAMPLE)
        with logits(network, EXAMPLE):
            assert torch.equal(network(EXAMPLE), linear(EXAMPLE))
        assert torch.equal(network(EXAMPLE), before)


def test_a_softmax_elsewhere_stays() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=1), nn.Linear(4, 4))
    before = network(EXAMPLE)
    with logits(network, EXAMPLE):
        assert torch.equal(network(EXAMPLE), before)


def test_probabilities_become_their_logarithm() -> None:
    network = Functional()
    with logits(network, EXAMPLE):
        answer = network(EXAMPLE)
    assert torch.isfinite(answer).all()
    assert torch.allclose(answer.softmax(1), network(EXAMPLE), atol=1e-6)


def test_nothing_remains_after_an_exception() -> None:
    for network in (Functional(), nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=1))):
        with pytest.raises(RuntimeError), logits(network, EXAMPLE):
            raise RuntimeError
        assert not any(module._forward_hooks for module in network.modules())
