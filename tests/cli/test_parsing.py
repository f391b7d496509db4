import pytest

from secateur.cli import parsing
from secateur.errors import InputError


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (parsing.numbers, "0.5", (0.5,)),
        (parsing.numbers, "0.5, -1,2e-1", (0.5, -1.0, 0.2)),
        (parsing.two_numbers, "-1,1", (-1.0, 1.0)),
        (parsing.height_and_width, "32", (32, 32)),
        (parsing.height_and_width, "32,48", (32, 48)),
    ],
)
def test_numbers_are_read(read, text, value):
    assert read("--option", text) == value
    assert read("--option", None) is None


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((parsing.numbers, text) for text in ("", "a", "0.5,", "0.5;0.5", "nan", "1,inf")),
        *((parsing.two_numbers, text) for text in ("1", "1,1", "1,0", "0,1,2")),
        *((parsing.height_and_width, text) for text in ("", "0", "-32", "32.5", "32x32", "1,2,3", "32,")),
    ],
)
def test_what_cannot_be_read_is_named_with_an_example(read, text):
    with pytest.raises(InputError, match=f"--option {text}: give .*--option"):
        read("--option", text)
