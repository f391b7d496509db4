"""What a repair came to, in a few lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from secateur.cli.console import output_console, printable

if TYPE_CHECKING:
    from secateur.statistics import Proportion

STYLES = {
    "repaired": "bold green",
    "nothing found": "bold",
    "inconclusive": "bold yellow",
    "evidence": "bold red",
    "no evidence": "bold",
}


def measured(share: float, low: float, high: float, images: int) -> str:
    """Return a share with its interval: ``84.2 % (80.8 to 87.1 %, 500 images)``."""
    return f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f} %, {images:,} images)"


def described(proportion: "Proportion") -> str:
    """Return a proportion with its 95 % interval; a dash if nothing was counted."""
    if not proportion.total:
        return "- (no images)"
    return measured(proportion.value, *proportion.interval(), proportion.total)


def show_summary(evidence: Mapping[str, Any], report: Path) -> None:
    """Print outcome, accuracy before and after, units pruned, revealed label and where the report is.

    Parameters
    ----------
    evidence
        As `secateur.report.collect` returns it.
    report
        The HTML file.
    """
    _show(evidence["outcome"], evidence["outcome"].capitalize(), _rows(evidence), report)


def show_scan(evidence: Mapping[str, Any], report: Path | None) -> None:
    """Print the verdict, every check and where the report is.

    Parameters
    ----------
    evidence
        As `secateur.report.collect_scan` returns it.
    report
        The HTML file, if one was written.
    """
    title = {"evidence": "Evidence of a backdoor", "no evidence": "No evidence of a backdoor found"}
    rows = [
        ("verdict", evidence["statement"]),
        *(
            ("run" if check["ran"] else "not run", f"{check['check']}. {check['statement']}")
            for check in evidence["checks"]
        ),
        *_revealed(evidence["exposure"]),
        *(("note", note) for note in evidence["notes"]),
    ]
    _show(evidence["outcome"], title.get(evidence["outcome"], "Inconclusive"), rows, report)


def _show(outcome: str, title: str, rows: Sequence[tuple[str, str]], report: Path | None) -> None:
    console = output_console()
    console.print(Text(f"\n{title}", STYLES.get(outcome, "bold")))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, printable(value))
    if report is not None:
        table.add_row("report", Text(printable(str(report)), overflow="fold"))
    console.print(table)


def _rows(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    units, accuracy, loss = evidence["units"], evidence["accuracy"], evidence["loss"]
    rows = [("units pruned", f"{units['pruned']:,} of {units['total']:,}")]
    for moment in ("before", "after"):
        number = accuracy[moment]
        if number is not None:
            shown = measured(number["value"], number["low"], number["high"], number["n"])
            rows.append((f"accuracy {moment}", shown))
    if loss is not None:
        rows.append(("loss", loss["statement"]))
    if evidence["trigger"] is not None:
        rows.append(("inverted trigger", evidence["trigger"]["statement"]))
    rows += _revealed(evidence["exposure"])
    return [*rows, *(("note", note) for note in evidence["notes"])]


def _revealed(exposure: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if exposure is None or exposure["labels"] is None:
        return []
    return [("revealed label", exposure["labels"]["statement"])]
