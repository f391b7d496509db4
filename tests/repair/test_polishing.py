"""Polishing brings clean answers back and what was pruned stays gone."""

import copy

import pytest
import torch
from torch import nn

import tiny
from planted import CLASSES, CLEAN, CONVENTION, PLANTED, TARGET, Normed, Planted, corner, found_units
from secateur.data import LabelledImages
from secateur.errors import MethodError
from secateur.expose import LatentTrigger, predict, success_of
from secateur.repair.polishing import Polishing, _without_label
from secateur.units import all_units, discover, prune

POLISHING = Polishing(passes=20, rate=0.05, precision="float32")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def shown_the_corner(polishing: Polishing, network: nn.Module) -> nn.Module:
    """Return a network that was polished with a patch in the corner shown, nothing pruned."""
    return polishing(
        network,
        network,
        CLEAN.learn,
        CONVENTION,
        layers=(),
        units=(),
        triggers=[corner()],
        generator=generator(),
    )


def divergence(network: nn.Module, teacher: nn.Module, images: LabelledImages) -> float:
    answers, wanted = (
        predict(part, images.images, tiny.CONVENTION).log_softmax(1) for part in (network, teacher)
    )
    return float((wanted.exp() * (wanted - answers)).sum(1).mean())


def test_clean_answers_come_back_and_pruned_units_stay_zero() -> None:
    teacher = tiny.backdoored()
    discovery = discover(teacher, torch.zeros(1, 1, 8, 8))
    units = list(all_units(discovery.layers))[::3]
    pruned = prune(teacher, discovery.layers, units)
    before = copy.deepcopy(pruned.state_dict())
    polished = POLISHING(
        pruned,
        teacher,
        tiny.images(160, 1),
        tiny.CONVENTION,
        layers=discovery.layers,
        units=units,
        triggers=(),
        generator=generator(),
    )
    held_out = tiny.images(200, 8)
    assert divergence(polished, teacher, held_out) < 0.7 * divergence(pruned, teacher, held_out)
    for name, value in prune(polished, discovery.layers, units).state_dict().items():
        assert torch.equal(value, polished.state_dict()[name])
    assert all(torch.equal(before[name], value) for name, value in pruned.state_dict().items())
    assert torch.equal(polished.bn1.running_mean, teacher.bn1.running_mean)
    assert not polished.training


def test_stamped_images_learn_the_answers_of_plain_ones() -> None:
    teacher = Planted()
    polishing = Polishing(passes=60, rate=0.02, moved=0.0, mixed=0.0, way=1.0, precision="float32")
    polished = shown_the_corner(polishing, teacher)
    assert success_of(teacher, corner().trigger, TARGET, CLEAN.choose, CONVENTION) == 1
    assert success_of(polished, corner().trigger, TARGET, CLEAN.choose, CONVENTION) < 0.2


class Flat(Planted):
    """Refuses a batch of no images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.view(images.shape[0], -1))


def test_no_batch_is_all_triggers() -> None:
    polishing = Polishing(passes=1, stamped=0.95, batch_size=8, precision="float32")
    polished = shown_the_corner(polishing, Flat())
    assert all(value.isfinite().all() for value in polished.state_dict().values())


def test_of_other_classes_the_label_gets_no_more_than_before_by_hand() -> None:
    wanted = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]).log()
    before = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]).log()
    mixed = _without_label(wanted, before, 0, torch.tensor([True, False])).exp()
    assert torch.allclose(mixed, torch.tensor([[0.1, 0.54, 0.36], [0.5, 0.3, 0.2]]))
    assert torch.allclose(_without_label(wanted, before, 1, torch.tensor([True, True])), wanted)
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert _without_label(wanted[:1], certain, 0, torch.tensor([True])).isfinite().all()
    assert _without_label(wanted[:1], certain, 1, torch.tensor([True])).isfinite().all()


def test_biases_that_were_zero_before_pruning_stay_zero_and_shifts_leave_pruned_channels_alone() -> None:
    network = Normed().eval()
    with torch.no_grad():
        network.norm.bias[PLANTED] = 0.0
    discovery, units = found_units(network)
    gone = [unit for unit in units if (unit.layer, unit.index) == ("norm", PLANTED)]
    shift = LatentTrigger(TARGET, {"norm.bias": torch.ones(CLASSES + 1)}, 1.0, 1.0, True)
    polished = Polishing(passes=3, rate=0.05, moved=0.0)(
        prune(network, discovery.layers, gone),
        network,
        CLEAN.learn,
        CONVENTION,
        layers=discovery.layers,
        units=gone,
        triggers=[shift],
        generator=generator(),
    )
    assert (polished.norm.weight[PLANTED], polished.norm.bias[PLANTED]) == (0, 0)
    assert not torch.equal(polished.norm.bias, network.norm.bias)


def test_a_bias_that_pruning_left_is_polished_with_the_others() -> None:
    network = Normed().eval()
    with torch.no_grad():
        network.norm.bias[PLANTED] = 0.05
    discovery, units = found_units(network)
    gone = [unit for unit in units if (unit.layer, unit.index) == ("norm", PLANTED)]
    polished = Polishing(passes=3, rate=0.05, moved=0.0)(
        prune(network, discovery.layers, gone, shift=False),
        network,
        CLEAN.learn,
        CONVENTION,
        layers=discovery.layers,
        units=gone,
        shift=False,
        triggers=(),
        generator=generator(),
    )
    assert polished.norm.weight[PLANTED] == 0
    assert polished.norm.bias[PLANTED] not in (0, network.norm.bias[PLANTED])


def test_the_same_seed_polishes_alike() -> None:
    teacher = tiny.backdoored()
    quick = Polishing(passes=2)
    images = tiny.images(64, 1)
    first, second = (
        quick(
            teacher,
            teacher,
            images,
            tiny.CONVENTION,
            layers=(),
            units=(),
            triggers=(),
            generator=generator(),
        ).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "wrong",
    [{"passes": 0}, {"rate": 0.0}, {"temperature": 0.0}, {"moved": 1.0}, {"mixed": 2.0}, {"stamped": 1.0}],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MethodError):
        Polishing(**wrong)
