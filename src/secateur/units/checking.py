"""Reading values from a parsed document that may come from anyone."""

import math
import re
from collections.abc import Collection
from typing import NoReturn

from secateur.errors import RecipeError

MAX_TEXT = 4096
MAX_INTEGER = 2**31 - 1
MAX_ITEMS = 10_000_000


class Fields:
    """The fields of one JSON object, each taken once and checked; `finish` refuses what is left.

    Every method raises `RecipeError` with the path of the value at fault.
    """

    def __init__(self, path: str, value: object) -> None:
        if not isinstance(value, dict):
            raise RecipeError(f"{path}: expected an object, not {_show(value)}")
        self._path = path
        self._left = dict(value)

    def text(self, key: str, *, empty: bool = False) -> str:
        """Take a short printable text."""
        value = self._take(key)
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
            self._fail(key, f"a printable text of at most {MAX_TEXT} characters", value)
        if not value and not empty:
            self._fail(key, "a text that is not empty", value)
        return value

    def literal(self, key: str, expected: str | int) -> None:
        """Take a value that can only be `expected`."""
        value = self._take(key)
        if type(value) is not type(expected) or value != expected:
            self._fail(key, repr(expected), value)

    def choice(self, key: str, choices: Collection[str]) -> str:
        """Take one of `choices`."""
        value = self._take(key)
        if not isinstance(value, str) or value not in choices:
            self._fail(key, f"one of {', '.join(choices)}", value)
        return value

    def boolean(self, key: str) -> bool:
        """Take true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            self._fail(key, "true or false", value)
        return value

    def integer(self, key: str, *, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
        """Take a whole number of a range."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            self._fail(key, f"a whole number from {minimum} to {maximum}", value)
        return value

    def number(self, key: str) -> float:
        """Take a finite number."""
        value = self._take(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not _is_finite(value):
            self._fail(key, "a finite number", value)
        return float(value)

    def sha256(self, key: str) -> str:
        """Take a SHA-256 in lower-case hexadecimal."""
        value = self._take(key)
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            self._fail(key, "64 hexadecimal digits", value)
        return value

    def items(self, key: str) -> "list[Fields]":
        """Take a list of objects."""
        value = self._take(key)
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            self._fail(key, f"a list of at most {MAX_ITEMS} objects", value)
        return [Fields(f"{self._path}.{key}[{position}]", item) for position, item in enumerate(value)]

    def finish(self) -> None:
        """Refuse fields that nobody took."""
        if self._left:
            raise RecipeError(f"{self._path}: unknown field {_show(next(iter(self._left)))}")

    def _take(self, key: str) -> object:
        if key not in self._left:
            raise RecipeError(f"{self._path}: the field {key!r} is missing")
        return self._left.pop(key)

    def _fail(self, key: str, expected: str, value: object) -> NoReturn:
        raise RecipeError(f"{self._path}.{key}: expected {expected}, not {_show(value)}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _show(value: object) -> str:
    """Describe a value without repeating much of it."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**18:
        return "a very large number"
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
