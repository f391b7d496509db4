import base64
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.report.cases import (
    SCANS,
    SITUATIONS,
    USUAL,
    exposure,
    make_evidence,
    make_repair,
    make_scan,
    patches,
    situation,
)

from secateur.data import Trigger
from secateur.expose import Findings
from secateur.report import render, write_report
from secateur.report.page import duration, ranges

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}\u202e\x00"
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


class Elements(HTMLParser):
    """Every element with its attributes, as a browser's parser would meet them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@cache
def page_of(name: str) -> str:
    return render(situation(name))


def words(page: str) -> str:
    return " ".join(" ".join(Elements(page).text).split())


@pytest.mark.parametrize("name", [*SITUATIONS, *SCANS])
def test_the_page_loads_nothing(name: str) -> None:
    page = page_of(name)
    elements = Elements(page).found
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in elements}
    for tag, attributes in elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in {"src", "href", "xlink:href", "srcset", "action"}:
                assert value.startswith(("#", "data:")), (tag, key, value)
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= NAMESPACES
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]{0,1})", page)) <= {"#"}


def test_the_policy_forbids_loading_and_scripts() -> None:
    policy = next(
        attributes["content"]
        for tag, attributes in Elements(page_of("repaired")).found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert "script-src" not in policy


def test_identifiers_occur_once() -> None:
    ids = [attributes["id"] for _, attributes in Elements(page_of("60 layers")).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def hostile_evidence() -> dict:
    repair = make_repair(revealed=exposure(), notes=(HOSTILE,), hyperparameters={HOSTILE: HOSTILE})
    layers = (replace(repair.discovery.layers[0], name=HOSTILE), *repair.discovery.layers[1:])
    units = tuple(
        replace(scored, unit=replace(scored.unit, layer=HOSTILE)) if scored.unit.layer == "1" else scored
        for scored in repair.recipe.units
    )
    kept = (replace(repair.recipe.layers[0], name=HOSTILE), *repair.recipe.layers[1:])
    repair = replace(
        repair,
        method=HOSTILE,
        seconds={HOSTILE: 1.0},
        discovery=replace(repair.discovery, layers=layers, refused={HOSTILE: HOSTILE}),
        recipe=replace(repair.recipe, layers=kept, units=units),
    )
    return make_evidence(
        repair,
        class_names=(HOSTILE,) * 10,
        path=Path(HOSTILE.replace("/", "\\").replace("\x00", "")),
        inputs={HOSTILE: HOSTILE, "list": [HOSTILE], "nested": {HOSTILE: HOSTILE}},
        outputs={HOSTILE: "a" * 64},
        command=["secateur", HOSTILE],
        device=HOSTILE,
    )


def test_text_of_others_stays_text() -> None:
    page = render(hostile_evidence())
    elements = Elements(page).found
    assert not {"script", "img"} & {tag for tag, _ in elements}
    assert not any(key.startswith("on") for _, attributes in elements for key in attributes)
    assert "49" not in re.findall(r"onerror=alert\(2\)&gt;(\d+)", page)
    assert "\u202e" not in page
    assert "\x00" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "repaired",
            [
                *("Repaired", "3 of 16 units", "85.0 % → 84.0 %", "3 · cat", "No evidence is not the same"),
                "75.0 % of the answers that became wrong while forgetting went to class 3 (cat)",
            ],
        ),
        ("evaluated", ["100.0 % → 1.0 %", "Measured with the trigger"]),
        (
            "nothing found",
            ["Nothing found to repair", "not a statement that the network is clean", "none dominates"],
        ),
        ("inconclusive", ["Inconclusive", "Unlearning never reached its stop.", "so there is no curve"]),
        ("no exposure", ["Unlearning was not done, or diverged", "not known"]),
        ("nothing lost", ["The network lost no answer", "not known"]),
        ("evidence", ["Evidence of a backdoor", "3 · cat", "beyond 1.00", "A patch of 4.0 pixels"]),
        ("no evidence", ["No evidence found", "not a statement that the network is clean", "A note."]),
        ("nothing searched", ["Inconclusive", "too many classes"]),
        ("60 layers", ["40 of 480"]),
        (
            "polished",
            [
                "then fitted to clean images",
                "gives the pruned weights, before they were fitted",
                "85.0 % → 86.0 %",
            ],
        ),
    ],
)
def test_the_page_says_what_happened(name: str, expected: list[str]) -> None:
    shown = words(page_of(name))
    for sentence in [*expected, "NOT RUN"]:
        assert sentence in shown
    assert ("How far to prune" in shown) == (name not in SCANS)


def test_looks_for_triggers_are_a_table() -> None:
    shown = words(page_of("learned"))
    for row in (
        "6 units out 4.5 pixels 97 % 20.0 yes",
        "9 units out 8.1 standard deviations of early channels 97 % 9.0 no",
        "9 units out, polished 21.0 pixels 97 % none reached no",
    ):
        assert row in shown
    assert "Triggers looked for again" not in words(page_of("repaired"))


def test_both_files_are_written_and_agree(tmp_path: Path) -> None:
    evidence = situation("repaired")
    paths = write_report(tmp_path / "new", evidence)
    assert list(paths) == ["report.json", "report.html"]
    read = json.loads(paths["report.json"].read_text(encoding="utf-8"))
    assert read == evidence
    assert paths["report.html"].read_text(encoding="utf-8") == render(read)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(paths)


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    old = write_report(tmp_path, situation("repaired"))["report.json"].read_bytes()
    broken = situation("repaired")
    del broken["limits"]
    with pytest.raises(Exception, match="limits"):
        write_report(tmp_path, broken)
    assert (tmp_path / "report.json").read_bytes() == old


def test_ranges() -> None:
    assert ranges([0, 1, 2, 5, 8, 9]) == "0–2, 5, 8–9"
    assert ranges([]) == ""
    assert ranges(range(0, 10, 2), limit=2) == "0, 2, … (5 in all)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12 ms"), (59.94, "59.9 s"), (119.96, "2 min 0 s"), (179.9, "3 min 0 s"), (3600, "60 min 0 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


def chromium(tmp_path: Path, *arguments: str) -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed to open the page with")
    quiet = ["--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    return subprocess.run(
        [program, *quiet, *sandbox, f"--user-data-dir={tmp_path / 'profile'}", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout


def test_a_browser_shows_the_page_and_runs_nothing(tmp_path: Path) -> None:
    page = write_report(tmp_path, hostile_evidence())["report.html"]
    # The title would change if any of the hostile text ran.
    page.write_text(
        page.read_text().replace("alert(1)", "document.title=1").replace("alert(2)", "document.title=2")
    )
    dom = chromium(tmp_path, "--dump-dom", page.as_uri())
    assert "<title>Repaired:" in dom
    assert dom.count("<svg") == 5
    assert "<script" not in dom


def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    page = write_report(tmp_path, situation("repaired"))["report.html"]
    shot = tmp_path / "shot.png"
    chromium(tmp_path, f"--screenshot={shot}", "--window-size=1000,1400", page.as_uri())
    with Image.open(shot) as image:
        assert image.size == (1000, 1400)
        colours = image.convert("RGB").getcolors(1 << 24)
    ink = sum(count for count, colour in colours if min(colour) < 200)
    assert 20_000 < ink < 700_000


def test_a_picture_of_any_size_reaches_the_page_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    trigger = Trigger(torch.ones(3, 32, 32), 0.1 * torch.rand(3, 32, 32, generator=generator))
    found = tuple(
        replace(one, trigger=trigger, norm=4.0) if one.label == 3 else one for one in patches(*USUAL)
    )
    evidence = make_scan(Findings(found[3], found, {"patch": found}))
    sources = [a["src"] for tag, a in Elements(render(evidence)).found if tag == "img"]
    shown = Image.open(io.BytesIO(base64.b64decode(sources[0].removeprefix("data:image/png;base64,"))))
    assert shown.size == (160, 160)
    shown.load()
    evidence["trigger"]["picture"] = '"><script>'
    with pytest.raises(ValueError, match="base64"):
        render(evidence)
