"""Whatever is wrong with a command line, the answer is one clear sentence and exit code 2."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.cli.specimens import EDGE, Specimen

Case = Callable[[Specimen, Path], list[str]]


def repair(specimen: Specimen, folder: Path, *more: str) -> list[str]:
    return specimen.repair(folder / "out", *more)


def replaced(arguments: list[str], option: str, value: object) -> list[str]:
    position = arguments.index(option) + 1
    return [*arguments[:position], str(value), *arguments[position + 1 :]]


def with_model(specimen: Specimen, folder: Path, model: Path) -> list[str]:
    arguments = repair(specimen, folder)
    return [arguments[0], str(model), *arguments[2:]]


def png_as_checkpoint(specimen: Specimen, folder: Path) -> list[str]:
    Image.new("RGB", (8, 8)).save(folder / "cat.png")
    return with_model(specimen, folder, folder / "cat.png")


def empty_folder(specimen: Specimen, folder: Path) -> list[str]:
    (folder / "images").mkdir()
    return replaced(repair(specimen, folder), "--data", folder / "images")


def labels_of_others(specimen: Specimen, folder: Path) -> list[str]:
    arrays = np.load(specimen.data)
    np.savez(folder / "other.npz", images=arrays["images"], labels=arrays["labels"] + 3)
    return replaced(repair(specimen, folder), "--data", folder / "other.npz")


def shuffled_labels(specimen: Specimen, folder: Path) -> list[str]:
    arrays = np.load(specimen.data)
    np.savez(folder / "other.npz", images=arrays["images"], labels=(arrays["labels"] + 1) % 4)
    return replaced(repair(specimen, folder), "--data", folder / "other.npz")


def out_is_a_file(specimen: Specimen, folder: Path) -> list[str]:
    (folder / "out").write_text("mine")
    return repair(specimen, folder)


def out_below_a_file(specimen: Specimen, folder: Path) -> list[str]:
    (folder / "notes").write_text("mine")
    return specimen.repair(folder / "notes" / "out")


def out_in_proc(specimen: Specimen, folder: Path) -> list[str]:
    return specimen.repair(Path("/proc/secateur/out"))


def recipe_for_others(specimen: Specimen, folder: Path) -> list[str]:
    from secateur.units import Recipe

    recipe = Recipe("rnp", "tiny", (), (), False, "0" * 64, "0" * 64)
    (folder / "recipe.json").write_text(recipe.to_json())
    return ["apply", str(folder / "recipe.json"), str(specimen.model), "--out", str(folder / "x.safetensors")]


def recipe_is_a_checkpoint(specimen: Specimen, folder: Path) -> list[str]:
    return ["apply", str(specimen.model), str(specimen.model), "--out", str(folder / "x.safetensors")]


def recipe_is_missing(specimen: Specimen, folder: Path) -> list[str]:
    return ["apply", str(folder / "no.json"), str(specimen.model), "--out", str(folder / "x.safetensors")]


def evaluate(specimen: Specimen, *more: str) -> list[str]:
    model, size = str(specimen.model), str(EDGE)
    return [
        *("evaluate", model, "--arch", specimen.architecture, "--size", size, "--data", str(specimen.data)),
        *more,
    ]


def trigger_of_another_shape(specimen: Specimen, folder: Path) -> list[str]:
    tensors = {name: torch.zeros(3, 5, 5) for name in ("keep", "add")}
    save_file(tensors, folder / "t.safetensors")
    return evaluate(specimen, "--trigger", str(folder / "t.safetensors"), "--target", "0")


def trigger_is_a_checkpoint(specimen: Specimen, folder: Path) -> list[str]:
    return evaluate(specimen, "--trigger", str(specimen.model), "--target", "0")


def log_is_a_file(specimen: Specimen, folder: Path) -> list[str]:
    (folder / "log").write_text("")
    return specimen.repair(folder / "out", "--tensorboard", str(folder / "log"))


def attack(specimen: Specimen, folder: Path, *more: str, name: str = "badnets") -> list[str]:
    given = {"--attack": name, "--model": "secateur:resnet20", "--data": specimen.data, "--out": folder / "s"}
    return ["specimen", *(str(word) for pair in given.items() for word in pair), *more]


CASES: list[tuple[str, Case, str]] = [
    ("no checkpoint", lambda s, f: with_model(s, f, f / "no.pth"), "no.pth: no such file"),
    ("png as checkpoint", png_as_checkpoint, "cat.png: "),
    ("unknown family", lambda s, f: replaced(repair(s, f), "--arch", "keras:resnet"), "keras"),
    ("bare name", lambda s, f: replaced(repair(s, f), "--arch", "resnet18"), "did you mean"),
    ("other network", lambda s, f: replaced(repair(s, f), "--arch", "secateur:wrn16_1"), "do not fit"),
    ("wrong class count", lambda s, f: repair(s, f, "--classes", "7"), "do not fit"),
    ("wrong state key", lambda s, f: repair(s, f, "--state-key", "ema"), "--state-key ema"),
    ("no data", lambda s, f: replaced(repair(s, f), "--data", f / "nowhere"), "nowhere: no such file"),
    ("empty folder", empty_folder, "images: "),
    (
        "unknown torchvision set",
        lambda s, f: replaced(repair(s, f), "--data", "torchvision:No"),
        "torchvision",
    ),
    ("labels of another set", labels_of_others, "other.npz"),
    ("near chance", shuffled_labels, "Conventions tried"),
    ("mean is no number", lambda s, f: repair(s, f, "--mean", "half"), "--mean half: give numbers"),
    ("mean of two channels", lambda s, f: repair(s, f, "--mean", "0.5,0.5"), "2 values for 3 channels"),
    ("std of zero", lambda s, f: repair(s, f, "--std", "0"), "std"),
    ("range upside down", lambda s, f: repair(s, f, "--range", "1,0"), "--range 1,0: give the lower"),
    ("size is no number", lambda s, f: replaced(repair(s, f), "--size", "8x8"), "--size 8x8: give pixels"),
    ("budget of 200", lambda s, f: repair(s, f, "--budget", "200"), "'--budget': "),
    ("one sample", lambda s, f: repair(s, f, "--samples", "1"), "'--samples': "),
    ("unknown method", lambda s, f: repair(s, f, "--method", "prayer"), "'prayer'; there are: "),
    ("unknown preset", lambda s, f: repair(s, f, "--preset", "best"), "no preset 'best'; there are: "),
    (
        "polish of a method without",
        lambda s, f: repair(s, f, "--method", "unlearn-trigger", "--polish"),
        "--polish does not apply to --method unlearn-trigger; leave it out",
    ),
    (
        "budget of a method without",
        lambda s, f: repair(s, f, "--method", "unlearn-trigger", "--budget", "1"),
        "--budget does not apply to --method unlearn-trigger; leave it out",
    ),
    ("unknown option", lambda s, f: repair(s, f, "--epochs", "3"), "--epochs"),
    ("no GPU", lambda s, f: repair(s, f, "--device", "cuda"), "--device cpu"),
    ("out is a file", out_is_a_file, "out: is a file"),
    ("out below a file", out_below_a_file, "notes: is a file"),
    ("out cannot be made", out_in_proc, "/proc: "),
    ("recipe for other weights", recipe_for_others, "belongs to other weights"),
    ("recipe is a checkpoint", recipe_is_a_checkpoint, "model.safetensors: is not a recipe"),
    ("recipe is missing", recipe_is_missing, "no.json: No such file"),
    ("trigger of another shape", trigger_of_another_shape, "(3, 5, 5)"),
    ("trigger is a checkpoint", trigger_is_a_checkpoint, "a trigger holds the tensors keep and add"),
    ("target without trigger", lambda s, f: evaluate(s, "--target", "0"), "(--trigger, --target)"),
    (
        "target for every class",
        lambda s, f: evaluate(s, "--mapping", "all-to-all", "--target", "0"),
        "leave out --target",
    ),
    (
        "trigger is missing",
        lambda s, f: evaluate(s, "--trigger", str(f / "t.safetensors"), "--target", "0"),
        "t.safetensors: no such file",
    ),
    (
        "no root",
        lambda s, f: replaced(repair(s, f), "--data", "torchvision:CIFAR10"),
        "needs a root: the folder that its files are in (--root)",
    ),
    (
        "root without files",
        lambda s, f: replaced(repair(s, f, "--root", str(f)), "--data", "torchvision:CIFAR10"),
        "secateur downloads nothing",
    ),
    ("data without a name", lambda s, f: replaced(repair(s, f), "--data", ""), "no data are named"),
    ("log is a file", log_is_a_file, "log: is no folder"),
    (
        "setting is no number",
        lambda s, f: attack(s, f, "--set", "size=abc"),
        "size 'abc' must be a whole number",
    ),
    ("target of no attack", lambda s, f: attack(s, f, "--target", "3", name="none"), "give --attack"),
    (
        "list is missing",
        lambda s, f: ["specimen", "--list", str(f / "l.toml"), "--out", str(f / "s")],
        "l.toml: no such file",
    ),
    ("model missing", lambda s, f: ["units"], "Missing argument '"),
    ("verb misspelt", lambda s, f: ["repare"], "No such command 'repare'. Did you mean 'repair'? See"),
]


@pytest.mark.parametrize(("arguments", "expected"), [pytest.param(c, e, id=i) for i, c, e in CASES])
def test_wrong_input_is_one_clear_message(arguments, expected, specimen, run, tmp_path):
    if "cuda" in expected and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    given = arguments(specimen, tmp_path)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    code, out, err = run(*given)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert expected in err
    assert "Traceback" not in err
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_an_unknown_split_is_named(specimen, run, tmp_path):
    arrays = np.load(specimen.data)
    np.savez(tmp_path / "d.npz", x_train=arrays["images"], y_train=arrays["labels"])
    arguments = replaced(repair(specimen, tmp_path, "--split", "validation"), "--data", tmp_path / "d.npz")
    code, _, err = run(*arguments)
    assert code == 2
    assert "validation" in err


def test_names_in_a_hostile_checkpoint_do_not_reach_the_terminal_raw(specimen, run, tmp_path):
    save_file({"\x1b[2Jweight": torch.zeros(2)}, tmp_path / "evil.safetensors")
    code, _, err = run(*with_model(specimen, tmp_path, tmp_path / "evil.safetensors"))
    assert code == 2
    assert "weight" in err
    assert "\x1b" not in err


def test_a_folder_without_permission_is_named(specimen, run, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    try:
        (locked / "probe").touch()
        pytest.skip("this user may write everywhere")
    except PermissionError:
        code, _, err = run(*specimen.repair(locked / "out"))
        assert (code, "locked: permission denied" in err) == (2, True)
    finally:
        shutil.rmtree(locked)
