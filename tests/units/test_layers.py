"""A layer of units cannot be described wrongly."""

from typing import Any

import pytest

from secateur.units import Discovery, Slices, Unit, UnitLayer, all_units
from secateur.units.layers import group_units

SLICES = (Slices("w", 0),)


@pytest.mark.parametrize("fields", [("", 0, 1), ("w", -1, 1), ("w", 0, 0)])
def test_slices_out_of_range_are_refused(fields: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match=r"name|axis|index"):
        Slices(*fields)


@pytest.mark.parametrize(
    "change", [{"kind": "group"}, {"count": 0}, {"scale": ()}, {"kind": "conv", "shift": SLICES}]
)
def test_layers_out_of_range_are_refused(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"name": "a", "kind": "norm", "count": 2, "scale": SLICES, "shift": SLICES}
    UnitLayer(**fields)
    with pytest.raises(ValueError, match=r"^a: "):
        UnitLayer(**{**fields, **change})


def test_units_are_listed_and_sorted_by_layer() -> None:
    first, second, third = (UnitLayer(name, "conv", 2, SLICES) for name in "cab")
    assert Discovery((first, second), {}).total == 4
    assert list(all_units([first, second])) == [Unit("c", 0), Unit("c", 1), Unit("a", 0), Unit("a", 1)]
    grouped = group_units([first, second, third], [Unit("b", 1), Unit("c", 1), Unit("c", 0), Unit("b", 1)])
    assert grouped == [(first, [0, 1]), (third, [1])]
    with pytest.raises(ValueError, match="two layers"):
        group_units([first, first], [])
