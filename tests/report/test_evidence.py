import base64
import dataclasses
import io
import json
import math
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.report.cases import (
    CIFAR,
    SCANS,
    SITUATIONS,
    SMALL,
    USUAL,
    curve_point,
    exposure,
    make_evidence,
    make_repair,
    make_scan,
    patches,
    scored,
    situation,
)

from secateur.expose import DOMINANT, Exposure, Findings, LabelScores
from secateur.report import wording
from secateur.report.evidence import SCORE_BINS, histogram
from secateur.report.frame import plain
from secateur.statistics import PairedLoss, Proportion
from secateur.units import all_units

SCHEMA = json.loads(files("secateur.report").joinpath("report.schema.json").read_text(encoding="utf-8"))


def validate(evidence: dict) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(evidence)


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", [*SITUATIONS, *SCANS])
def test_every_situation_fits_the_schema_and_survives_json(name: str) -> None:
    evidence = situation(name)
    validate(evidence)
    assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence


def test_fitted_weights_are_told_with_their_accuracy_and_hash() -> None:
    plain, fitted = situation("repaired"), situation("polished")
    assert [evidence["weights"]["fitted"] for evidence in (plain, fitted)] == [False, True]
    assert plain["weights"]["repaired_sha256"] != fitted["weights"]["repaired_sha256"]
    assert fitted["accuracy"]["after"]["hits"] == 172
    assert "then fitted to clean images" in fitted["statement"]


@pytest.mark.parametrize("path", [("accuracy", "after", "low"), ("accuracy", "given", "how"), ("weights",)])
def test_schema_misses_what_is_missing(path: tuple[str, ...]) -> None:
    evidence = situation("repaired")
    place = evidence
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    with pytest.raises(jsonschema.ValidationError):
        validate(evidence)


def test_accuracies_come_with_their_intervals() -> None:
    accuracy = situation("repaired")["accuracy"]
    after = accuracy["after"]
    assert (after["hits"], after["n"], after["value"], after["level"]) == (168, 200, 0.84, 0.95)
    # Wilson's interval for 168 of 200, from its closed form.
    z = 1.959963984540054
    centre, half = (0.84 + z * z / 400) / (1 + z * z / 200), z * math.sqrt(0.84 * 0.16 / 200 + (z / 400) ** 2)
    assert after["low"] == pytest.approx(centre - half / (1 + z * z / 200))
    assert after["high"] == pytest.approx(centre + half / (1 + z * z / 200))
    assert accuracy["before"]["hits"] == 170
    assert accuracy["given"]["n"] == 500


@pytest.mark.parametrize(
    ("hits", "budget", "exceeds", "words"),
    [
        (168, 0.02, True, "cannot be ruled out"),
        (168, 0.1, False, "whole interval is within"),
        (150, 0.02, True, "The loss exceeds the budget"),
        (164, 0.02, True, "no more than chance"),
        (150, 1.0, False, "no budget limited"),
    ],
)
def test_loss_is_held_against_the_budget(hits: int, budget: float, exceeds: bool, words: str) -> None:
    curve = (curve_point(0, 170), curve_point(1, hits))
    loss = make_evidence(make_repair(pruned=1, curve=curve, budget=budget))["loss"]
    assert loss["value"] == pytest.approx((170 - hits) / 200)
    assert loss["upper_end_exceeds_budget"] is exceeds
    assert words in loss["statement"]


def test_an_unchanged_network_has_lost_nothing() -> None:
    loss = situation("nothing found")["loss"]
    assert (loss["value"], loss["low"], loss["high"]) == (0, 0, 0)
    assert not loss["upper_end_exceeds_budget"]


def test_pruned_units_are_listed_by_layer() -> None:
    repair = make_repair(pruned=5)
    units = make_evidence(repair)["units"]
    listed = {(layer["name"], index) for layer in units["layers"] for index in layer["indices"]}
    assert listed == {(scored.unit.layer, scored.unit.index) for scored in repair.recipe.units}
    assert sum(layer["pruned"] for layer in units["layers"]) == units["pruned"] == 5
    for layer in units["layers"]:
        assert sum(layer["scores"]) == layer["total"]
        assert sum(layer["pruned_scores"]) == layer["pruned"]


def test_scores_belong_to_their_layers() -> None:
    repair = make_repair(pruned=0)
    scores = torch.tensor([0.99 if unit.layer == "1" else 0.0 for unit in all_units(repair.discovery.layers)])
    layers = make_evidence(make_repair(pruned=0, scores=scores))["units"]["layers"]
    assert layers[0]["scores"][-1] == layers[0]["total"]
    assert layers[1]["scores"][0] == layers[1]["total"]


@given(st.lists(st.floats(0, 1), max_size=50))
def test_histogram_counts_every_score_in_its_bin(scores: list[float]) -> None:
    tensor = torch.tensor(scores, dtype=torch.float64)
    expected = [0] * SCORE_BINS
    for score in scores:
        expected[min(int(score * SCORE_BINS), SCORE_BINS - 1)] += 1
    assert histogram(tensor) == expected


def test_nothing_that_is_not_finite_reaches_json() -> None:
    nothing = Proportion(0, 0)
    point = type(curve_point(0, 1))(0, nothing, PairedLoss(math.nan, -1.0, 1.0))
    pruned = type(point)(1, nothing, PairedLoss(math.nan, -1.0, 1.0))
    scores = make_repair().scores.clone()
    scores[3] = math.nan
    evidence = make_evidence(
        make_repair(
            pruned=1,
            curve=(point, pruned),
            scores=scores,
            hyperparameters={"rate": math.inf, "nested": {"a": (1.0, math.nan)}, "path": Path("x")},
        ),
        clean_accuracy=nothing,
    )
    validate(evidence)
    json.dumps(evidence, allow_nan=False)
    assert evidence["method"]["hyperparameters"] == {
        "rate": None,
        "nested": {"a": [1.0, None]},
        "path": "x",
    }
    assert evidence["loss"]["value"] is None


def test_text_that_is_no_unicode_is_escaped() -> None:
    assert plain({"caf\udce9": ["\udcff"]}) == {"caf\\udce9": ["\\udcff"]}


def test_exposure_names_the_label_and_calls_it_no_verdict() -> None:
    found = make_evidence(make_repair(revealed=exposure(label=3)), class_names=CIFAR)["exposure"]
    labels = found["labels"]
    assert (labels["label"], labels["name"], labels["score"], labels["seconded"]) == (3, "cat", 0.75, True)
    assert labels["gained"] == [0.75 if label == 3 else -0.75 / 9 for label in range(10)]
    assert labels["moved"] == [9.5 if label == 3 else 0.25 for label in range(10)]
    assert [number["hits"] for number in found["path"]["accuracies"]] == [270, 150, 51]
    assert found["statement"].startswith(labels["statement"])
    assert "no verdict" in found["statement"]


WRONG = "% of the answers that became wrong while forgetting"
SAME = "the last layer's weights point to the same class"


@pytest.mark.parametrize(
    ("labels", "statement"),
    [
        (scored(), f"75.0 {WRONG} went to class 3; {SAME}."),
        (scored(seconded=False), f"75.0 {WRONG} went to class 3; {SAME.replace('point', 'do not point')}."),
        (
            scored(seconded=None),
            f"75.0 {WRONG} went to class 3; whether {SAME} is not known: there are too few classes, or not "
            "one row of weights for each.",
        ),
        (scored(score=0.25), f"No dominant label: no class got more than 25.0 {WRONG}."),
    ],
)
def test_one_sentence_tells_the_label_and_what_the_last_layer_says(
    labels: LabelScores, statement: str
) -> None:
    found = make_evidence(make_repair(revealed=exposure(), labels=labels))["exposure"]["labels"]
    assert found["statement"].replace(wording.SPACE, " ") == statement


def test_without_a_dominant_label_none_is_guessed() -> None:
    found = make_evidence(make_repair(revealed=exposure(), labels=scored(score=DOMINANT)), class_names=CIFAR)[
        "exposure"
    ]
    assert (found["labels"]["label"], found["labels"]["name"]) == (None, None)
    assert found["labels"]["score"] == DOMINANT
    assert "may have none either" in found["statement"]
    assert "cat" not in found["statement"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (scored(label=3), "is for the same class"),
        (scored(label=5), "does not point to this class"),
        (scored(label=3, score=0.25), None),
    ],
)
def test_the_label_is_held_against_the_trigger(labels: LabelScores, words: str | None) -> None:
    found = patches(*SMALL)
    evidence = make_scan(Findings(found[3], found, {"patch": found}), revealed=exposure(), labels=labels)
    statement = evidence["exposure"]["statement"]
    if words is None:
        assert "trigger" not in statement
    else:
        assert words in statement


def test_unlearning_that_ended_early_says_so() -> None:
    assert "before the accuracy fell" in situation("inconclusive")["exposure"]["statement"]
    assert "before the accuracy fell" not in situation("repaired")["exposure"]["statement"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (scored(), "Label 3 dominates: its score is 0.75, a strength of 1.50"),
        (scored(score=0.25), "No label dominates: the highest score is 0.25, a strength of 0.50"),
    ],
)
def test_unlearning_has_a_strength_and_is_no_evidence(labels: LabelScores, words: str) -> None:
    evidence = make_scan(Findings.none("left out"), revealed=exposure(), labels=labels)
    check = next(check for check in evidence["checks"] if check["check"] == wording.UNLEARNING)
    assert check["strength"] == labels.score / DOMINANT
    assert check["statement"].startswith(words)
    assert (check["ran"], check["stands_out"]) == (True, False)
    assert (evidence["outcome"], evidence["verdict"]["strength"]) == ("inconclusive", None)


@pytest.mark.parametrize(
    ("revealed", "words"),
    [
        (None, "did not unlearn"),
        (dataclasses.replace(exposure(), finite=False), "diverged"),
        (exposure(reached=False), "lost no answer"),
    ],
)
def test_unlearning_that_says_nothing_says_why(revealed: Exposure | None, words: str) -> None:
    evidence = make_scan(Findings.none("left out"), revealed=revealed, labels=None)
    check = next(check for check in evidence["checks"] if check["check"] == wording.UNLEARNING)
    assert (check["ran"], check["strength"]) == (False, None)
    assert words in check["statement"]


def test_checks_follow_from_what_was_done() -> None:
    ran = {
        name: {item["check"]: item["ran"] for item in situation(name)["checks"]}
        for name in [*SITUATIONS, *SCANS]
    }
    asr = "Attack success rate (ASR) before and after"
    assert ran["repaired"][asr] is False
    assert asr not in ran["evaluated"]
    assert ran["no exposure"][wording.UNLEARNING] is False
    assert ran["repaired"][wording.UNLEARNING] is True
    patch, *_ = searches = list(wording.SEARCHES.values())
    assert [ran["evidence"][check] for check in searches] == [True, False, False, False]
    assert [ran["shift"][check] for check in searches] == [True, True, True, False]
    assert [ran["outlasting"][check] for check in searches] == [True, False, True, True]
    assert not any(ran["nothing searched"][check] for check in searches)
    searched = make_repair(findings=Findings(None, patches(*USUAL), {"patch": patches(*USUAL)}))
    assert {item["check"]: item["ran"] for item in make_evidence(searched)["checks"]}[patch] is True


def test_a_pattern_that_outlasts_forgetting_is_told_by_its_growth() -> None:
    evidence = situation("outlasting")
    assert evidence["trigger"]["kind"] == "outlasting"
    assert "grow only 1.10 times" in evidence["trigger"]["statement"]
    assert evidence["trigger"]["picture"] is not None
    check = next(c for c in evidence["checks"] if c["check"] == wording.SEARCHES["outlasting"])
    assert check["stands_out"]
    assert check["sizes"]["unit"] == "multiples of its size before"


def test_a_scan_tells_verdict_label_and_strength() -> None:
    evidence = situation("evidence")
    assert (evidence["outcome"], evidence["trigger"]["label"], evidence["trigger"]["name"]) == (
        "evidence",
        3,
        "cat",
    )
    assert evidence["verdict"]["strength"] > evidence["verdict"]["point"] == 1.0
    assert "class 3 (cat)" in evidence["statement"]
    assert evidence["units"] is evidence["curve"] is evidence["weights"] is None
    nothing = situation("no evidence")
    assert nothing["trigger"] is None
    assert "not a statement that the network is clean" in nothing["statement"]
    assert situation("nothing searched")["verdict"]["strength"] is None


def test_a_strength_that_owes_to_unlearning_is_told_as_such() -> None:
    evidence, alone = situation("supported"), situation("evidence")
    check, *others = (c for c in evidence["checks"] if c["check"] in wording.SEARCHES.values())
    assert check["support"] == pytest.approx(1 + (0.4 / 0.5) ** 2)
    own = check["strength"] / check["support"]
    assert (
        f"{check['strength']:.2f} ({own:.2f} times 1.64, because unlearning points to the same label);"
        in check["statement"]
    )
    assert all(c["support"] == 1 and "times" not in c["statement"] for c in (*others, *alone["checks"]))
    assert own < evidence["verdict"]["point"] < check["strength"]
    weaker = "smaller than such triggers are for other classes, and unlearning points to the same label."
    assert weaker in evidence["statement"]
    assert "far smaller" not in evidence["statement"]
    assert "far smaller" in alone["statement"]
    assert weaker not in alone["statement"]


def test_a_name_that_is_the_number_is_not_repeated() -> None:
    digits = tuple(map(str, range(10)))
    labels = make_evidence(make_repair(revealed=exposure()), class_names=digits)["exposure"]["labels"]
    assert (labels["label"], labels["name"]) == (3, None)


def test_the_picture_shows_the_trigger_on_grey() -> None:
    encoded = situation("evidence")["trigger"]["picture"]
    shown = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert shown.size == (160, 160)
    assert shown.getpixel((0, 0)) == (128, 128, 128)
    assert shown.getpixel((159, 159)) == (255, 255, 255)
    assert situation("shift")["trigger"]["picture"] is None


def test_a_shift_is_shown_by_pixels_that_do_the_same() -> None:
    evidence, plain = situation("drawn")["trigger"], situation("shift")["trigger"]
    assert evidence["kind"] == "shift"
    assert evidence["picture"] == situation("evidence")["trigger"]["picture"]
    assert evidence["statement"].startswith(plain["statement"])
    assert "In pixels: A pattern of Euclidean norm 0.7" in evidence["statement"]
    assert evidence["statement"] in situation("drawn")["statement"]


def test_the_command_line_can_be_pasted() -> None:
    assert situation("repaired")["command"].endswith("--data 'a folder'")


@pytest.mark.parametrize("changes", [{"chosen": 2}, {"scores": torch.ones(3)}])
def test_a_repair_that_contradicts_itself_is_not_reported(changes: dict) -> None:
    with pytest.raises(ValueError, match="units"):
        make_evidence(make_repair(**changes))
