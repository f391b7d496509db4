"""CL: each pixel goes to the end of its ball that makes the label least likely; patches as published."""

import pytest
import torch
from torch import Tensor, nn

from secateur.attacks import Surrogate, create
from secateur.data import InputConvention

LABELS = torch.zeros(4, dtype=torch.int64)


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def linear() -> tuple[Surrogate, Tensor]:
    """A linear network for class 0 against class 1, and its weights ``(1, 32, 32)``."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 2, bias=False))
    weights = torch.randn(32, 32, generator=seed())
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([weights.flatten(), -weights.flatten()]) / 32)
    return Surrogate(network, InputConvention((32, 32), 1)), weights.unsqueeze(0)


def test_the_perturbation_of_a_linear_network_is_known() -> None:
    surrogate, weights = linear()
    images = torch.rand(4, 1, 32, 32, generator=seed())
    attack = create("cl", bound=0.1, steps=5)
    trigger = attack.trigger(images, LABELS, seed())
    poison = attack.stamp_poisoned(trigger, images, LABELS, seed(), surrogate)
    expected = (images - 0.1 * weights.sign()).clamp(0, 1)
    assert torch.allclose(poison, trigger.stamp(expected), atol=1e-6)


def test_the_patches_are_the_published_ones_and_mirror_each_other() -> None:
    trigger = create("cl").trigger(torch.zeros(1, 3, 32, 32), LABELS, seed())
    left = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 1]])
    for channel in range(3):
        assert torch.equal(trigger.add[channel, :3, :3], left)
        assert torch.equal(trigger.add[channel, -3:, :3], left)
    assert torch.equal(trigger.add, trigger.add.flip(2))
    assert (trigger.keep == 0).sum() == 4 * 9 * 3
    doubled = create("cl").trigger(torch.zeros(1, 1, 64, 64), LABELS, seed())
    assert torch.equal(doubled.add[0, :6, :6], torch.kron(left, torch.ones(2, 2)))


@pytest.mark.parametrize("amplitude", [0.25, 1.0])
def test_training_images_get_the_patch_added_with_its_amplitude(amplitude: float) -> None:
    images = torch.full((4, 1, 32, 32), 0.5)
    attack = create("cl", steps=0, amplitude=amplitude)
    trigger = attack.trigger(images, LABELS, seed())
    poison = attack.stamp_poisoned(trigger, images, LABELS, seed(), linear()[0])
    patched = (trigger.keep == 0).expand_as(images)
    signs = (2 * trigger.add - 1).expand_as(images)
    assert torch.equal(poison[patched], (0.5 + amplitude * signs[patched]).clamp(0, 1))
    assert torch.equal(poison[~patched], images[~patched])
