"""Methods by name: ours, and those that other packages add by entry point."""

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from secateur.errors import MethodError
from secateur.fields import check_fields, check_values

Method = TypeVar("Method")


@dataclass(frozen=True)
class Entry(Generic[Method]):
    """A registered method.

    Attributes
    ----------
    name
        What the command line takes.
    build
        Makes the method from hyperparameters given by keyword.
    title, paper, year
        The publication.
    presets
        Named sets of hyperparameters; ``default`` is always there.
    """

    name: str
    build: Callable[..., Method]
    title: str
    paper: str
    year: int
    presets: dict[str, dict[str, object]]

    @property
    def settings(self) -> dict[str, object]:
        """Names and defaults of the hyperparameters, where the method is a dataclass."""
        if not is_dataclass(self.build):
            return {}
        # Without building one: a method may need an extra that is not installed.
        return {known.name: _default(known) for known in fields(self.build) if known.init}


def _default(known: Field[object]) -> object:
    return known.default if known.default_factory is MISSING else known.default_factory()


@dataclass(frozen=True)
class Registry(Generic[Method]):
    """All methods of one kind.

    Attributes
    ----------
    kind
        What one is called in messages, such as ``repair method``.
    group
        The entry points by which other packages add theirs.
    """

    kind: str
    group: str
    _entries: dict[str, Entry[Method]] = field(default_factory=dict)

    def register(
        self,
        name: str,
        *,
        title: str,
        paper: str,
        year: int,
        presets: dict[str, dict[str, object]] | None = None,
    ) -> Callable[[type], type]:
        """Register the decorated dataclass under `name`."""

        def remember(cls: type) -> type:
            self._entries[name] = Entry(name, cls, title, paper, year, {"default": {}, **(presets or {})})
            return cls

        return remember

    def entries(self) -> dict[str, Entry[Method]]:
        """Return every known method by name, those of other packages included."""
        for point in entry_points(group=self.group):
            if point.name not in self._entries:
                point.load()
        return dict(sorted(self._entries.items()))

    def create(self, name: str, preset: str = "default", **hyperparameters: object) -> Method:
        """Make the method `name` with a preset's hyperparameters, overridden by those given.

        Raises
        ------
        MethodError
            The method, the preset or a hyperparameter is unknown, or a value is out of range.
        """
        known = self.entries()
        if name not in known:
            raise MethodError(f"no {self.kind} is called {name!r}; there are: {', '.join(known)}")
        entry = known[name]
        if preset not in entry.presets:
            raise MethodError(f"{name} has no preset {preset!r}; there are: {', '.join(entry.presets)}")
        settings = entry.settings
        unknown = [setting for setting in hyperparameters if setting not in settings]
        if unknown and settings:
            raise MethodError(f"{name} has no setting {', '.join(unknown)}; it has: {', '.join(settings)}")
        try:
            method = entry.build(**{**entry.presets[preset], **hyperparameters})
        except TypeError as error:
            # More often than not a number was wanted and is none: that message names the setting.
            check_values(entry.build, hyperparameters)
            raise MethodError(f"{name}: {error}") from error
        if is_dataclass(method):
            check_fields(method)
        return method
