"""What each verb does with a real specimen, in this process."""

import inspect
import json
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.specimens import EDGE, TARGET, Specimen

from planted import SIZE, Normed, rows
from secateur.files import sha256

OUTPUTS = {"repaired.safetensors", "recipe.json", "report.json", "report.html"}
PRUNING = ("--preset", "paper", "--threshold", "0.9", "--samples", "240")


@pytest.fixture(scope="module")
def repaired(specimen: Specimen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the outputs of a repair that pruned something, whatever the method's defaults find here."""
    from secateur.cli import main

    out = tmp_path_factory.mktemp("repaired") / "out"
    assert main(specimen.repair(out, *PRUNING, "--quiet")) == 0
    return out


def test_repair_tells_the_clean_accuracy_first_and_where_the_report_is(specimen, run, tmp_path):
    code, out, err = run(*specimen.repair(tmp_path / "out"))
    assert code == 0
    assert out.startswith("Clean accuracy ")
    for expected in ("units pruned", "accuracy before", "accuracy after", "revealed label", "report.html"):
        assert expected in out
    assert "unlearning: done" in err
    assert "\x1b" not in out + err
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS


def test_json_is_the_report_and_nothing_else_is_on_standard_output(specimen, run, tmp_path):
    code, out, _ = run(*specimen.repair(tmp_path, "--json"))
    report = json.loads(out)
    assert code == 0
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert report["command"].startswith("secateur repair ")
    for name in ("repaired.safetensors", "recipe.json"):
        assert report["outputs"][name] == sha256(tmp_path / name)


def test_tensorboard_gets_the_figures_of_every_stage(specimen, run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = tmp_path / "log"
    assert run(*specimen.repair(tmp_path / "out", *PRUNING, "--tensorboard", str(log), "--quiet"))[0] == 0
    events = EventAccumulator(str(log))
    events.Reload()
    accuracy = [event.value for event in events.Scalars("unlearning/accuracy")]
    assert accuracy[-1] < accuracy[0]
    assert {tag.split("/")[0] for tag in events.Tags()["scalars"]} >= {"unlearning", "recovering", "choosing"}


def test_quiet_prints_nothing(specimen, run, tmp_path):
    assert run(*specimen.repair(tmp_path, "--quiet")) == (0, "", "")


def test_the_same_seed_repeats_the_weights_and_an_existing_result_needs_force(specimen, run, repaired):
    before = {name: sha256(repaired / name) for name in ("repaired.safetensors", "recipe.json")}
    code, _, err = run(*specimen.repair(repaired, *PRUNING))
    assert (code, "--force" in err) == (2, True)
    assert run(*specimen.repair(repaired, *PRUNING, "--quiet", "--force"))[0] == 0
    assert {name: sha256(repaired / name) for name in before} == before


def test_the_recipe_gives_the_repaired_weights_without_the_architecture(specimen, run, repaired, tmp_path):
    again = tmp_path / "again.safetensors"
    recipe = json.loads((repaired / "recipe.json").read_text())
    assert recipe["units"], "the specimen must lose units, or this proves nothing"
    # The recipe belongs to the weights, not to the file that they came in.
    code, out, _ = run("apply", str(repaired / "recipe.json"), str(specimen.pickled), "--out", str(again))
    assert code == 0
    assert f"{len(recipe['units'])} units pruned" in out
    assert again.read_bytes() == (repaired / "repaired.safetensors").read_bytes()

    original = load_file(specimen.model)
    changed = {name for name, tensor in load_file(again).items() if not torch.equal(tensor, original[name])}
    assert changed
    assert changed <= {slices["parameter"] for layer in recipe["layers"] for slices in layer["scale"]}


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """Return a folder with a backdoored network, and the command that repairs it, less its output."""
    folder, images = tmp_path_factory.mktemp("normed"), rows(240, 3)
    pixels = (images.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(folder / "clean.npz", images=pixels, labels=images.labels.numpy())
    save_file(Normed().state_dict(), folder / "normed.safetensors")
    return folder, (
        *("repair", str(folder / "normed.safetensors"), "--arch", f"{inspect.getfile(Normed)}:Normed"),
        *("--data", str(folder / "clean.npz"), "--size", str(SIZE), "--channels", "1", "--mean", "0"),
        *("--std", "1", "--threads", "1", "--out"),
    )


def test_the_recipe_of_a_polished_network_gives_what_was_pruned(run, normed, tmp_path):
    folder, repair = normed
    code, out, _ = run(*repair, str(tmp_path / "polished"))
    assert code == 0, out
    told = " ".join(out.split())
    assert "The pruned network was polished (triggers shown: " in told
    assert " made stronger), and again on all 240 images" in told
    assert {path.name for path in (tmp_path / "polished").iterdir()} == OUTPUTS
    code, out, _ = run(*repair, str(tmp_path / "pruned"), "--no-polish")
    assert code == 0, out
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("polished", "pruned")]
    assert [report["weights"]["fitted"] for report in reports] == [True, False]
    polished = load_file(tmp_path / "polished" / "repaired.safetensors")
    layers = reports[0]["units"]["layers"]
    gone = [(layer["name"], layer["indices"]) for layer in layers if layer["indices"]]
    assert gone
    assert not any(polished[f"{name}.weight"][indices].any() for name, indices in gone)
    assert not torch.equal(polished["answer.weight"], Normed().answer.weight)
    recipe, again = tmp_path / "polished" / "recipe.json", tmp_path / "again.safetensors"
    code, _, _ = run("apply", str(recipe), str(folder / "normed.safetensors"), "--out", str(again))
    assert code == 0
    assert again.read_bytes() == (tmp_path / "pruned" / "repaired.safetensors").read_bytes()


def test_an_agent_repairs_as_rnp_does_and_its_report_shows_how_it_learned(run, normed, tmp_path):
    folder, repair = normed
    code, out, _ = run(*repair, str(tmp_path), "--no-polish", "--method", "onp")
    assert code == 0, out
    assert {path.name for path in tmp_path.iterdir()} == OUTPUTS
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["method"]["name"] == "onp"
    assert report["units"]["pruned"] > 0
    evaluations = sum(one["evaluations"] for one in report["learning"]["rounds"])
    seconds = sum(one["seconds"] for one in report["learning"]["rounds"])
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert f"{evaluations:,} evaluations, {evaluations / seconds:.1f} per second" in page
    again = tmp_path / "again.safetensors"
    code, _, _ = run(
        "apply", str(tmp_path / "recipe.json"), str(folder / "normed.safetensors"), "--out", str(again)
    )
    assert code == 0
    assert again.read_bytes() == (tmp_path / "repaired.safetensors").read_bytes()


def test_masks_alone_are_no_ground_for_a_polish(specimen, run, repaired, tmp_path):
    code, out, _ = run(*specimen.repair(tmp_path / "out", *PRUNING, "--polish"))
    assert code == 0
    assert "Not polished: no trigger stood out" in " ".join(out.split())
    assert sha256(tmp_path / "out" / "repaired.safetensors") == sha256(repaired / "repaired.safetensors")


def test_evaluate_measures_the_attack_before_and_after(specimen, run, repaired):
    """ASR leaves out the target's images, and the repaired file is read like any checkpoint."""
    arguments = ("--arch", specimen.architecture, "--size", str(EDGE), "--data", str(specimen.data))
    attack = ("--trigger", str(specimen.trigger), "--target", str(TARGET))
    measured = {}
    for model in (specimen.model, repaired / "repaired.safetensors"):
        code, out, _ = run("evaluate", str(model), *arguments, *attack, "--json")
        assert code == 0
        measured[model] = json.loads(out)
    before = measured[specimen.model]
    assert before["ACC"]["n"] == 240
    assert before["ASR"]["n"] == before["RA"]["n"] == 180
    assert before["ASR"]["low"] < before["ASR"]["value"] < before["ASR"]["high"]
    assert before["ASR"]["value"] > 0.5
    assert measured[repaired / "repaired.safetensors"] != before

    code, out, _ = run("evaluate", str(specimen.model), *arguments, "--limit", "40")
    assert code == 0
    assert out.startswith("ACC")
    assert "40 images" in out
    assert "ASR" not in out


def test_evaluate_warns_where_the_input_may_be_wrong_and_measures_all_the_same(specimen, run, tmp_path):
    stored = np.load(specimen.data)
    np.savez(tmp_path / "other.npz", images=stored["images"], labels=(stored["labels"] + 1) % 4)
    evaluation = ("evaluate", str(specimen.model), "--arch", specimen.architecture, "--size", str(EDGE))
    evaluation += ("--data", str(tmp_path / "other.npz"))
    code, out, err = run(*evaluation)
    assert (code, out[:3]) == (0, "ACC")
    assert "Conventions tried" in err
    assert "Conventions tried" not in run(*evaluation, "--mean", "0", "--std", "1")[2]
    assert run(*evaluation, "--quiet")[1:] == ("", "")


def test_apply_writes_safetensors_only(specimen, run, repaired, tmp_path):
    code, _, err = run(
        "apply", str(repaired / "recipe.json"), str(specimen.model), "--out", str(tmp_path / "x.pth")
    )
    assert code == 2
    assert "a name that ends in .safetensors" in err


def test_units_lists_layers_and_why_others_are_not_prunable(specimen, run):
    arguments = ("units", str(specimen.model), "--arch", specimen.architecture)
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    listed = json.loads(out)
    assert [(layer["kind"], layer["count"]) for layer in listed["layers"]] == [("norm", 12), ("norm", 16)]
    assert listed["total"] == 28
    code, out, _ = run(*arguments)
    assert code == 0
    assert "28 units in 2 layers" in out
    for reason in listed["refused"].values():
        assert reason in out


def test_units_writes_their_graph(specimen, run, tmp_path):
    path = tmp_path / "graph.graphml"
    arguments = ("units", str(specimen.model), "--arch", specimen.architecture, "--graph", str(path))
    assert run(*arguments)[0] == 0
    told = networkx.read_graphml(path)
    assert [told.nodes[node]["layer"] for node in told] == [0] * 12 + [1] * 16
    between = [pair for *pair, kind in told.edges(data="kind") if kind == "between"]
    assert between
    assert all(told.nodes[one]["layer"] != told.nodes[other]["layer"] for one, other in between)
    written = path.read_bytes()
    code, _, err = run(*arguments)
    assert code == 2
    assert "give another --graph, or --force" in " ".join(err.split())
    assert run(*arguments, "--force")[0] == 0
    assert path.read_bytes() == written
    code, _, err = run(*arguments[:-1], str(tmp_path / "graph.txt"))
    assert code == 2
    assert "ends in .graphml" in " ".join(err.split())


def test_methods_lists_presets_and_papers(run):
    code, out, _ = run("methods", "--json")
    rnp = next(entry for entry in json.loads(out) if entry["name"] == "rnp")
    assert code == 0
    assert {"default", "paper"} <= set(rnp["presets"])
    assert rnp["paper"] in run("methods")[1]


def test_an_undecided_repair_exits_with_3_and_leaves_the_report_alone(specimen, run, tmp_path, monkeypatch):
    """A file called repaired must not exist when nothing was decided, nor an older one stay."""
    from dataclasses import replace

    from secateur import repair as methods

    def undecided(name, preset, **settings):
        method = methods.RNP(**{**methods.methods()[name].presets[preset], "threshold": 0.0})
        return lambda *given, **options: replace(method(*given, **options), outcome="inconclusive")

    monkeypatch.setattr(methods, "create", undecided)
    (tmp_path / "repaired.safetensors").write_text("old")
    code, out, _ = run(*specimen.repair(tmp_path, "--force", "--preset", "paper"))
    assert code == 3
    assert "Inconclusive" in out
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html"}
