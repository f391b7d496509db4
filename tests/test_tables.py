"""The tables of the documents are what was measured."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("document", ["README.md", "docs/scan.md", "docs/onp.md", "docs/specimens.md"])
def test_a_document_has_the_tables_that_its_results_render(
    document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from tables import TABLES, rendered

    assert document in TABLES
    assert rendered(document) == (ROOT / document).read_text(encoding="utf-8")


def test_every_document_with_marks_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from tables import TABLES

    texts = {
        path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
    }
    marked = {path.relative_to(ROOT).as_posix() for path, text in texts.items() if "<!-- /" in text}
    assert marked == set(TABLES)
