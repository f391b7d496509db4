import errno
from pathlib import Path

import pytest

from secateur.cli.writing import check_file, check_folder, published
from secateur.errors import InputError

NAMES = ("one", "two", "three")


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_appears_complete(tmp_path):
    out = tmp_path / "new" / "out"
    with published(out, NAMES) as staging:
        (staging / "one").write_text("1")
        assert not out.exists()
    assert content(tmp_path) == {"new/out/one": "1"}


def test_in_a_folder_that_exists_old_outputs_go_and_other_files_stay(tmp_path):
    for name in ("one", "two", "mine"):
        (tmp_path / name).write_text("old")
    with published(tmp_path, NAMES) as staging:
        (staging / "one").write_text("new")
        (staging / "three").write_text("new")
    assert content(tmp_path) == {"one": "new", "three": "new", "mine": "old"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")], ids=repr)
def test_failing_while_writing_leaves_everything_as_it_was(tmp_path, error):
    (tmp_path / "one").write_text("old")

    def fail(out: Path) -> None:
        with published(out, NAMES) as staging:
            (staging / "one").write_text("new")
            raise error

    for out in (tmp_path, tmp_path / "new"):
        with pytest.raises(type(error)):
            fail(out)
    assert content(tmp_path) == {"one": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("moves", range(5))
def test_failing_between_two_moves_leaves_everything_as_it_was(tmp_path, monkeypatch, moves):
    before = {"one": "old", "two": "old"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    rename, left = Path.rename, iter(range(moves))

    def interrupted(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return rename(self, target)

    with pytest.raises(KeyboardInterrupt), published(tmp_path, NAMES) as staging:  # noqa: PT012
        for name in NAMES:
            (staging / name).write_text("new")
        monkeypatch.setattr(Path, "rename", interrupted)
    assert content(tmp_path) == before


def test_checking_leaves_nothing_behind(tmp_path):
    check_folder(tmp_path / "a" / "b", NAMES, force=False)
    check_file(tmp_path / "a" / "file", force=False)
    assert not list(tmp_path.iterdir())


def test_existing_outputs_are_only_replaced_on_demand(tmp_path):
    (tmp_path / "two").write_text("old")
    with pytest.raises(InputError, match=r"already holds two; .*--force"):
        check_folder(tmp_path, NAMES, force=False)
    with pytest.raises(InputError, match=r"two: exists; .*--force"):
        check_file(tmp_path / "two", force=False)
    check_folder(tmp_path, NAMES, force=True)
    check_file(tmp_path / "two", force=True)
