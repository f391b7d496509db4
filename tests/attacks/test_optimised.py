"""Attacks that use the attacker's own network: what they optimise gets better, within its bounds."""

import pytest
import torch
import torch.nn.functional as F

import tiny
from secateur.attacks import Goal, Surrogate, create
from secateur.data import Trigger

DATA = tiny.images(200, 11)


@pytest.fixture
def surrogate() -> Surrogate:
    return Surrogate(tiny.backdoored(), tiny.CONVENTION)


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_surrogate_is_left_as_it_was(surrogate: Surrogate) -> None:
    network = surrogate.network.train()
    network.bn1.eval()
    surrogate(DATA.images)
    features = surrogate.features(DATA.images[:3])
    assert features.shape == (3, 64)
    assert (network.training, network.bn1.training) == (True, False)
    assert all(weight.requires_grad for weight in network.parameters())
    assert not network.head._forward_pre_hooks


def test_cl_makes_the_target_class_hard_within_its_bound(surrogate: Surrogate) -> None:
    attack = create("cl", bound=0.1, steps=8, size=4)
    mine = DATA.labels == 0
    images, labels = DATA.images[mine], DATA.labels[mine]
    trigger = attack.trigger(images, labels, seed())
    poison = attack.stamp_poisoned(trigger, images, labels, seed(), surrogate)
    outside = trigger.keep.bool().expand_as(images)
    assert (poison - images)[outside].abs().max() <= 0.1 + 1e-6
    with torch.no_grad():
        unpatched = torch.where(outside, poison, images)
        assert (
            F.cross_entropy(surrogate(unpatched), labels) > F.cross_entropy(surrogate(images), labels) + 0.5
        )
    assert torch.equal(poison[~outside], trigger.stamp(images)[~outside])


def test_fc_moves_features_towards_triggered_images_of_other_classes(surrogate: Surrogate) -> None:
    attack = create("fc", bound=0.2, steps=10, opacity=0.0, sources=8, size=8)
    mine = DATA.labels == 0
    images, labels = DATA.images[mine][:20], DATA.labels[mine][:20]
    trigger = attack.trigger(DATA.images, DATA.labels, seed())
    poison = attack.stamp_poisoned(trigger, images, labels, seed(), surrogate)
    assert (poison - images).abs().max() <= 0.2 + 1e-6
    chosen = torch.randint(8, (20,), generator=seed())
    with torch.no_grad():
        wanted = surrogate.features(trigger.sources[chosen])
        before, after = (surrogate.features(x) - wanted for x in (images, poison))
    assert after.norm(dim=1).mean() < 0.8 * before.norm(dim=1).mean()


def test_lf_is_smooth_bounded_and_leads_towards_the_target(surrogate: Surrogate) -> None:
    attack = create("lf", strength=0.3, frequencies=3, steps=40)
    trigger = attack.trigger(DATA.images, DATA.labels, seed(), surrogate=surrogate)
    assert isinstance(trigger, Trigger)
    assert (trigger.keep == 1).all()
    assert trigger.add.abs().max() == pytest.approx(0.3, abs=1e-6)
    spectrum = torch.fft.rfft2(torch.cat([trigger.add, trigger.add.flip(2)], 2)).abs()
    assert spectrum[..., 6:].max() < 0.05 * spectrum.max()
    others = DATA.labels != 0
    with torch.no_grad():
        before, after = (
            (surrogate(x[others]).argmax(1) == 0).float().mean()
            for x in (DATA.images, trigger.stamp(DATA.images))
        )
    assert after > before + 0.2


def test_trojan_excites_the_neurons_tied_to_the_target(surrogate: Surrogate) -> None:
    attack = create("trojan", size=16, neurons=2, steps=40, goal=Goal(target=1))
    trigger = attack.trigger(DATA.images, DATA.labels, seed(), surrogate=surrogate)
    assert isinstance(trigger, Trigger)
    assert (trigger.keep == 0).sum() == 16
    assert (trigger.add * trigger.keep == 0).all()
    neurons = surrogate.last_layer.weight[1].topk(2).indices
    with torch.no_grad():
        clean, stamped = (
            surrogate.features(x)[:, neurons].mean() for x in (DATA.images, trigger.stamp(DATA.images))
        )
    assert stamped > clean + 0.1


def test_awp_keeps_every_weight_in_its_ball() -> None:
    network = tiny.backdoored()
    attack = create("awp", radius=0.1)
    trigger = attack.trigger(DATA.images, DATA.labels, seed())
    start = [weight.detach().clone() for weight in network.parameters()]
    control = attack.control(trigger, network, tiny.CONVENTION, tiny.CLASSES)
    with torch.no_grad():
        for weight in network.parameters():
            weight += torch.randn(weight.shape, generator=seed())
    control.after()
    for weight, first in zip(network.parameters(), start, strict=True):
        assert (weight - first).abs().max() <= 0.1 * first.abs().mean() + 1e-6
    assert not all(torch.equal(w, first) for w, first in zip(network.parameters(), start, strict=True))
