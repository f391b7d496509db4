"""Recovering moves masks and nothing else."""

import copy

import pytest
import torch

from secateur.data import example_input
from secateur.repair import Recovering
from secateur.units import discover
from tiny import CONVENTION, backdoored, clean


def test_only_masks_are_learned_and_they_stay_between_zero_and_one() -> None:
    network = backdoored()
    layers = discover(network, example_input(CONVENTION)).layers
    weights = copy.deepcopy(dict(network.named_parameters()))
    path = Recovering(rate=5.0, passes=3, batch_size=40)(
        network, layers, clean().learn, CONVENTION, generator=torch.Generator().manual_seed(0)
    )
    for values in (path.mean, path.last):
        assert values.shape == (28,)
        assert 0 <= values.min() < values.max() <= 1
    assert len(path.losses) == 3 * 4
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_first_step_is_the_gradient_times_the_rates() -> None:
    network = backdoored()
    layers = discover(network, example_input(CONVENTION)).layers
    data = clean().learn
    path = Recovering(rate=0.01, loss_scale=0.5, momentum=0.0, passes=1, batch_size=200)(
        network, layers, data, CONVENTION, generator=torch.Generator().manual_seed(0)
    )
    reference = backdoored().requires_grad_(True)
    reference.bn1.train()
    reference.bn2.train()
    loss = torch.nn.functional.cross_entropy(reference(CONVENTION.normalise(data.images)), data.labels)
    norms = (reference.bn1.weight, reference.bn2.weight)
    gradients = torch.autograd.grad(loss, norms)
    expected = torch.cat([1 - 0.01 * 0.5 * g * w.detach() for g, w in zip(gradients, norms, strict=True)])
    assert torch.allclose(path.last, expected.clamp(0, 1), atol=1e-6)
    assert path.losses[0] == pytest.approx(loss.item(), rel=1e-4)


def test_the_clean_loss_falls() -> None:
    network = backdoored()
    with torch.no_grad():
        network.bn2.weight += 2.0
    layers = discover(network, example_input(CONVENTION)).layers
    path = Recovering(passes=15, batch_size=80)(
        network, layers, clean().learn, CONVENTION, generator=torch.Generator().manual_seed(0)
    )
    assert sum(path.losses[-4:]) < sum(path.losses[:4])
