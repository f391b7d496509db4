"""The shared generator: any image, no batch, no global state."""

import pytest
import torch

from secateur.attacks import Goal
from secateur.attacks._generator import STUDIED, Translator, attacked, initialise, learning


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (33, 31), (2, 3)])
def test_any_size_and_the_batch_does_not_matter(size: tuple[int, int]) -> None:
    network = Translator(2, 5)
    initialise(network, torch.Generator().manual_seed(0))
    images = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(1))
    together = network(images)
    assert together.shape == (3, 5, *size)
    assert torch.allclose(together[1:2], network(images[1:2]), atol=1e-5)


def test_weights_come_from_the_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = Translator(1, 1), Translator(1, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for network in (first, second):
        torch.rand(1)
        initialise(network, torch.Generator().manual_seed(7))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_are_frozen_again_even_after_an_error() -> None:
    network = Translator(1, 1)
    with learning(network):
        assert all(weight.requires_grad for weight in network.parameters())
    with pytest.raises(RuntimeError), learning(network):
        network(torch.zeros(1, 2, 8, 8))
    assert not any(weight.requires_grad for weight in network.parameters())


def test_only_attacked_images_are_studied() -> None:
    labels = torch.arange(4).repeat(100)
    images, own, wanted = attacked(labels.view(-1, 1).float(), labels, Goal(target=2), 4)
    assert len(images) == STUDIED
    assert set(own.tolist()) == {0, 1, 3}
    assert set(wanted.tolist()) == {2}
