"""Values of options that hold several numbers, or names with values."""

import json
import math
from collections.abc import Sequence

from secateur.errors import InputError


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read numbers separated by commas, such as ``0.5,0.5,0.5``; None stays None.

    Raises
    ------
    InputError
        A part is not a finite number.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise InputError(f"{option} {text}: give numbers separated by commas, such as {option} 0.5,0.5,0.5")
    return values


def two_numbers(option: str, text: str | None) -> tuple[float, float] | None:
    """Read two numbers, the first below the second, such as ``-1,1``.

    Raises
    ------
    InputError
        There are not two numbers, or they are not in order.
    """
    values = numbers(option, text)
    if values is None:
        return None
    if len(values) != 2 or values[0] >= values[1]:
        raise InputError(f"{option} {text}: give the lower and the upper value, such as {option} -1,1")
    return values[0], values[1]


def height_and_width(option: str, text: str | None) -> tuple[int, int] | None:
    """Read an image size in pixels: ``32``, or height and width as in ``32,48``.

    Raises
    ------
    InputError
        There are not one or two whole numbers above 0.
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(
            f"{option} {text}: give pixels as whole numbers, {option} 32 or height and width, {option} 32,48"
        )
    return int(parts[0]), int(parts[-1])


def settings(option: str, texts: Sequence[str]) -> dict[str, object]:
    """Read ``NAME=VALUE`` pairs; a value is a number, true, false, null, a JSON list, or else text.

    Raises
    ------
    InputError
        A text has no name or no equals sign.
    """
    found: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise InputError(f"{option} {text}: give a name and a value, such as {option} strength=0.5")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
