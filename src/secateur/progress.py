"""How long-running work tells what it is doing, without knowing who listens."""

from collections import Counter
from typing import Protocol


class Progress(Protocol):
    """Listener that a method reports its stages to.

    A stage is started once and advanced at most `total` times; the next `start` ends it.
    """

    def start(self, stage: str, total: int) -> None:
        """Begin `stage`, which takes `total` steps."""

    def advance(self, **figures: float) -> None:
        """One more step of the current stage is done; `figures` are worth showing."""


class Silent:
    """The progress that nobody watches."""

    def start(self, stage: str, total: int) -> None:
        """Do nothing."""

    def advance(self, **figures: float) -> None:
        """Do nothing."""


class Log(Protocol):
    """Where figures over time go, such as TensorBoard's SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Take one figure."""


class Logging:
    """Passes everything on, and writes every figure of every step to a log.

    Parameters
    ----------
    listener
        Hears what it would without a log.
    log
        Gets a figure as ``stage/figure``. Steps of a stage that begins again are counted on.
    """

    def __init__(self, listener: Progress, log: Log) -> None:
        self._listener, self._log = listener, log
        self._stage = ""
        self._steps = Counter[str]()

    def start(self, stage: str, total: int) -> None:
        """Begin a stage."""
        self._stage = stage.replace(" ", "-")
        self._listener.start(stage, total)

    def advance(self, **figures: float) -> None:
        """Write the figures of one more step."""
        self._steps[self._stage] += 1
        for name, value in figures.items():
            self._log.add_scalar(f"{self._stage}/{name}", value, self._steps[self._stage])
        self._listener.advance(**figures)
