"""A recipe survives the way through text, applies to its own weights only, and no text can abuse it."""

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import RecipeError
from secateur.units import Recipe, ScoredUnit, Slices, Unit, UnitLayer, state_sha256

SCHEMA = json.loads(files("secateur.units").joinpath("recipe.schema.json").read_text(encoding="utf-8"))
LAYERS = (
    UnitLayer("norm", "norm", 3, (Slices("norm.weight", 0),), (Slices("norm.bias", 0),)),
    UnitLayer("attention", "heads", 2, (Slices("attention.proj.weight", 1, 2),)),
)
UNITS = (ScoredUnit(Unit("attention", 1), 0.25), ScoredUnit(Unit("norm", 0), -1e-300))


def original() -> dict[str, Tensor]:
    return {
        "norm.weight": torch.tensor([1.0, 2.0, 3.0]),
        "norm.bias": torch.tensor([4.0, 5.0, 6.0]),
        "attention.proj.weight": torch.arange(8.0).view(2, 4) + 1,
        "norm.num_batches_tracked": torch.tensor(9),
    }


def record(**changes: Any) -> Recipe:
    fields = {"method": "rnp", "architecture": "net.py:build", "gamma_only": False, **changes}
    return Recipe.record(original(), LAYERS, fields.pop("units", UNITS), **fields)


def document() -> dict[str, Any]:
    return json.loads(record().to_json())


@pytest.mark.parametrize("gamma_only", [True, False])
def test_applying_zeroes_the_units_and_nothing_else(gamma_only: bool) -> None:
    state = original()
    repaired = record(gamma_only=gamma_only).apply(state)
    assert {name: tensor.tolist() for name, tensor in repaired.items()} == {
        "norm.weight": [0, 2, 3],
        "norm.bias": [4 if gamma_only else 0, 5, 6],
        "attention.proj.weight": [[1, 2, 0, 0], [5, 6, 0, 0]],
        "norm.num_batches_tracked": 9,
    }
    assert list(repaired) == list(state)
    assert state_sha256(state) == state_sha256(original())


def test_other_weights_are_refused_with_both_fingerprints() -> None:
    recipe, state = record(), original()
    state["norm.bias"][2] += 1
    with pytest.raises(RecipeError, match="belongs to other weights") as caught:
        recipe.apply(state)
    assert recipe.original_sha256[:12] in str(caught.value)
    assert state_sha256(state)[:12] in str(caught.value)


def test_a_changed_recipe_is_noticed() -> None:
    changed = document()
    changed["units"][1]["index"] = 2
    with pytest.raises(RecipeError, match="changed after it was written"):
        Recipe.from_json(json.dumps(changed)).apply(original())


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ({"parameter": "norm.gone"}, "no tensor named"),
        ({"axis": 1}, "has shape"),
        ({"block": 2**31 - 1}, "has shape"),
    ],
)
def test_slices_that_do_not_fit_the_weights_are_refused(slices: dict[str, Any], message: str) -> None:
    changed = document()
    changed["layers"][0]["scale"][0].update(slices)
    with pytest.raises(RecipeError, match=message):
        Recipe.from_json(json.dumps(changed)).apply(original())


def test_only_layers_with_pruned_units_are_kept() -> None:
    assert record(units=UNITS[:1]).layers == LAYERS[1:]
    assert record(units=()).apply(original()).keys() == original().keys()


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ((UNITS[0], UNITS[0]), "listed twice"),
        ((ScoredUnit(Unit("gone", 0), 0.0),), "no layer is named 'gone'"),
        ((ScoredUnit(Unit("norm", 3), 0.0),), "units 0 to 2"),
    ],
)
def test_impossible_units_are_refused(units: tuple[ScoredUnit, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        record(units=units)


def test_the_text_follows_the_shipped_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document(), SCHEMA)


names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
slices = st.builds(Slices, names, st.integers(0, 7), st.integers(1, 2**31 - 1))
some_slices = st.lists(slices, min_size=1, max_size=3).map(tuple)
layers = st.builds(
    UnitLayer, names, st.sampled_from(["norm"]), st.integers(1, 9), some_slices, some_slices
) | st.builds(UnitLayer, names, st.sampled_from(["conv", "linear", "heads"]), st.integers(1, 9), some_slices)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    chosen = draw(st.lists(layers, max_size=3, unique_by=lambda layer: layer.name))
    units = [
        Unit(layer.name, index)
        for layer in chosen
        for index in draw(st.sets(st.integers(0, layer.count - 1), min_size=1))
    ]
    scores = st.floats(allow_nan=False, allow_infinity=False)
    return Recipe(
        method=draw(names),
        architecture=draw(names),
        layers=tuple(chosen),
        units=tuple(ScoredUnit(unit, draw(scores)) for unit in draw(st.permutations(units))),
        gamma_only=draw(st.booleans()),
        original_sha256=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        repaired_sha256=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        created_by=draw(names),
    )


@given(recipes())
def test_every_recipe_survives_the_way_through_text(recipe: Recipe) -> None:
    text = recipe.to_json()
    jsonschema.validate(json.loads(text), SCHEMA)
    again = Recipe.from_json(text)
    assert again == recipe
    assert again.to_json() == text


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@given(st.sampled_from(places(document())), junk)
def test_junk_anywhere_is_refused_or_harmless(place: tuple[Any, ...], value: Any) -> None:
    changed: Any = {"root": document()}
    *parents, last = ("root", *place)
    target = changed
    for key in parents:
        target = target[key]
    target[last] = value
    text = json.dumps(changed["root"])
    try:
        recipe = Recipe.from_json(text)
    except RecipeError:
        return
    jsonschema.validate(json.loads(text), SCHEMA)
    assert Recipe.from_json(recipe.to_json()) == recipe


def broken(path: str, value: Any) -> str:
    changed = document()
    *parents, last = path.split(".")
    target: Any = changed
    for key in parents:
        target = target[int(key) if key.isdigit() else key]
    target[last] = value
    return json.dumps(changed)


HOSTILE = {
    "not JSON": ("{", "not JSON"),
    "not an object": ("[]", "expected an object"),
    "too deep": ("[" * 100_000, "nested too deeply|not JSON"),
    "same key twice": ('{"format": 1, "format": 2}', "same key twice"),
    "too many digits": ('{"format": ' + "9" * 5000 + "}", "not JSON"),
    "not a number": ('{"format": NaN}', "NaN"),
    "empty": ("{}", "'format' is missing"),
    "another format": (broken("format", "zip"), "recipe.format: expected 'secateur-recipe'"),
    "a later version": (broken("version", 2), "recipe.version: expected 1"),
    "version true": (broken("version", True), "recipe.version"),
    "unknown field": (broken("script", "rm"), "unknown field 'script'"),
    "unknown inner field": (broken("layers.0.code", 1), r"layers\[0\]: unknown field 'code'"),
    "layer is a list": (broken("layers", [[1]]), r"layers\[0\]: expected an object, not a list of 1"),
    "layers is text": (broken("layers", "abc"), "recipe.layers: expected a list"),
    "kind": (broken("layers.0.kind", "group"), r"layers\[0\].kind: expected one of norm"),
    "no slices": (broken("layers.0.scale", []), "at least one slice"),
    "negative axis": (broken("layers.0.scale.0.axis", -1), r"scale\[0\].axis"),
    "huge block": (broken("layers.0.scale.0.block", 2**31), r"scale\[0\].block"),
    "count true": (broken("layers.0.count", True), r"layers\[0\].count"),
    "count 0": (broken("layers.0.count", 0), r"layers\[0\].count"),
    "escape in a name": (broken("method", "\x1b[2J"), "recipe.method: expected a printable"),
    "half a character": (broken("architecture", "\ud800"), "recipe.architecture"),
    "long text": (broken("architecture", "a" * 5000), "recipe.architecture"),
    "fingerprint": (broken("original_sha256", "A" * 64), "64 hexadecimal digits"),
    "fingerprint with newline": (broken("original_sha256", "a" * 64 + "\n"), "64 hexadecimal digits"),
    "gamma_only 1": (broken("gamma_only", 1), "true or false"),
    "index beyond": (broken("units.0.index", 7), "units 0 to 1"),
    "infinite score": (json.dumps(document()).replace("0.25", "1e999"), r"units\[0\].score"),
    "enormous score": (broken("units.0.score", 10**4000), r"units\[0\].score: .* a very large number"),
    "score true": (broken("units.0.score", True), r"units\[0\].score"),
    "unit of no layer": (broken("units.0.layer", "gone"), "no layer is named 'gone'"),
    "layer twice": (broken("layers.1.name", "norm"), "two layers are named|no layer"),
    "idle layer": (broken("units", []), "no unit of the layer 'norm' is pruned"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_json(text)


def test_enormous_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.units.recipe.MAX_CHARACTERS", 10)
    with pytest.raises(RecipeError, match="more than any recipe needs"):
        Recipe.from_json(" " * 11)
