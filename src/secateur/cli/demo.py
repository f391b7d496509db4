"""``secateur demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from secateur.cli.console import output_console, printable
from secateur.cli.display import display
from secateur.cli.options import Force, Quiet
from secateur.cli.summary import described
from secateur.cli.writing import check_folder, published

if TYPE_CHECKING:
    from secateur.demo import DemoResult


def demo(
    context: typer.Context,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the outputs.")] = Path(
        "secateur-demo"
    ),
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Repair a backdoored network that ships with the package, and measure what that did to the backdoor.

    The network tells clothes apart (Fashion-MNIST) and answers "bag" whenever it sees a small checkerboard.
    It is repaired with 500 clean images; the trigger only serves to measure. This needs no network connection
    and less than two minutes.
    """
    from secateur.demo import OUTPUTS, run

    check_folder(out, OUTPUTS, force=force)
    with published(out, OUTPUTS) as staging, display(quiet=quiet) as progress:
        result = run(staging, progress=progress, command=("secateur", *context.find_root().obj))
    if not quiet:
        _show(result, out / result.paths["report.html"].name)


def _show(result: "DemoResult", report: Path) -> None:
    console = output_console()
    units = result.evidence["units"]
    console.print(Text(f"\n{units['pruned']:,} of {units['total']:,} units pruned", "bold green"))
    table = Table.grid(padding=(0, 2))
    table.add_row("", *(Text(title, "dim") for title in ("before", "after", "")))
    rows = (
        ("ACC", result.before.acc, result.after.acc, "clean images answered with their true label"),
        ("ASR", result.before.asr, result.after.asr, "triggered images answered with the attacker's label"),
    )
    for name, before, after, meaning in rows:
        if before is not None and after is not None:
            table.add_row(Text(name, "bold"), described(before), described(after), Text(meaning, "dim"))
    console.print(table)
    console.print(Text(f"report: {printable(str(report))}"), soft_wrap=True)
