"""What each form of trigger does to images, by hand, and additive triggers found."""

import torch

from planted import CLEAN, CONVENTION, TARGET, Planted
from secateur.expose import Inversion
from secateur.expose.forms import FORMS

IMAGES = torch.tensor([[0.25, 0.5], [0.75, 1.0]]).reshape(1, 1, 1, 2, 2)


def test_a_patch_covers_by_its_mask() -> None:
    form = FORMS["patch"]
    opened = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]], [[0.2, 0.9], [0.4, 0.4]]]])
    images, sizes = form.stamped(opened, IMAGES)
    assert torch.allclose(images.flatten(), torch.tensor([0.2, 0.7, 0.75, 1.0]))
    assert sizes.tolist() == [1.5]
    trigger, size = form.trigger(opened[0])
    assert size == 1.5
    assert torch.allclose(trigger.stamp(IMAGES[0]), images[0])


def test_an_additive_pattern_is_added_and_clipped() -> None:
    form = FORMS["additive"]
    opened = torch.tensor([[[[-0.5, 0.3], [0.0, 0.4]]]])
    images, sizes = form.stamped(opened, IMAGES)
    assert torch.allclose(images.flatten(), torch.tensor([0.0, 0.8, 0.75, 1.0]))
    assert torch.allclose(sizes, torch.tensor([0.5**0.5]))
    trigger, size = form.trigger(opened[0])
    assert abs(size - 0.5**0.5) < 1e-6
    assert torch.allclose(trigger.stamp(IMAGES[0]), images[0])


def test_the_least_additive_pattern_lights_the_planted_pixel() -> None:
    inversion = Inversion(form="additive", rate=0.05, weight=0.05, steps=100)
    found = inversion(
        Planted().eval(),
        CLEAN.learn,
        CLEAN.choose,
        CONVENTION,
        generator=torch.Generator().manual_seed(0),
        labels=[TARGET, 0],
    )
    planted, other = found
    assert planted.converged
    assert planted.trigger.add.abs().argmax() == 7
    assert planted.norm < 0.5 * other.norm
