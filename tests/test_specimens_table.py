"""The tables of docs/specimens.md are what cards and results say, and the checked-in lists can be read."""

from pathlib import Path

import pytest

from secateur.attacks import attacks
from secateur.specimens import read_list

ROOT = Path(__file__).resolve().parents[1]
LISTS = ROOT / "benchmarks" / "specimens"


def test_the_table_is_what_the_cards_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from repairs import CARDS, specimen_table

    assert {path.stem for path in CARDS.glob("*.json")} == set(read_list(LISTS / "small.toml"))
    assert specimen_table(CARDS) in (ROOT / "docs" / "specimens.md").read_text(encoding="utf-8")


def test_the_table_of_repairs_is_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from repairs import CARDS, RESULTS, repair_table

    assert {path.stem for path in RESULTS.glob("*.json")} == {path.stem for path in CARDS.glob("*.json")}
    assert repair_table(RESULTS) in (ROOT / "docs" / "specimens.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "count"), [("small", 20), ("full", 600), ("imagenet", 60)])
def test_every_list_has_every_attack(name: str, count: int) -> None:
    recipes = read_list(LISTS / f"{name}.toml")
    assert len(recipes) == count
    assert {recipe.attack for recipe in recipes.values()} == {*attacks(), "none"}
