"""LIRA stays within its bound, learns in stage I and is frozen in stage II."""

import pytest
import torch
import torch.nn.functional as F

import tiny
from secateur.attacks import create
from secateur.errors import MethodError

DATA = tiny.images(64, 6)
IMAGES, LABELS = DATA.images, DATA.labels


def flattened(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def test_no_pixel_changes_by_more_than_the_bound() -> None:
    trigger = create("lira", bound=0.07).trigger(IMAGES, LABELS, torch.Generator().manual_seed(0))
    change = (trigger.stamp(IMAGES) - IMAGES).abs()
    assert 0.03 < change.max() <= 0.07 + 1e-6


def test_the_generator_learns_to_fool_the_classifier_and_stops() -> None:
    attack = create("lira", bound=0.2, steps=40)
    trigger = attack.trigger(IMAGES, LABELS, torch.Generator().manual_seed(0))
    network = tiny.backdoored()
    others = IMAGES[LABELS != 0]
    wanted = torch.zeros(len(others), dtype=torch.int64)

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(network(tiny.CONVENTION.normalise(trigger.stamp(others))), wanted).item()

    control, before = attack.control(trigger, network, tiny.CONVENTION, tiny.CLASSES), loss()
    for _ in range(40):
        control.before(IMAGES, LABELS)
    assert loss() < 0.7 * before
    frozen = flattened(trigger)
    control.before(IMAGES, LABELS)
    assert torch.equal(flattened(trigger), frozen)


def test_a_restart_does_not_begin_stage_one_again() -> None:
    attack = create("lira", steps=2)
    network = tiny.backdoored()
    triggers = [attack.trigger(IMAGES, LABELS, torch.Generator().manual_seed(0)) for _ in range(2)]
    first, second = (attack.control(trigger, network, tiny.CONVENTION, 4) for trigger in triggers)
    for _ in range(2):
        first.before(IMAGES, LABELS)
    for name, part in first.parts().items():
        second.parts()[name].load_state_dict(part.state_dict())
    second.before(IMAGES, LABELS)
    assert torch.equal(flattened(triggers[0]), flattened(triggers[1]))


def test_a_bound_of_nothing_is_refused() -> None:
    with pytest.raises(MethodError, match="bound"):
        create("lira", bound=0)
