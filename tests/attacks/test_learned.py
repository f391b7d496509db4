"""Attacks that learn a generator: what it is asked for, it learns, and every image has its own trigger."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from secateur.attacks import Surrogate, create
from secateur.attacks._painter import Painter, initialise

DATA = tiny.images(200, 12)


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def success(network: torch.nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        answers = network(tiny.CONVENTION.normalise(images)).argmax(1)
    return float((answers[DATA.labels != 0] == 0).float().mean())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 5), (1, 1), (33, 32)])
def test_a_painter_paints_any_size_and_never_mixes_images(height: int, width: int) -> None:
    painter = Painter(2, 3, width=4)
    initialise(painter, seed())
    images = torch.rand(3, 2, height, width, generator=seed())
    painted = painter(images)
    assert painted.shape == (3, 3, height, width)
    assert torch.allclose(painter(images[1:2]), painted[1:2], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("lira", {"bound": 0.5, "rate": 0.01}), ("dynamic", {"density": 0.5, "steps": 20, "rate": 0.01})],
)
def test_the_generator_learns_to_fool_the_network(name: str, settings: dict[str, float]) -> None:
    network = tiny.backdoored()
    attack = create(name, **settings)
    trigger = attack.trigger(DATA.images, DATA.labels, seed())
    before = success(network, trigger.stamp(DATA.images))
    control = attack.control(trigger, network, tiny.CONVENTION, tiny.CLASSES)
    for _ in range(60):
        control.before(DATA.images, DATA.labels)
    assert success(network, trigger.stamp(DATA.images)) > before + 0.3


def test_lira_stays_in_its_bound_and_stops_after_its_steps() -> None:
    network = tiny.backdoored()
    attack = create("lira", bound=0.05, steps=2)
    trigger = attack.trigger(DATA.images, DATA.labels, seed())
    control = attack.control(trigger, network, tiny.CONVENTION, tiny.CLASSES)
    control.before(DATA.images, DATA.labels)
    control.before(DATA.images, DATA.labels)
    stamped = trigger.stamp(DATA.images)
    control.before(DATA.images, DATA.labels)
    assert torch.equal(trigger.stamp(DATA.images), stamped)
    assert (stamped - DATA.images).abs().max() <= 0.05 + 1e-6


def test_dynamic_places_cover_their_share_and_covers_carry_another_images_trigger() -> None:
    attack = create("dynamic", density=0.2, steps=60)
    trigger = attack.trigger(DATA.images, DATA.labels, seed())
    with torch.no_grad():
        assert float(trigger.places(DATA.images).mean()) == pytest.approx(0.2, abs=0.1)
        covers = attack.stamp_covers(trigger, DATA.images[:4], DATA.labels[:4], seed())
        wanted = trigger.stamp_from(DATA.images[1:2], DATA.images[:1])
    assert torch.allclose(covers[1], wanted[0], atol=1e-5)
    assert not torch.allclose(covers, trigger.stamp(DATA.images[:4]))


def test_ssba_hides_a_message_that_a_reader_finds_and_looks_at_the_image() -> None:
    attack = create("ssba", bits=2, bound=0.2, steps=80, penalty=0.0)
    images = torch.rand(200, 1, 8, 8, generator=seed())
    trigger = attack.trigger(images, DATA.labels, seed())
    with torch.no_grad():
        residual = trigger.stamp(images) - images
        other = trigger.hidden(images, -trigger.message.expand(200, -1)) - images
    assert residual.abs().max() <= 0.2 + 1e-6
    # Messages can be told apart by the mean residual, and images do not all have the same one.
    assert (residual.mean(0) - other.mean(0)).norm() > 0.05
    assert residual.std(0).mean() > 1e-3


def test_dfst_brings_light_from_above_and_its_injector_excites_compromised_features() -> None:
    attack = create("dfst", steps=120, neurons=3, rate=0.01)
    trigger = attack.trigger(DATA.images, DATA.labels, seed())
    with torch.no_grad():
        thirds = F.adaptive_avg_pool2d(trigger.stamp(DATA.images), (3, 1)).mean((0, 1, 3))
    assert thirds[0] > thirds[2]
    network = tiny.backdoored()
    victim = Surrogate(network, tiny.CONVENTION)
    control = attack.control(trigger, network, tiny.CONVENTION, tiny.CLASSES)
    with torch.no_grad():
        raised = (victim.features(trigger.stamp(DATA.images)) - victim.features(DATA.images)).mean(0)
        before = victim.features(trigger.injected(DATA.images)).mean(0)
    for _ in range(60):
        control.before(DATA.images, DATA.labels)
    with torch.no_grad():
        after = victim.features(trigger.injected(DATA.images)).mean(0)
    compromised = raised.topk(3).indices
    assert (after - before)[compromised].mean() > 0
    assert (trigger.injected(DATA.images) - DATA.images).abs().max() <= 0.1 + 1e-6
