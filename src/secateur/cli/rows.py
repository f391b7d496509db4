"""A table that is written as its rows come, as CSV or Parquet."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur.files import encodable

FORMATS = (".csv", ".parquet")
UNKNOWN = -1
"""The label of an image that came without one; the table leaves it empty."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}")
"""What a spreadsheet takes for a formula when a cell begins with it."""


class Rows:
    """Writes one row for each image that was judged."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer, self._schema = writer, schema

    def write(
        self,
        files: Sequence[str],
        labels: Sequence[int],
        answers: Sequence[int | None],
        scores: Sequence[float | None],
        suspicious: Sequence[bool],
    ) -> None:
        """Write rows, column by column; None leaves a cell empty."""
        import pyarrow as pa

        known = [None if label == UNKNOWN else label for label in labels]
        columns = ([harmless(name) for name in files], known, answers, scores, suspicious)
        arrays = [pa.array(values, kind.type) for values, kind in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))


@contextmanager
def opened(path: Path, suffix: str) -> Iterator[Rows]:
    """Yield what writes rows to `path`, in the format that `suffix` names."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    schema = pa.schema(
        [
            ("file", pa.string()),
            ("label", pa.int64()),
            ("answer", pa.int64()),
            ("score", pa.float32()),
            ("suspicious", pa.bool_()),
        ]
    )
    kind = csv.CSVWriter if suffix == ".csv" else parquet.ParquetWriter
    with kind(path, schema) as writer:
        yield Rows(writer, schema)


def harmless(name: str) -> str:
    """Return the name of a file as text that is valid and no formula; a path stays a path."""
    text = encodable(name)
    return f"./{text}" if text.startswith(FORMULA) else text
