"""The dynamic attack draws sparse triggers that differ between images; covers carry another image's."""

import pytest
import torch

import tiny
from secateur.attacks import create
from secateur.attacks.dynamic import sameness

DATA = tiny.images(64, 6)
IMAGES, LABELS = DATA.images, DATA.labels


def test_masks_reach_their_density() -> None:
    attack = create("dynamic", density=0.1, steps=150)
    trigger = attack.trigger(IMAGES, LABELS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        masks = trigger.masks(IMAGES)
    assert masks.mean().item() == pytest.approx(0.1, abs=0.05)
    assert (masks.flatten(1).amax(1) > 0.2).all()
    assert masks.std(0).mean() > 0.01


def test_covers_carry_the_trigger_of_the_image_before() -> None:
    attack = create("dynamic", steps=1)
    trigger = attack.trigger(IMAGES, LABELS, torch.Generator().manual_seed(0))
    some = IMAGES[:3]
    with torch.no_grad():
        covers = attack.stamp_covers(trigger, some, LABELS[:3], torch.Generator())
        mask, pattern = trigger.masks(some[:1]), trigger.patterns(some[:1])
        alone = attack.stamp_covers(trigger, some[:1], LABELS[:1], torch.Generator())
    assert torch.allclose(covers[1], (some[1] + mask * (pattern - some[1]))[0], atol=1e-5)
    assert torch.equal(alone, some[:1])


def test_the_diversity_loss_by_hand() -> None:
    zeros, ones = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert sameness(zeros, ones, zeros, 0.5 * ones).item() == pytest.approx(2, rel=0.01)
    assert sameness(zeros, ones, ones, ones) > 100


def test_the_generator_learns_and_the_mask_does_not() -> None:
    attack = create("dynamic", density=0.3, steps=50)
    trigger = attack.trigger(IMAGES, LABELS, torch.Generator().manual_seed(0))
    network = tiny.backdoored()
    others = IMAGES[LABELS != 0]

    def success() -> float:
        with torch.no_grad():
            answers = network(tiny.CONVENTION.normalise(trigger.stamp(others)))
        return answers.softmax(1)[:, 0].mean().item()

    mask = [weight.clone() for weight in trigger.mask.parameters()]
    control, before = attack.control(trigger, network, tiny.CONVENTION, tiny.CLASSES), success()
    for _ in range(30):
        control.before(IMAGES, LABELS)
    assert success() > before + 0.1
    assert all(torch.equal(old, new) for old, new in zip(mask, trigger.mask.parameters(), strict=True))
