"""A field holds what its annotation says, or the message names it."""

from dataclasses import dataclass

import pytest

from secateur.errors import MethodError
from secateur.fields import check_fields


@dataclass
class Example:
    whole: int = 1
    number: float = 0.5
    switch: bool = False
    text: str = "a"
    perhaps: int | None = None
    sizes: tuple[int, int] | None = None
    many: tuple[float, ...] = ()
    other: object = None


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"number": 1},
        {"perhaps": 3, "sizes": (1, 2), "many": (1, 2.5)},
        {"other": [1]},
    ],
)
def test_values_of_the_right_type_pass(good: dict[str, object]) -> None:
    check_fields(Example(**good))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"whole": 1.5}, "whole 1.5 must be a whole number"),
        ({"whole": True}, "whole True must be a whole number"),
        ({"number": "x"}, "number 'x' must be a number"),
        ({"switch": 1}, "switch 1 must be true or false"),
        ({"text": 3}, "text 3 must be text"),
        ({"perhaps": "x"}, "perhaps 'x' must be a whole number"),
        ({"sizes": (1,)}, r"sizes \(1,\) must be 2 of a whole number"),
        ({"many": (1, "x")}, "several of a number"),
    ],
)
def test_others_are_refused_by_name(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        check_fields(Example(**wrong))  # type: ignore[arg-type]
