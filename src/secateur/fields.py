"""Whether the fields of a dataclass hold what their annotations say, for values that come from files."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from secateur.errors import MethodError

PLAIN: dict[object, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}


def check_fields(instance: Any) -> None:
    """Compare every number, text, switch and tuple of them in a dataclass with its annotation.

    Raises
    ------
    MethodError
        One is of another type; the message names the field.
    """
    check_values(type(instance), {field.name: getattr(instance, field.name) for field in fields(instance)})


def check_values(kind: Any, values: Mapping[str, object]) -> None:
    """Do the same for values that are to become fields; nothing if `kind` is no dataclass.

    Raises
    ------
    MethodError
        One is of another type; the message names the field.
    """
    if not is_dataclass(kind):
        return
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise MethodError(f"{name} {value!r} must be {_described(hints[name])}")


def _fits(value: object, hint: object) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if origin is tuple:
        parts = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(part, parts[0]) for part in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is type(None):
        return value is None
    allowed = PLAIN.get(hint)
    # True and False are numbers to Python, and hardly ever meant as such.
    return allowed is None or (isinstance(value, allowed) and isinstance(value, bool) == (hint is bool))


def _described(hint: object) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_described(part) for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        many = inner[-1] is Ellipsis
        return f"several of {_described(inner[0])}" if many else f"{len(inner)} of {_described(inner[0])}"
    return names.get(hint, getattr(hint, "__name__", str(hint)))  # type: ignore[call-overload, no-any-return]
