"""A latent trigger is the small shift that a planted channel answers, and large where there is none."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from planted import CLASSES, CONVENTION, PLANTED, TARGET, Normed, rows
from secateur.data import LabelledImages, example_input
from secateur.errors import MethodError
from secateur.expose import LatentInversion, LatentTrigger, suspect
from secateur.units import Unit, UnitLayer, discover, prune

LEARN, HELD_OUT = rows(60, 1), rows(40, 2)


def layers_of(network: nn.Module) -> tuple[UnitLayer, ...]:
    return discover(network, example_input(CONVENTION)).layers


def invert(
    network: nn.Module,
    labels: tuple[int, ...] = tuple(range(CLASSES)),
    learn: LabelledImages = LEARN,
    **settings: Any,
) -> tuple[LatentTrigger, ...]:
    network.eval().requires_grad_(False)
    return LatentInversion(**{"precision": "float32", **settings})(
        network,
        layers_of(network),
        learn,
        HELD_OUT,
        CONVENTION,
        generator=torch.Generator().manual_seed(0),
        labels=labels,
    )


def test_a_channel_that_answers_a_label_makes_its_shift_anomalously_small() -> None:
    found = suspect(triggers := invert(Normed()))
    assert found is not None
    assert found.label == TARGET
    assert found.success == 1
    # The row of the true class answers with 5.6 to 7.2, so the channel must rise from -0.05 to 0.09 or 0.12
    # in every row; its deviation is 0.5.
    assert 0.2 < found.norm < 0.5
    (shift,) = found.shifts.values()
    assert int(shift.abs().argmax()) == PLANTED
    assert min(t.norm for t in triggers if t.label != TARGET) > 2


def test_without_it_nothing_stands_out() -> None:
    assert suspect(invert(Normed(strength=0.0))) is None


def test_a_norm_with_two_names_is_shifted_once() -> None:
    network = Normed()
    network.alias = nn.Sequential(network.norm)
    (found,) = invert(network, (TARGET,))
    assert len(found.shifts) == 1
    assert found.norm < 0.5
    shifted, _ = found.present(network, HELD_OUT.images)
    (shift,) = found.shifts.values()
    assert torch.allclose(shifted.norm.bias, network.norm.bias + shift)


def test_only_early_norms_are_shifted() -> None:
    (found,) = invert(Normed(), (TARGET,), steps=1)
    assert list(found.shifts) == ["norm.bias"]


def test_the_network_stays_as_it_is_and_a_copy_is_shifted() -> None:
    network = Normed().eval().requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    (found,) = invert(network, (TARGET,))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    shifted, images = found.present(network, HELD_OUT.images)
    assert images is HELD_OUT.images
    expected = before["norm.bias"] + found.shifts["norm.bias"]
    assert torch.equal(shifted.get_parameter("norm.bias"), expected)
    assert torch.equal(network.get_parameter("norm.bias"), before["norm.bias"])
    assert float((shifted(CONVENTION.normalise(images)).argmax(1) == TARGET).double().mean()) == 1


def test_a_pruned_channel_is_not_shifted() -> None:
    network = Normed().eval().requires_grad_(False)
    pruned = prune(network, layers_of(network), [Unit("norm", PLANTED)])
    (found,) = invert(pruned, (TARGET,))
    assert found.shifts["norm.bias"][PLANTED] == 0
    assert found.norm > 2


def test_a_label_does_not_depend_on_the_others() -> None:
    alone, among = invert(Normed(), (TARGET,), steps=5)[0], invert(Normed(), (0, TARGET), steps=5)[1]
    assert alone.norm == among.norm
    assert torch.equal(alone.shifts["norm.bias"], among.shifts["norm.bias"])


def test_there_must_be_images_of_other_classes() -> None:
    one = LEARN.subset((LEARN.labels == TARGET).nonzero().flatten())
    with pytest.raises(MethodError, match="other classes"):
        invert(Normed(), (TARGET,), learn=one)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"rate": 0.0},
        {"weight": 0.0},
        {"factor": 1.0},
        {"success": 1.0},
        {"precision": "half"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        LatentInversion(**wrong)
