"""`secateur demo` as a user runs it: one process, a folder of results."""

import json
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from secateur.demo import FILES, OUTPUTS, WEIGHTS
from secateur.units import Recipe


def test_the_demo_removes_the_backdoor_and_writes_the_report(tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = subprocess.run(
        [sys.executable, "-m", "secateur", "demo", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTPUTS)

    evidence = json.loads((out / "report.json").read_text())
    measured = {measure["name"]: measure for measure in evidence["evaluation"]["measures"]}
    assert measured["ASR"]["before"]["value"] > 0.95
    assert measured["ASR"]["after"]["value"] < 0.1
    assert measured["ACC"]["before"]["value"] - measured["ACC"]["after"]["value"] < 0.04
    assert measured["RA"]["after"]["value"] > 0.8

    assert "<svg" in (out / "report.html").read_text()
    for name in ("ACC", "ASR", str(out / "report.html")):
        assert name in done.stdout
    for moment in ("before", "after"):
        assert f"{100 * measured['ASR'][moment]['value']:.1f} %" in done.stdout

    recipe = Recipe.from_json((out / "recipe.json").read_text())
    repaired, pruned = load_file(out / "repaired.safetensors"), recipe.apply(load_file(FILES / WEIGHTS))
    assert repaired.keys() == pruned.keys()
    gone = evidence["units"]["layers"]
    assert sum(len(layer["indices"]) for layer in gone) == len(recipe.units) > 0
    for layer in gone:
        weights = [weights[f"{layer['name']}.weight"][layer["indices"]] for weights in (repaired, pruned)]
        assert not any(part.any() for part in weights)
    same = all(bool((repaired[name] == tensor).all()) for name, tensor in pruned.items())
    assert same != evidence["weights"]["fitted"]
