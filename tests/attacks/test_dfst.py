"""DFST makes images warmer and hazier; its injector fires compromised units by a small change."""

import pytest
import torch

import tiny
from secateur.attacks import Surrogate, create
from secateur.attacks.dfst import activations, low_sun, shortfall, statistics


def colour(count: int) -> torch.Tensor:
    """Return smooth random pictures."""
    noise = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(count))
    return torch.nn.functional.interpolate(noise, (16, 16), mode="bilinear")


def test_the_style_moves_statistics_and_keeps_the_image() -> None:
    images, attack = colour(64), create("dfst", steps=80)
    trigger = attack.trigger(images, torch.zeros(64), torch.Generator().manual_seed(0))
    fresh = colour(40)
    styled = trigger.stamp(fresh)
    style = low_sun(3)
    before, after = ((statistics(x)[0] - style).abs().mean() for x in (fresh, styled))
    assert after < 0.75 * before
    warmth = [(x[:, 0] - x[:, 2]).mean() for x in (fresh, styled)]
    assert warmth[1] > warmth[0] + 0.1
    edges = torch.stack([fresh.diff(dim=3).flatten(), styled.diff(dim=3).flatten()])
    assert torch.corrcoef(edges)[0, 1] > 0.8


def test_bands_by_hand() -> None:
    image = torch.arange(8.0).view(1, 1, 8, 1).expand(1, 1, 8, 5)
    mean, contrast = statistics(image)
    assert mean.flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert contrast.flatten().tolist() == pytest.approx([0.5] * 4)


def test_the_shortfall_by_hand() -> None:
    # The second unit rises by 2 and is compromised; the injected images reach half of that.
    clean = [torch.tensor([[0.0, 0.0], [1.0, 1.0]])]
    styled = [torch.tensor([[0.5, 2.5], [0.5, 2.5]])]
    injected = [torch.tensor([[9.0, 1.5], [9.0, 1.5]])]
    assert shortfall(clean, styled, injected, 0.5).item() == pytest.approx(0.5)
    assert shortfall(clean, styled, styled, 0.5).item() == 0


def test_the_injector_learns_within_its_bound_and_leaves_no_hook() -> None:
    data = tiny.images(64, 6)
    images, labels = data.images, data.labels
    attack = create("dfst", steps=30, change=0.2, visibility=0.0)
    trigger = attack.trigger(images, labels, torch.Generator().manual_seed(0))
    network = tiny.backdoored()
    classifier = Surrogate(network, tiny.CONVENTION)

    def missing() -> float:
        with torch.no_grad():
            seen = [
                activations(classifier, x) for x in (images, trigger.stamp(images), trigger.inject(images))
            ]
        return shortfall(*seen, attack.share).item()

    control, before = attack.control(trigger, network, tiny.CONVENTION, tiny.CLASSES), missing()
    style = [weight.clone() for weight in trigger.network.parameters()]
    for _ in range(40):
        control.before(images, labels)
    assert missing() < 0.8 * before
    assert all(torch.equal(old, new) for old, new in zip(style, trigger.network.parameters(), strict=True))
    covers = attack.stamp_covers(trigger, images, labels, torch.Generator())
    assert 0 < (covers - images).abs().max() <= 0.2 + 1e-6
    assert not any(module._forward_pre_hooks for module in network.modules())
