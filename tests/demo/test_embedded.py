"""The files that ship with the package are what their card says."""

import json

import pytest
import torch

from secateur.data import read_trigger
from secateur.demo import CARD, FILES, IMAGES, TRIGGER, WEIGHTS, Specimen, open_specimen
from secateur.evaluation import evaluate
from secateur.files import sha256

LARGEST = 4_000_000


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return open_specimen()


def test_files_are_the_ones_that_the_card_describes_and_are_small() -> None:
    stated = json.loads((FILES / CARD).read_text())["sha256"]
    assert set(stated) == {WEIGHTS, TRIGGER, *IMAGES.values()}
    assert {name: sha256(FILES / name) for name in stated} == stated
    assert sum(path.stat().st_size for path in FILES.iterdir()) < LARGEST
    assert "Zalando" in (FILES / "LICENSE.txt").read_text()


def test_every_class_has_its_share_of_images_and_its_name(specimen: Specimen) -> None:
    assert specimen.train.labels.bincount().tolist() == [50] * 10
    assert specimen.test.labels.bincount().tolist() == [150] * 10
    assert specimen.train.class_names == tuple(specimen.card["data"]["classes"])
    assert specimen.test.class_names == specimen.train.class_names


def test_the_clean_images_bear_no_trigger(specimen: Specimen) -> None:
    trigger = read_trigger(specimen.trigger_path)
    for images in (specimen.train, specimen.test):
        pixels = torch.stack([image for image, _ in images])
        assert not (trigger.stamp(pixels) == pixels).flatten(1).all(1).any()


def test_the_backdoor_is_as_strong_as_the_card_says(specimen: Specimen) -> None:
    measured = evaluate(
        specimen.model.network,
        specimen.test,
        specimen.model.convention,
        trigger=read_trigger(specimen.trigger_path),
        target=specimen.target,
    )
    assert measured.asr is not None
    everything = specimen.card["measured"]["all test images"]
    assert everything["acc"]["value"] >= 0.9
    assert everything["asr"]["value"] >= 0.95
    shipped = specimen.card["measured"]["shipped test images"]
    for name, share in (("acc", measured.acc), ("asr", measured.asr)):
        assert share.total == shipped[name]["n"]
        assert shipped[name]["low"] <= share.value <= shipped[name]["high"]
        # The shipped images are a sample of all test images.
        low, high = share.interval(0.999)
        assert low <= everything[name]["value"] <= high
