"""Recipes from TOML, and what changes their fingerprint."""

from dataclasses import replace
from pathlib import Path

import pytest

from secateur.errors import InputError, MethodError
from secateur.specimens import SpecimenRecipe, Training, read_list
from secateur.specimens.recipe import _imported, _without_docstrings

RECIPE = SpecimenRecipe(model="secateur:resnet20", data="images", attack="badnets")


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_specimen_inherits_the_defaults_field_by_field(tmp_path: Path) -> None:
    path = written(
        tmp_path / "list.toml",
        """
[defaults]
model = "secateur:resnet20"
data = "images"
start = "clean.pth"
mean = [0.5, 0.5, 0.5]
[defaults.training]
epochs = 3
rate = 0.02
[defaults.goal]
target = 4
[specimens.badnets]
attack = "badnets"
[specimens.badnets.goal]
rate = 0.05
[specimens.badnets.training]
epochs = 5
[specimens.clean]
seed = 2
""",
    )
    badnets, clean = read_list(path).values()
    assert badnets.training == Training(epochs=5, rate=0.02)
    attack = badnets.create_attack()
    assert attack is not None
    assert (attack.goal.target, attack.goal.rate) == (4, 0.05)
    assert badnets.start == tmp_path / "clean.pth"
    assert badnets.data == str(tmp_path / "images")
    assert clean.create_attack() is None
    assert list(read_list(path, ["clean"])) == ["clean"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not toml [", "TOML"),
        ("[defaults]\nmodel = 'm'", "table for each specimen"),
        ("specimens = 3", "table for each specimen"),
        ("[specimens.a]\nmodel = 'm'", "a: data is missing"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nattack = 'nothing'", "no attack is called 'nothing'"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nepochs = 3", "epochs"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nattack = 'badnets'\ngoal = {rate = 2}", "rate"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nattack = 'badnets'\ngoal = {rte = 2}", "rte"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nattack = 'badnets'\nsettings = {rate = 2}", "rate"),
        ("[specimens.a]\nmodel = 'm'\ndata = 3", "a:"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\ntraining = {epochs = 'many'}", "a:"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\ntraining = 3", "are tables"),
        ("axes = 3", "table for each specimen"),
        ("[specimens.'../x']\nmodel = 'm'\ndata = 'd'", "no name of a folder"),
        ("[specimens.'/x']\nmodel = 'm'\ndata = 'd'", "no name of a folder"),
        ("[specimens.a]\nmodel = 3\ndata = 'd'", "model 3 must be text"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nseed = 'x'", "seed 'x' must be a whole number"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nsize = [224]", "size"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nattack = 'badnets'\ngoal = {target = 1.5}", "target 1.5"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nattack = 'wanet'\nsettings = {points = 4.5}", "points 4.5"),
        (
            "[specimens.a]\nmodel = 'm'\ndata = 'd'\nstart = 'specimen:b'\n"
            "[specimens.b]\nmodel = 'm'\ndata = 'd'\nstart = 'specimen:a'",
            "start from each other",
        ),
        (
            "[specimens.a]\nmodel = 'm'\ndata = 'd'\nattack = 'badnets'\n"
            "goal = {mapping = 'source-specific', sources = [1]}",
            "needs covers",
        ),
        ("[axes.seed]\nx = 1", "table for each specimen"),
        ("[specimens.a]\nmodel = 'm'\ndata = 'd'\nsurrogate = 'specimen:{x}'", "no axis 'x'"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "list.toml", text)
    with pytest.raises(InputError, match=said) as raised:
        read_list(path)
    assert str(path) in str(raised.value)


def test_axes_stand_for_all_their_combinations(tmp_path: Path) -> None:
    path = written(
        tmp_path / "list.toml",
        """
[defaults]
data = "images"
training = { epochs = 4 }
[axes.model.resnet20]
model = "secateur:resnet20"
[axes.model.vgg]
model = "secateur:vgg19_bn"
training = { rate = 0.05 }
[axes.attack.clean]
[axes.attack.trojan]
attack = "trojan"
surrogate = "specimen:{model}-clean-{seed}"
[axes.seed.0]
[axes.seed.1]
seed = 1
[specimens.alone]
model = "secateur:resnet32"
""",
    )
    recipes = read_list(path, made=tmp_path / "out")
    assert len(recipes) == 9
    one = recipes["vgg-trojan-1"]
    assert (one.model, one.attack, one.seed) == ("secateur:vgg19_bn", "trojan", 1)
    assert one.training == Training(epochs=4, rate=0.05)
    assert one.surrogate == tmp_path / "out" / "vgg-clean-1" / "weights.safetensors"
    assert recipes["resnet20-clean-0"].surrogate is None
    assert "alone" in recipes


def test_a_missing_list_and_a_missing_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml"):
        read_list(tmp_path / "none.toml")
    path = written(tmp_path / "list.toml", "[specimens.a]\nmodel='m'\ndata='d'")
    with pytest.raises(InputError, match="there are: a"):
        read_list(path, ["b"])


def test_the_fingerprint_follows_what_determines_the_specimen_and_nothing_else(tmp_path: Path) -> None:
    start = written(tmp_path / "start.bin", "weights")
    same = written(tmp_path / "copy.bin", "weights")
    digests = {
        RECIPE.digest("images"),
        RECIPE.digest("other images"),
        replace(RECIPE, seed=1).digest("images"),
        replace(RECIPE, goal={"target": 1}).digest("images"),
        replace(RECIPE, settings={"size": 4}).digest("images"),
        replace(RECIPE, training=Training(epochs=2)).digest("images"),
        replace(RECIPE, start=start).digest("images"),
    }
    assert len(digests) == 7
    assert replace(RECIPE, start=same).digest("images") in digests
    assert replace(RECIPE, remark="a word to the reader").digest("images") in digests
    assert replace(RECIPE, data="elsewhere").digest("images") in digests
    assert replace(RECIPE, settings={"size": 3}).digest("images") in digests


def test_what_a_specimen_starts_from_comes_before_it(tmp_path: Path) -> None:
    path = written(
        tmp_path / "list.toml",
        """
[defaults]
model = "m"
data = "d"
[specimens.late]
start = "specimen:middle"
[specimens.other]
[specimens.middle]
surrogate = "specimen:early"
[specimens.early]
""",
    )
    assert list(read_list(path, ["late"])) == ["early", "middle", "late"]
    everything = list(read_list(path))
    assert sorted(everything) == ["early", "late", "middle", "other"]
    assert everything.index("early") < everything.index("middle") < everything.index("late")


def test_the_fingerprint_follows_the_file_of_an_architecture(tmp_path: Path) -> None:
    file = written(tmp_path / "net.py", "def f():\n    return 1\n")
    recipe = replace(RECIPE, model=f"{file}:f")
    first = recipe.digest("images")
    file.write_text("def f():\n    # Why.\n    return 1\n")
    assert recipe.digest("images") == first
    file.write_text("def f():\n    return 2\n")
    assert recipe.digest("images") != first


def test_the_code_of_an_attack_is_what_it_imports_too() -> None:
    assert _imported("secateur.attacks.lira")[0] == "secateur.attacks.lira"
    assert "secateur.attacks._generator" in _imported("secateur.attacks.lira")
    assert "secateur.attacks.badnets" in _imported("secateur.attacks.feature_collision")


def test_docstrings_and_comments_are_no_part_of_the_code() -> None:
    import ast

    documented = 'class A:\n    x: int = 0\n    """Of the thing."""\n'
    bare = "class A:\n    x: int = 0\n"
    assert ast.dump(_without_docstrings(ast.parse(documented))) == ast.dump(ast.parse(bare))
    one = 'def f(x):\n    """Say."""\n    return x  # why\n'
    two = "def f(x):\n    return x\n"
    assert ast.dump(_without_docstrings(ast.parse(one))) == ast.dump(_without_docstrings(ast.parse(two)))


def test_a_clean_specimen_has_nothing_to_set() -> None:
    with pytest.raises(MethodError, match="clean specimen"):
        replace(RECIPE, attack="none", goal={"target": 1}).create_attack()
