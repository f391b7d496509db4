"""How long-running work tells what it is doing, without knowing who listens."""

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
