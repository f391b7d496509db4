"""``secateur specimen`` as users meet it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tiny

FACTORY = f"{Path(tiny.__file__)}:Tiny"
QUICK = ("--epochs", "12", "--batch-size", "40", "--no-flip", "--precision", "float32", "--size", "8")
SECATEUR = (sys.executable, "-m", "secateur")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an npz file with bright stripes whose place is the class."""
    arrays = {}
    for split, count in (("train", 400), ("test", 200)):
        data = tiny.images(count, seed=count)
        arrays[f"x_{split}"] = (data.images.squeeze(1) * 255).round().byte().numpy()
        arrays[f"y_{split}"] = data.labels.numpy()
    path = tmp_path_factory.mktemp("stripes") / "stripes.npz"
    np.savez(path, **arrays)
    return path


def command(stripes: Path, out: Path, *more: str) -> list[str]:
    base = ["specimen", "--model", FACTORY, "--data", str(stripes), "--out", str(out), "--channels", "1"]
    return [*base, *QUICK, *more]


ATTACK = ("--attack", "badnets", "--target", "2", "--rate", "0.2", "--set", "size=8", "--set", "margin=0")


def test_a_specimen_is_made_and_evaluate_agrees_with_its_card(run, stripes, tmp_path):
    code, output, _ = run(*command(stripes, tmp_path / "out", *ATTACK))
    assert code == 0
    assert "works" in output
    assert "ASR" in output
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    convention = card["convention"]
    code, output, _ = run(
        "evaluate",
        str(tmp_path / "out" / "weights.safetensors"),
        *("--arch", FACTORY, "--data", str(stripes), "--size", "8", "--channels", "1", "--json"),
        *("--mean", str(convention["mean"][0]), "--std", str(convention["std"][0])),
        *("--trigger", str(tmp_path / "out" / "trigger.safetensors"), "--target", "2"),
    )
    assert code == 0
    found = json.loads(output)
    for measure in ("acc", "asr", "ra"):
        assert found[measure.upper()]["hits"] == card["measured"][measure]["hits"]


def test_a_weak_attack_exits_with_3_and_its_card_says_why(run, stripes, tmp_path):
    code, output, _ = run(*command(stripes, tmp_path / "out", *ATTACK, "--rate", "0.0025", "--json"))
    assert code == 3
    assert json.loads(output)["verdict"] == "the attack did not take"
    assert (tmp_path / "out" / "weights.safetensors").is_file()


def test_several_processes_make_one_specimen_and_end_cleanly(stripes, tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*torchrun, "-m", "secateur", *command(stripes, tmp_path / "out", *ATTACK, "--json")],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "works"


def test_a_list_is_made_once(run, stripes, tmp_path):
    path = tmp_path / "list.toml"
    path.write_text(
        f"""
[defaults]
model = "{FACTORY}"
data = "{stripes}"
size = [8, 8]
channels = 1
[defaults.training]
epochs = 8
batch_size = 40
crop = 0.0
flip = false
[specimens.clean]
[specimens.warped]
attack = "wanet"
settings = {{ strength = 4.0 }}
goal = {{ mapping = "all-to-all", rate = 0.3 }}
"""
    )
    arguments = ("specimen", "--list", str(path), "--out", str(tmp_path / "out"), "--json")
    first = run(*arguments)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.safetensors")}
    assert len(written) == 3
    second = run(*arguments)
    assert first[:2] == second[:2]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.safetensors")} == written
    cards = json.loads(first[1])
    assert [card["recipe"]["attack"] for card in cards] == ["none", "wanet"]
    code, output, _ = run(*arguments, "--only", "clean")
    assert code == 0
    assert json.loads(output) == cards[:1]


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(stripes, tmp_path):
    long = ("--epochs", "60")
    whole = subprocess.run(
        [*SECATEUR, *command(stripes, tmp_path / "whole", *ATTACK, *long), "--json"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert whole.returncode == 0, whole.stderr
    broken = [*SECATEUR, *command(stripes, tmp_path / "broken", *ATTACK, *long), "--json"]
    with subprocess.Popen(broken, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        state = tmp_path / "broken" / ".unfinished" / "training.safetensors"
        while not state.is_file() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    again = subprocess.run(broken, capture_output=True, text=True, timeout=240, env=os.environ)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["sha256"] == json.loads(whole.stdout)["sha256"]
    assert not (tmp_path / "broken" / ".unfinished").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--attack", "nothing"), "no attack is called 'nothing'"),
        (("--attack", "badnets", "--set", "size"), "name and a value"),
        (("--attack", "badnets", "--set", "size=40"), "does not fit"),
        (("--attack", "badnets", "--set", "edge=4"), "no setting edge; it has: goal, size, margin"),
        (("--attack", "badnets", "--target", "9"), "classes are 0 to 3"),
        (("--attack", "badnets", "--mapping", "all-to-none"), "all-to-one"),
        (("--attack", "badnets", "--mapping", "source-specific"), "needs at least one"),
        (("--attack", "badnets", "--mapping", "source-specific", "--source", "1"), "needs covers"),
        (("--attack", "trojan"), "clean network"),
        (("--target", "1"), "clean specimen"),
        (("--learning-rate", "nan"), "rate > 0"),
        (("--precision", "half"), "float32 or bfloat16"),
        (("--from", "missing.pth"), "missing.pth"),
        (("--list", "list.toml"), "would be ignored"),
        (("--list", "list.toml", "--seed", "1"), "--seed"),
        (("--only", "clean"), "give --list"),
    ],
)
def test_what_cannot_be_used_is_named(run, stripes, tmp_path, more, said):
    code, output, errors = run(*command(stripes, tmp_path / "out"), *more)
    assert (code, output) == (2, "")
    assert said in errors.replace("\n", " ")
    assert "Traceback" not in errors


def test_outputs_are_not_overwritten_unasked(run, stripes, tmp_path):
    (tmp_path / "card.json").write_text("mine")
    code, _, errors = run(*command(stripes, tmp_path))
    assert code == 2
    assert "--force" in errors
    assert (tmp_path / "card.json").read_text() == "mine"


def test_tensorboard_gets_a_figure_per_epoch(run, stripes, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, _ = run(*command(stripes, tmp_path / "out", "--tensorboard", str(tmp_path / "log")))
    assert code == 0
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    losses = [event.value for event in events.Scalars("training/loss")]
    assert len(losses) == 12
    assert losses[-1] < losses[0]


def test_attacks_are_listed(run):
    code, output, _ = run("attacks", "--json")
    assert code == 0
    entries = json.loads(output)
    names = {entry["name"] for entry in entries}
    assert next(entry for entry in entries if entry["name"] == "badnets")["settings"] == {
        "size": 3,
        "margin": 1,
    }
    assert "size=3" in run("attacks")[1]
    assert {"badnets", "wanet", "awp", "dfst", "refool", "adap-patch"} <= names
