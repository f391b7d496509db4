"""``secateur scan`` and ``secateur filter`` with a real specimen, in this process."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.cli.specimens import CLASSES, EDGE, TARGET, Specimen, pictures

from secateur.data import read_trigger
from secateur.files import sha256

CODES = {"no evidence": 0, "evidence": 1, "inconclusive": 3}
CLEAN = 90


def scan(specimen: Specimen, *more: str) -> list[str]:
    return [
        *("scan", str(specimen.model), "--arch", specimen.architecture, "--size", str(EDGE)),
        *("--data", str(specimen.data), "--samples", "120", "--threads", "1", *more),
    ]


def filtering(specimen: Specimen, images: Path, out: Path, *more: str) -> list[str]:
    return ["filter", *scan(specimen)[1:], "--images", str(images), "--out", str(out), *more]


@pytest.fixture(scope="module")
def uploads(specimen: Specimen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of image files without classes: clean ones, and in a folder below triggered ones."""
    folder = tmp_path_factory.mktemp("uploads")
    images, labels = pictures(2 * CLEAN, torch.Generator().manual_seed(7))
    trigger = read_trigger(specimen.trigger)
    images[CLEAN:] = trigger.stamp(images[CLEAN:])
    (folder / "later").mkdir()
    for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        if index >= CLEAN and label == TARGET:
            continue
        array = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
        name = f"{index:03}.png" if index < CLEAN else f"later/{index:03}.png"
        Image.fromarray(array).save(folder / name)
    return folder


def test_scan_tells_its_verdict_by_its_exit_code_and_writes_the_evidence(specimen, run, tmp_path):
    code, out, err = run(*scan(specimen, "--out", str(tmp_path / "out"), "--thorough"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert code == CODES[report["outcome"]]
    assert out.startswith("Clean accuracy ")
    for expected in ("Trigger inversion: a patch for every label", "verdict", "report.html"):
        assert expected in out
    assert "inverting: done" in err
    assert "\x1b" not in out + err
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "report.json", "report.sarif"} <= written
    assert report["command"].startswith("secateur scan ")
    patch, *_ = (check for check in report["checks"] if "Trigger inversion" in check["check"])
    assert patch["ran"]
    for name, digest in report["outputs"].items():
        assert sha256(tmp_path / "out" / name) == digest
    if report["trigger"] and report["trigger"]["kind"] == "patch":
        assert read_trigger(tmp_path / "out" / "trigger.safetensors").keep.shape == (3, EDGE, EDGE)
        assert Image.open(tmp_path / "out" / "trigger.png").size[0] >= 160
    sarif = json.loads((tmp_path / "out" / "report.sarif").read_text())
    assert sarif["runs"][0]["results"][0]["properties"]["verdict"] == report["outcome"]
    labels = report["exposure"]["labels"]
    assert len(labels["gained"]) == CLASSES
    assert sum(labels["gained"]) == pytest.approx(0, abs=1e-6)
    assert " ".join(f"revealed label {labels['statement']}".split()) in " ".join(out.split())


def test_scan_without_out_writes_nothing_and_repeats_itself(specimen, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(*scan(specimen, "--json"))
    first = json.loads(out)
    assert code == CODES[first["outcome"]]
    second = json.loads(run(*scan(specimen, "--json"))[1])
    assert {key: first[key] for key in ("outcome", "verdict", "trigger", "exposure", "checks")} == {
        key: second[key] for key in ("outcome", "verdict", "trigger", "exposure", "checks")
    }
    assert run(*scan(specimen, "--quiet"))[1:] == ("", "")
    assert not list(tmp_path.iterdir())


def test_filter_ranks_triggered_files_first_and_streams_them_to_a_table(specimen, run, uploads, tmp_path):
    table = tmp_path / "scores.csv"
    code, out, _ = run(*filtering(specimen, uploads, table))
    assert code == 0
    assert "images are suspicious" in out
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["file", "label", "answer", "score", "suspicious"]
    assert [row["file"] for row in rows] == [str(path) for path in sorted(uploads.rglob("*.png"))]
    assert {row["label"] for row in rows} == {""}
    triggered = [float(row["score"]) for row in rows if "/later/" in row["file"]]
    clean = [float(row["score"]) for row in rows if "/later/" not in row["file"]]
    assert np.median(triggered) > np.median(clean)


def test_filter_says_which_rate_the_clean_images_allow(specimen, run, uploads, tmp_path):
    code, _, err = run(*filtering(specimen, uploads, tmp_path / "scores.csv", "--rate", "0.01"))
    assert code == 0
    assert "--rate 0.01 needs more held-out clean images than " in err


def test_filter_writes_parquet_with_labels_if_they_count(specimen, run, tmp_path):
    table = tmp_path / "scores.parquet"
    more = ("--labelled", "--detector", "strip", "--rate", "10", "--json")
    code, out, _ = run(*filtering(specimen, specimen.data, table, *more))
    told = json.loads(out)
    read = pq.read_table(table).to_pydict()
    labels = np.load(specimen.data)["labels"]
    assert code == 0
    assert read["label"] == labels.tolist()
    assert sum(read["suspicious"]) == told["suspicious"]["hits"]
    assert told["threshold"]["rate"] <= 0.1
    above = [score > told["threshold"]["value"] for score in read["score"]]
    assert above == read["suspicious"]
    assert run(*filtering(specimen, specimen.data, table))[0] == 2
    assert run(*filtering(specimen, specimen.data, table, "--force", "--quiet")) == (0, "", "")


def test_detectors_are_listed_with_their_papers(run):
    code, out, _ = run("detectors", "--json")
    assert code == 0
    assert {"unlearned", "strip", "scale-up", "spectral", "clustering", "distillation"} <= {
        entry["name"] for entry in json.loads(out)
    }
    assert "arXiv:2305.14876" in run("detectors")[1]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--out", "scores.txt"), "scores.txt: give --out a name that ends in .csv or .parquet"),
        (("--detector", "nose"), "no sample detector is called 'nose'; there are: "),
        (("--rate", "0"), "--rate 0: give a percentage above 0 and below 100"),
        (("--images", "nowhere"), "nowhere: no such file or folder"),
    ],
)
def test_wrong_input_to_filter_is_one_clear_message(more, expected, specimen, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*filtering(specimen, specimen.data, tmp_path / "x.csv", *more))
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("error: ") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_image_is_marked_and_keeps_no_other_from_being_judged(
    specimen, run, uploads, tmp_path
):
    broken = tmp_path / "images"
    broken.mkdir()
    for path in sorted(uploads.glob("*.png"))[:3]:
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "0.png").write_bytes(b"no image")
    # A table of an earlier run must not hide the images beside it.
    (broken / "scores.parquet").write_bytes(b"no table")
    code, out, _ = run(*filtering(specimen, broken, tmp_path / "x.csv", "--detector", "strip"))
    assert code == 0
    assert "1 files could not be read" in out
    with (tmp_path / "x.csv").open(newline="") as stream:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(stream)}
    assert len(rows) == 4
    assert (rows["0.png"]["score"], rows["0.png"]["suspicious"]) == ("", "true")
    assert all(row["score"] for name, row in rows.items() if name != "0.png")
    for path in broken.glob("0*.png"):
        path.write_bytes(b"no image")
    code, _, err = run(*filtering(specimen, broken, tmp_path / "y.csv", "--detector", "strip"))
    assert (code, "none of the 4 images can be read" in err) == (2, True)
    assert not (tmp_path / "y.csv").exists()


def test_file_names_are_no_formulas(specimen, run, uploads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = next(uploads.glob("*.png"))
    Path("=cmd.png").write_bytes(source.read_bytes())
    assert run(*filtering(specimen, Path(), Path("x.csv"), "--detector", "strip"))[0] == 0
    with Path("x.csv").open(newline="") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == ["./=cmd.png"]
