"""Render the tables of the documents from the result files, between marks like ``<!-- repairs -->``.

python benchmarks/tables.py
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checkpoints
import exposure
import policies
import repairs

from secateur.files import write_text

ROOT = Path(__file__).resolve().parents[1]


def of(results: Path, render: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """Return what renders the cells of a result file."""
    return lambda: render(json.loads(results.read_text(encoding="utf-8"))["cells"])


TABLES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {
        "checkpoints": of(
            checkpoints.RESULTS, lambda cells: checkpoints.table(checkpoints.with_default(cells))
        )
    },
    "docs/scan.md": {"exposure": of(exposure.RESULTS, exposure.table)},
    "docs/onp.md": {
        "pairs": of(exposure.RESULTS, exposure.pairs),
        "study": of(policies.RESULTS, policies.table),
        "transfer": of(policies.RESULTS, policies.transfer),
        "paired": of(policies.RESULTS, policies.paired),
    },
    "docs/specimens.md": {
        "cards": lambda: repairs.specimen_table(repairs.CARDS),
        "repairs": lambda: repairs.repair_table(repairs.RESULTS),
    },
}
"""By document and mark."""


def rendered(document: str) -> str:
    """Return a document with its tables as the results are now."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for mark, render in TABLES[document].items():
        between = re.compile(f"(?<=<!-- {mark} -->\n).*?(?=\n<!-- /{mark} -->)", flags=re.DOTALL)
        table = render()
        text, count = between.subn(lambda _, table=table: table, text)
        if count != 1:
            raise SystemExit(f"{document} needs the marks <!-- {mark} --> and <!-- /{mark} --> once")
    return text


if __name__ == "__main__":
    for document in TABLES:
        write_text(ROOT / document, rendered(document))
