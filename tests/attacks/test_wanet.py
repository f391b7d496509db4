"""WaNet moves pixels by little, smoothly, and its covers by another field."""

import torch

from secateur.attacks import create


def test_displacements_are_below_half_a_pixel_on_average_and_smooth() -> None:
    attack = create("wanet")
    blank = attack.blank((3, 32, 32))
    trigger = attack.trigger(torch.zeros(1, 3, 32, 32), torch.zeros(1), torch.Generator().manual_seed(1))
    pixels = (trigger.grid - blank.grid) * 16
    assert 0.05 < pixels.abs().mean() < 0.5
    assert pixels.diff(dim=0).abs().mean() < 0.1


def test_the_identity_field_returns_the_image() -> None:
    images = torch.rand(2, 3, 12, 20)
    assert torch.allclose(create("wanet").blank((3, 12, 20)).stamp(images), images, atol=1e-5)


def test_covers_are_warped_differently_each_time() -> None:
    attack, generator = create("wanet"), torch.Generator().manual_seed(0)
    images, labels = torch.rand(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64)
    trigger = attack.trigger(images, labels, generator)
    covers = attack.stamp_covers(trigger, images, labels, generator)
    assert not torch.allclose(covers, trigger.stamp(images))
    assert not torch.allclose(covers, attack.stamp_covers(trigger, images, labels, generator))
