"""``secateur demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from secateur.cli.console import output_console, say
from secateur.cli.display import display
from secateur.cli.opening import prepare_device
from secateur.cli.options import Device, Force, Quiet, Threads
from secateur.cli.repairing import OUTPUTS, REPORT
from secateur.cli.summary import described, show_summary
from secateur.cli.writing import check_folder, published

if TYPE_CHECKING:
    from secateur.demo import DemoResult


def demo(
    context: typer.Context,
    *,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for the repaired network and the report."),
    ] = Path("secateur-demo"),
    force: Force = False,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Repair a backdoored network that comes with the package, and measure it before and after.

    Takes under two minutes and needs neither network access nor a GPU.

    Example: [cyan]secateur demo --out demo/[/]
    """
    check_folder(out, OUTPUTS, force=force)
    prepare_device(Device.CPU, threads)
    from secateur.demo import run

    if not quiet:
        say("Repairing a small network that answers the target label whenever an image carries its trigger.")
    # The report is written at the end; until then the folder is as it was.
    with published(out, OUTPUTS) as staging, display(quiet=quiet) as progress:
        result = run(staging, progress=progress, command=("secateur", *context.find_root().obj))
    if not quiet:
        show_summary(result.evidence, out / REPORT)
        _show_attack(result)


def _show_attack(result: "DemoResult") -> None:
    table = Table("", "before", "after", box=None, pad_edge=False, header_style="bold")
    for name in ("acc", "asr"):
        before, after = getattr(result.before, name), getattr(result.after, name)
        table.add_row(name.upper(), described(before), described(after))
    console = output_console()
    console.print()
    console.print(table)
    say("ACC: clean test images answered right. ASR: triggered images that the attack still misleads.")
