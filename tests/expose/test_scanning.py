"""A scan of planted networks, and what a repair does with it."""

import copy
import dataclasses

import pytest
import torch

from planted import CLEAN, TARGET, Normed, Planted
from secateur import RNP
from secateur.data import LabelledImages
from secateur.errors import MethodError
from secateur.expose import Inversion, LatentTrigger, Scan, Search
from secateur.expose.triggers import success_of


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_planted_patch_is_evidence_and_the_network_stays_as_it_was() -> None:
    network = Planted().train()
    before = copy.deepcopy(network.state_dict())
    verdict, exposed = Scan()(network, CLEAN, generator=generator())
    assert (verdict.conclusion, verdict.label) == ("evidence", TARGET)
    assert exposed.exposure is None  # there is no normalisation
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_what_is_evidence_is_inverted_once_more_for_its_label_alone() -> None:
    rough = Search(patches=Inversion(steps=60), point=1.0)
    plain, exposed = Scan(search=rough, sharpening=None)(Planted(), CLEAN, generator=generator())
    sharp, again = Scan(search=rough)(Planted(), CLEAN, generator=generator())
    assert plain.trigger is exposed.findings.found
    assert (sharp.label, sharp.strength) == (TARGET, plain.strength)
    assert sharp.trigger.norm < plain.trigger.norm
    assert again.findings.found.norm == plain.trigger.norm
    assert again.seconds["sharpening"] > 0
    # A worse one is not taken.
    blind, _ = Scan(search=rough, sharpening=Inversion(steps=1))(Planted(), CLEAN, generator=generator())
    assert blind.trigger.norm == plain.trigger.norm


def test_a_shift_of_channels_is_drawn_as_pixels_that_do_the_same() -> None:
    network, blind = Normed(), Inversion(steps=1)
    shifts = Search(patches=blind, changing=blind)
    verdict, _ = Scan(search=shifts)(network, CLEAN, generator=generator())
    assert isinstance(verdict.trigger, LatentTrigger)
    pixels = verdict.pixels
    assert pixels is verdict.drawn is not None
    assert (pixels.label, pixels.form) == (TARGET, "additive")
    assert success_of(network, pixels.trigger, TARGET, CLEAN.choose, CLEAN.convention) > 0.9
    plain, _ = Scan(search=shifts, drawing=None)(network, CLEAN, generator=generator())
    assert (plain.drawn, plain.pixels) == (None, None)
    assert plain.trigger.norm == verdict.trigger.norm


def test_the_same_network_without_it_gives_no_evidence() -> None:
    verdict, _ = Scan()(Planted(backdoor=False), CLEAN, generator=generator())
    assert (verdict.conclusion, verdict.label) == ("no evidence", None)
    assert [check.reason for check in verdict.checks] == [None, *["no normalisation"] * 3]


def test_a_repair_takes_what_a_scan_exposed_instead_of_looking_again() -> None:
    network = Normed()
    _, exposed = Scan()(network, CLEAN, generator=generator())
    before = copy.deepcopy(exposed.unlearned.state_dict())
    repair = RNP()(network, CLEAN, generator=generator(), exposed=exposed)
    assert repair.findings is exposed.findings
    assert repair.exposure is exposed.exposure
    assert repair.labels is exposed.labels is not None
    assert repair.seconds["unlearning"] == exposed.seconds["unlearning"]
    assert all(torch.equal(before[name], value) for name, value in exposed.unlearned.state_dict().items())
    alone = RNP()(network, CLEAN, generator=generator())
    assert alone.exposure.answers == exposed.exposure.answers


def test_a_repair_acts_on_what_is_too_weak_to_be_evidence() -> None:
    network = Normed()
    verdict, exposed = Scan(search=Search(point=1000.0))(network, CLEAN, generator=generator())
    assert (verdict.conclusion, exposed.findings.found) == ("no evidence", None)
    repair = RNP()(network, CLEAN, generator=generator(), exposed=exposed)
    assert repair.findings.looks is exposed.findings.looks
    assert (repair.findings.found.label, repair.findings.point) == (TARGET, 1.0)
    assert repair.recipe.units
    patient = RNP(search=Search(point=1000.0))(network, CLEAN, generator=generator(), exposed=exposed)
    assert patient.findings.found is None


def test_what_a_repair_does_not_search_for_it_does_not_take() -> None:
    network = Normed()
    blind = Inversion(steps=1)
    _, exposed = Scan(search=Search(patches=blind, changing=blind))(network, CLEAN, generator=generator())
    assert isinstance(exposed.findings.found, LatentTrigger)
    with pytest.raises(MethodError, match="biases"):
        RNP(shift=False)(network, CLEAN, exposed=exposed)
    with pytest.raises(MethodError, match="search for no triggers"):
        RNP(search=None)(network, CLEAN, exposed=exposed)


@pytest.mark.parametrize("part", ["learn", "choose"])
def test_images_of_one_class_are_refused_before_anything_is_computed(part: str) -> None:
    images = getattr(CLEAN, part)
    mine = (images.labels == TARGET).nonzero().flatten()
    one = LabelledImages(images.images[mine], images.labels[mine])
    with pytest.raises(MethodError, match="of one class"):
        Scan()(Planted(), dataclasses.replace(CLEAN, **{part: one}), generator=generator())


def test_the_point_decides_what_stands_out() -> None:
    verdict, exposed = Scan(search=Search(point=1000.0))(Planted(), CLEAN, generator=generator())
    assert (verdict.conclusion, exposed.findings.found) == ("no evidence", None)
    assert verdict.strength > 1
    with pytest.raises(MethodError):
        Search(point=0)
