"""Methods are found by name, in this package and in others."""

from pathlib import Path

import pytest

from secateur.errors import MethodError
from secateur.repair import RNP, create, methods
from secateur.repair.registry import REPAIRS


def test_rnp_has_the_published_preset_and_names_its_paper() -> None:
    entry = methods()["rnp"]
    assert entry.paper == "arXiv:2305.14876"
    assert set(entry.presets) == {"default", "paper"}
    assert create("rnp") == RNP()


@pytest.mark.parametrize(
    ("name", "preset", "settings", "said"),
    [
        ("nothing", "default", {}, "rnp"),
        ("rnp", "nothing", {}, "paper"),
        ("rnp", "default", {"nothing": 1}, "nothing"),
    ],
)
def test_what_is_unknown_is_named(name: str, preset: str, settings: dict[str, int], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        create(name, preset, **settings)


def test_another_package_can_bring_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(
        "from secateur.repair import register\n"
        "@register('stranger', title='T', paper='P', year=2000)\n"
        "class Stranger:\n    pass\n"
    )
    information = tmp_path / "stranger-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[secateur.repairs]\nstranger = stranger\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(REPAIRS._entries, "stranger", None)
    del REPAIRS._entries["stranger"]
    assert type(create("stranger")).__name__ == "Stranger"
