"""A class is forgotten alone, and a backdoor's trigger outlasts that."""

import copy
from dataclasses import replace

import pytest
import torch

from planted import BACKDOOR, CLASSES, CLEAN, CONVENTION, SIZE, TARGET, Normed, Planted
from secateur.data import LabelledImages, Trigger
from secateur.errors import MethodError
from secateur.expose import Forgetting, Inversion, InvertedTrigger, Outlasting, predict, success_of

NOTHING = Trigger(torch.ones(1, 8, 8), torch.zeros(1, 8, 8))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def share(network: torch.nn.Module, labels: list[int]) -> float:
    """Return the share of images of these classes that are answered right."""
    mine = torch.isin(CLEAN.choose.labels, torch.tensor(labels))
    answers = predict(network, CLEAN.choose.images[mine], CONVENTION).argmax(1)
    return float((answers == CLEAN.choose.labels[mine]).double().mean())


@pytest.mark.parametrize("label", range(CLASSES))
def test_one_class_is_forgotten_and_the_others_are_kept(label):
    network = Normed(strength=0.0).eval()
    before = copy.deepcopy(network.state_dict())
    forgetful, forgot = Forgetting(stride=0.01)(
        network, CLEAN.learn, CONVENTION, label, generator=generator()
    )
    assert forgot
    assert share(forgetful, [label]) <= 0.25
    assert share(forgetful, [other for other in range(CLASSES) if other != label]) > 0.9
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_last_layer_and_the_statistics_stay():
    network = Normed().eval()
    forgetful, _ = Forgetting(stride=0.01)(network, CLEAN.learn, CONVENTION, 0, generator=generator())
    before, after = network.state_dict(), forgetful.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"rows.weight", "norm.weight", "norm.bias", "late.weight", "late.bias"}
    assert not any(weight.requires_grad for weight in forgetful.parameters())


def test_a_step_is_as_long_as_it_may_be():
    network = Normed().eval()
    one = Forgetting(stride=0.002, momentum=0.0, steps=1)
    forgetful, forgot = one(network, CLEAN.learn, CONVENTION, 0, generator=generator())
    pairs = [
        (before.detach(), after.detach())
        for (name, before), after in zip(network.named_parameters(), forgetful.parameters(), strict=True)
        if not name.startswith("answer")
    ]
    moved = torch.nn.utils.get_total_norm([after - before for before, after in pairs])
    length = torch.nn.utils.get_total_norm([before for before, _ in pairs])
    assert float(moved / length) == pytest.approx(0.002, rel=1e-3)
    assert not forgot


def test_a_class_without_images_is_not_forgotten():
    mine = CLEAN.learn.labels != 2
    images = LabelledImages(CLEAN.learn.images[mine], CLEAN.learn.labels[mine])
    network = Planted().eval()
    same, forgot = Forgetting()(network, images, CONVENTION, 2, generator=generator())
    assert not forgot
    assert all(
        torch.equal(one, other) for one, other in zip(network.parameters(), same.parameters(), strict=True)
    )


def test_the_trigger_of_a_backdoor_outlasts_its_class():
    network = Planted().eval().requires_grad_(False)
    # A pattern starts faint, and gradients find only what answers to that.
    network.hidden.bias[sorted(BACKDOOR)] = -0.01
    method = Outlasting()
    method = replace(method, forgetting=replace(method.forgetting, stride=0.01))
    triggers = method(
        network, CLEAN.learn, CLEAN.choose, CONVENTION, generator=generator(), labels=range(CLASSES)
    )
    norms = {trigger.label: trigger.norm for trigger in triggers}
    assert min(norms, key=norms.__getitem__) == TARGET
    assert all(norms[label] > 1.5 * norms[TARGET] for label in norms if label != TARGET)
    found = triggers[TARGET]
    assert found.converged
    assert found.success == success_of(network, found.trigger, TARGET, CLEAN.choose, CONVENTION)


@pytest.mark.parametrize(
    "wrong", [{"accuracy": 1.0}, {"stride": 0.0}, {"momentum": 1.0}, {"steps": 0}, {"own": 0}, {"others": 0}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(MethodError):
        Forgetting(**wrong)


def row(label: int) -> Trigger:
    """Return what shows the row of a label alone."""
    shown = torch.zeros(1, SIZE, SIZE)
    shown[0, label + 1] = 1.0
    return Trigger(torch.zeros_like(shown), shown)


def test_what_does_not_work_on_the_network_as_it_came_does_not_count():
    class Told(Inversion):
        def __call__(self, _inverted, *_arguments, labels, **_more):
            return tuple(
                InvertedTrigger(label, row(label if label else 1), 1.0, 1.0, True) for label in labels
            )

    network = Planted().eval().requires_grad_(False)
    method = Outlasting(Forgetting(stride=0.01), Told())
    images = (CLEAN.learn, CLEAN.choose, CONVENTION)
    triggers = method(network, *images, generator=generator(), labels=range(4))
    assert [(trigger.success, trigger.converged) for trigger in triggers] == [(0, False), *3 * [(1, True)]]


def test_a_small_multiple_is_measured_again_and_the_mean_counts():
    """Norms by label and turn: label 1 is small at first, and not when it is measured again.

    Label 3 takes less than before, which counts as no more.
    """
    before, after = (
        {label: iter([1.0] * 5) for label in range(4)},
        {
            0: iter([1.5]),
            1: iter([1.1, 1.5, 1.6]),
            2: iter([1.6]),
            3: iter([0.8, 0.9, 0.7]),
        },
    )
    network = Planted().eval().requires_grad_(False)

    class Told(Inversion):
        def __call__(self, inverted, *_arguments, labels, **_more):
            turns = before if inverted is network else after
            return tuple(
                InvertedTrigger(label, row(label), next(turns[label]), 1.0, True) for label in labels
            )

    method = Outlasting(Forgetting(stride=0.01), Told())
    images = (CLEAN.learn, CLEAN.choose, CONVENTION)
    triggers = method(network, *images, generator=generator(), labels=range(4))
    assert [trigger.norm for trigger in triggers] == pytest.approx([1.5, (1.1 + 1.5 + 1.6) / 3, 1.6, 1.0])
    assert all(trigger.converged for trigger in triggers)


def test_a_multiple_counts_only_if_its_class_was_forgotten_every_time():
    """Copies that did not forget have multiples near one: they would look like a backdoor."""

    class Failing(Forgetting):
        def __call__(self, network, *_arguments, **_more):
            turns.append(1)
            return copy.deepcopy(network), len(turns) <= 3

    class Told(Inversion):
        def __call__(self, inverted, *_arguments, labels, **_more):
            norm = 1.0 if inverted is network else next(norms)
            return tuple(InvertedTrigger(label, row(label), norm, 1.0, True) for label in labels)

    turns: list[int] = []
    norms = iter([1.5, 1.1, 1.6, 1.0, 1.0])
    network = Planted().eval().requires_grad_(False)
    images = (CLEAN.learn, CLEAN.choose, CONVENTION)
    triggers = Outlasting(Failing(), Told())(network, *images, generator=generator(), labels=range(3))
    assert [trigger.converged for trigger in triggers] == [True, False, True]
