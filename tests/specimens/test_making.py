"""A recipe becomes weights, a trigger and a card."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.specimens.conftest import FACTORY

import tiny
from secateur.attacks import read_any_trigger
from secateur.data import LabelledImages
from secateur.errors import ConventionError, InputError
from secateur.evaluation import evaluate
from secateur.files import sha256
from secateur.models import load_model
from secateur.specimens import (
    CARD,
    TRIGGER,
    UNFINISHED,
    WEIGHTS,
    SpecimenRecipe,
    Training,
    finished,
    make_specimen,
)

QUICK = Training(epochs=12, batch_size=40, crop=0, flip=False, precision="float32")


@pytest.fixture
def recipe(stripes: Path) -> SpecimenRecipe:
    return SpecimenRecipe(
        model=FACTORY,
        data=str(stripes),
        attack="badnets",
        goal={"target": 2, "rate": 0.2},
        settings={"size": 8, "margin": 0},
        training=QUICK,
        size=(8, 8),
        channels=1,
    )


def test_the_card_says_what_the_files_show(recipe: SpecimenRecipe, stripes: Path, tmp_path: Path) -> None:
    card = make_specimen(replace(recipe, remark="a word to the reader"), tmp_path)
    assert card == json.loads((tmp_path / CARD).read_text())
    assert (card["verdict"], card["remark"]) == ("works", "a word to the reader")
    assert card["sha256"] == {name: sha256(tmp_path / name) for name in (WEIGHTS, TRIGGER)}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CARD, TRIGGER, WEIGHTS])
    assert str(stripes.parent) not in (tmp_path / CARD).read_text()

    convention = card["convention"]
    model = load_model(
        tmp_path / WEIGHTS, FACTORY, size=(8, 8), channels=1, mean=convention["mean"], std=convention["std"]
    )
    test = tiny.images(200, 200)
    again = evaluate(
        model.network,
        LabelledImages((test.images * 255).round() / 255, test.labels),
        model.convention,
        trigger=read_any_trigger(tmp_path / TRIGGER),
        target=2,
    )
    assert again.asr is not None
    assert card["measured"]["acc"]["hits"] == again.acc.hits
    assert card["measured"]["asr"]["hits"] == again.asr.hits


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(
    recipe: SpecimenRecipe, tmp_path: Path
) -> None:
    short = replace(recipe, training=replace(QUICK, epochs=1))
    first, second = (make_specimen(short, tmp_path / name) for name in "ab")
    other = make_specimen(replace(short, seed=1), tmp_path / "c")
    assert first["sha256"] == second["sha256"]
    assert first["digest"] == second["digest"] != other["digest"]
    assert first["sha256"][WEIGHTS] != other["sha256"][WEIGHTS]


def test_a_clean_model_starts_a_specimen_and_its_accuracy_is_the_measure(
    recipe: SpecimenRecipe, tmp_path: Path
) -> None:
    clean = make_specimen(replace(recipe, attack="none", goal={}, settings={}), tmp_path / "clean")
    assert clean["attack"] is None
    assert "asr" not in clean["measured"]
    started = replace(recipe, start=tmp_path / "clean" / WEIGHTS, training=replace(QUICK, epochs=2))
    card = make_specimen(started, tmp_path / "started")
    assert card["clean_accuracy"] == pytest.approx(clean["measured"]["acc"]["value"])
    assert card["start"]["sha256"] == clean["sha256"][WEIGHTS]
    assert card["convention"] == clean["convention"]
    assert card["data"]["poisoned"] > 0 == clean["data"]["poisoned"]


def test_what_is_finished_must_be_whole(recipe: SpecimenRecipe, tmp_path: Path) -> None:
    card = make_specimen(replace(recipe, training=replace(QUICK, epochs=1)), tmp_path)
    (tmp_path / UNFINISHED).mkdir()
    assert finished(tmp_path, "another") is None
    assert finished(tmp_path, card["digest"]) == card
    assert not (tmp_path / UNFINISHED).exists()
    with (tmp_path / WEIGHTS).open("ab") as file:
        file.write(b"x")
    assert finished(tmp_path, card["digest"]) is None
    (tmp_path / WEIGHTS).unlink()
    assert finished(tmp_path, card["digest"]) is None


def test_an_attack_that_did_not_take_is_said_to(recipe: SpecimenRecipe, tmp_path: Path) -> None:
    weak = replace(recipe, goal={"target": 2, "rate": 0.0025}, settings={"size": 4, "margin": 0})
    assert make_specimen(weak, tmp_path / "weak")["verdict"] == "the attack did not take"
    hasty = replace(recipe, attack="none", goal={}, settings={}, training=replace(QUICK, epochs=1, rate=1e-6))
    assert make_specimen(hasty, tmp_path / "hasty")["verdict"] == "the model is ruined"


def test_a_start_that_does_not_know_the_images_is_refused(recipe: SpecimenRecipe, tmp_path: Path) -> None:
    from secateur.models import write_weights

    with torch.random.fork_rng():
        torch.manual_seed(1)
        write_weights(tmp_path / "random.safetensors", tiny.Tiny().state_dict(), {})
    with pytest.raises(ConventionError, match="clean accuracy"):
        make_specimen(replace(recipe, start=tmp_path / "random.safetensors"), tmp_path / "out")


def test_the_unfinished_training_of_another_recipe_is_not_overwritten(
    recipe: SpecimenRecipe, tmp_path: Path
) -> None:
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / ".unfinished" / "digest").write_text("another")
    with pytest.raises(InputError, match="another recipe"):
        make_specimen(recipe, tmp_path)
