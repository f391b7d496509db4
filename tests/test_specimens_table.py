"""Every specimen of the list has a card and results, and the checked-in lists can be read."""

from pathlib import Path

import pytest

from secateur.attacks import attacks
from secateur.specimens import read_list

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "benchmarks" / "specimens"


def test_every_specimen_has_a_card_and_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from repairs import CARDS, RESULTS

    names = set(read_list(LISTS / "small.toml"))
    assert {path.stem for path in CARDS.glob("*.json")} == names
    assert {path.stem for path in RESULTS.glob("*.json")} == names


@pytest.mark.parametrize(("name", "count"), [("small", 20), ("full", 600), ("imagenet", 60)])
def test_every_list_has_every_attack(name: str, count: int) -> None:
    recipes = read_list(LISTS / f"{name}.toml")
    assert len(recipes) == count
    assert {recipe.attack for recipe in recipes.values()} == {*attacks(), "none"}
