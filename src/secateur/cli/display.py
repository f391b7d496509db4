"""What a long-running method is doing, live on a terminal and line by line elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from secateur.cli.console import error_console, printable
from secateur.progress import Log, Logging, Progress, Silent

HEARTBEAT_SECONDS = 30.0


@contextmanager
def display(*, quiet: bool, console: Console | None = None, log: Log | None = None) -> Iterator[Progress]:
    """Yield the progress that suits `console` (standard error by default).

    `quiet` shows nothing; a `log` gets all figures, shown or not.
    """
    with _shown(console or error_console(), quiet=quiet) as progress:
        yield Logging(progress, log) if log else progress


@contextmanager
def _shown(console: Console, *, quiet: bool) -> Iterator[Progress]:
    if quiet:
        yield Silent()
    elif console.is_terminal:
        with Bars(console) as bars:
            yield bars
    else:
        lines = Lines(console)
        yield lines
        lines.finish()


class Bars:
    """One bar per stage; the last one moves."""

    def __init__(self, console: Console) -> None:
        self._bars = RichProgress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}", style="cyan"),
            console=console,
        )
        self._stage: TaskID | None = None

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is None:
            self._end()
        self._bars.stop()

    def start(self, stage: str, total: int) -> None:
        """Begin a stage, which ends the one before."""
        self._end()
        self._stage = self._bars.add_task(printable(stage), total=total, figures="")

    def advance(self, **figures: float) -> None:
        """Move the bar of the current stage."""
        if self._stage is not None:
            self._bars.update(self._stage, advance=1, figures=described(figures))

    def _end(self) -> None:
        if self._stage is None:
            return
        # A stage may need fewer steps than it might have; its bar is full all the same.
        done = self._bars.tasks[self._stage].completed
        self._bars.update(self._stage, total=max(1, done), completed=max(1, done))
        self._bars.stop_task(self._stage)


class Lines:
    """One line when a stage ends, and a sign of life while it takes long."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: str | None = None
        self._total = 0
        self._steps = 0
        self._figures = ""
        self._began = self._spoke = 0.0

    def start(self, stage: str, total: int) -> None:
        """Begin a stage, which ends the one before."""
        self.finish()
        self._stage, self._total, self._steps, self._figures = printable(stage), total, 0, ""
        self._began = self._spoke = time.monotonic()

    def advance(self, **figures: float) -> None:
        """Count a step of the current stage."""
        self._steps += 1
        self._figures = described(figures)
        if time.monotonic() - self._spoke > HEARTBEAT_SECONDS:
            self._say(f"{self._steps} of at most {self._total} steps so far")

    def finish(self) -> None:
        """End the current stage, if there is one."""
        if self._stage is not None:
            self._say(f"done in {self._steps} {'step' if self._steps == 1 else 'steps'}")
        self._stage = None

    def _say(self, what: str) -> None:
        self._spoke = time.monotonic()
        figures = f"; {self._figures}" if self._figures else ""
        self._console.print(
            f"{self._stage}: {what}, {self._spoke - self._began:.1f} s{figures}", soft_wrap=True
        )


def described(figures: dict[str, float]) -> str:
    """Return figures as text; an accuracy is a percentage."""
    return ", ".join(
        f"{name.replace('_', ' ')} {f'{value:.1%}' if name.endswith('accuracy') else f'{value:.4g}'}"
        for name, value in figures.items()
    )
