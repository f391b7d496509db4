"""The command: its verbs, and what becomes of errors."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, cast

import typer

from secateur._version import __version__
from secateur.cli.apply import apply
from secateur.cli.codes import BAD_INPUT, BROKEN_PIPE, DONE, INCONCLUSIVE, INTERNAL, INTERRUPTED
from secateur.cli.console import complain
from secateur.cli.demo import demo
from secateur.cli.evaluate import evaluate
from secateur.cli.filter import filter_
from secateur.cli.methods import attacks, detectors, methods
from secateur.cli.options import FLAG
from secateur.cli.repair import repair
from secateur.cli.scan import scan
from secateur.cli.specimen import specimen
from secateur.cli.units import units
from secateur.errors import InconclusiveError, SecateurError

# Everything that can be wrong with a command line: unknown options, missing arguments, values out of range.
USAGE_ERROR = cast(type[Exception], typer.BadParameter.__bases__[0])

app = typer.Typer(
    help="Repair backdoored neural networks by pruning the few units that carry the backdoor.",
    epilog="Exit codes: 0 done; 1 scan found evidence; 2 something given cannot be used; 3 inconclusive; "
    "70 an error in secateur; 130 interrupted; 141 the reader of the output is gone.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _unwrapped(text: str) -> str:
    """Join the lines of each paragraph: terminals are as wide as they are."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"secateur {__version__}\n")
        raise typer.Exit


@app.callback()
def start(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, metavar=FLAG, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options that come before the verb."""


VERBS: tuple[Callable[..., None], ...] = (
    scan,
    repair,
    filter_,
    apply,
    evaluate,
    units,
    methods,
    specimen,
    attacks,
    detectors,
    demo,
)
for verb in VERBS:
    # A verb with the name of a built-in ends in an underscore.
    app.command(verb.__name__.removesuffix("_"), help=_unwrapped(verb.__doc__ or ""))(verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every foreseen error is one clear sentence.

    Parameters
    ----------
    arguments
        Without the program's name; those of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(args=given, prog_name="secateur", standalone_mode=False, obj=tuple(given))
        sys.stdout.flush()
    except InconclusiveError as error:
        complain(str(error))
        return INCONCLUSIVE
    except SecateurError as error:
        complain(str(error))
        return BAD_INPUT
    except USAGE_ERROR as error:
        complain(_usage(error))
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        if error.errno == errno.EPIPE:
            _detach_output()
            return BROKEN_PIPE
        complain(_system_error(error))
        return BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            return _fault()
        complain("there is not enough memory; take fewer or smaller images (--samples, --size)")
        return BAD_INPUT
    except Exception:
        return _fault()
    if code == INTERRUPTED:
        complain("interrupted; what was not finished was not written")
    return code if isinstance(code, int) else DONE


def _fault() -> int:
    """Show an error that nobody foresaw; Python's own exit code for it is that of evidence."""
    traceback.print_exc()
    complain("this is a fault of secateur, not of what you gave it; please report it with the lines above")
    return INTERNAL


def _usage(error: Exception) -> str:
    message = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "secateur"
    return f"{message if message.endswith('?') else message.rstrip('.') + '.'} See {command} --help"


def _system_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; nothing was written"
    if error.errno == errno.EFBIG:
        return f"{where}the file would be larger than this process may write; nothing was written"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}permission denied; choose a place that you may write to and read from"
    return f"{where}{error.strerror or error}"


def _out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out; torch's error on CPUs is of no type of its own."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def _detach_output() -> None:
    """Keep the interpreter from complaining that it cannot flush what nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
