"""What a unit is, and where it lives in a network's state."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["norm", "conv", "linear", "heads"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Slices:
    """Which part of a parameter each unit of a layer owns.

    Unit ``k`` owns the indices ``[k * block, (k + 1) * block)`` of `axis`.

    Parameters
    ----------
    parameter
        Full name in the network's state dict.
    axis
        Axis that the units divide, at least 0.
    block
        Indices per unit, at least 1.

    Raises
    ------
    ValueError
        The name is empty, or a number is out of range.
    """

    parameter: str
    axis: int
    block: int = 1

    def __post_init__(self) -> None:
        if not self.parameter:
            raise ValueError("a slice needs the name of its parameter")
        if self.axis < 0:
            raise ValueError(f"{self.parameter}: the axis must be at least 0, not {self.axis}")
        if self.block < 1:
            raise ValueError(f"{self.parameter}: a unit owns at least 1 index, not {self.block}")


@dataclass(frozen=True)
class UnitLayer:
    """A layer whose units can be pruned one by one.

    Parameters
    ----------
    name
        Path of the module in the network.
    kind
        ``norm``: channels of a batch normalisation; ``conv``, ``linear``: output channels or hidden neurons
        of a layer that no normalisation follows; ``heads``: heads of an attention.
    count
        Number of units, at least 1.
    scale
        What is zeroed whenever a unit is pruned: a norm's weight, a layer's weight and bias, the columns of
        an attention's output projection. A parameter shared under several names is listed under each.
    shift
        What is zeroed as well unless only the scale is pruned: a norm's bias. Empty for other kinds.

    Raises
    ------
    ValueError
        The kind is unknown, there are no units, or nothing to zero.
    """

    name: str
    kind: Kind
    count: int
    scale: tuple[Slices, ...]
    shift: tuple[Slices, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.name}: the kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.count < 1:
            raise ValueError(f"{self.name}: a layer has at least 1 unit, not {self.count}")
        if not self.scale:
            raise ValueError(f"{self.name}: a unit needs at least one slice to zero")
        if self.shift and self.kind != "norm":
            raise ValueError(f"{self.name}: only a norm has a shift, not a layer of kind {self.kind}")

    def slices(self, *, shift: bool) -> tuple[Slices, ...]:
        """Return what pruning a unit zeroes, with or without the shift."""
        return self.scale + self.shift if shift else self.scale


@dataclass(frozen=True, order=True)
class Unit:
    """One prunable channel, hidden neuron or head: the `index`-th of the layer named `layer`."""

    layer: str
    index: int


@dataclass(frozen=True)
class Discovery:
    """What can be pruned in a network.

    Parameters
    ----------
    layers
        The layers with prunable units, in the order in which the forward pass reaches them.
    refused
        Every other module that has parameters of its own: module path to the reason in plain words.
    """

    layers: tuple[UnitLayer, ...]
    refused: dict[str, str]

    @property
    def total(self) -> int:
        """Number of units in all layers."""
        return sum(layer.count for layer in self.layers)


def all_units(layers: Iterable[UnitLayer]) -> Iterator[Unit]:
    """Yield every unit, in the order in which `Masks.flat` holds them."""
    for layer in layers:
        for index in range(layer.count):
            yield Unit(layer.name, index)


def group_units(layers: Iterable[UnitLayer], units: Iterable[Unit]) -> list[tuple[UnitLayer, list[int]]]:
    """Sort `units` by layer, checking that each exists.

    Returns
    -------
    list of (UnitLayer, list of int)
        The layers that have a unit among `units`, with the sorted indices; duplicates count once.

    Raises
    ------
    ValueError
        Two layers share a name, or a unit belongs to none of the layers or is out of its layer's range.
    """
    chosen: dict[str, tuple[UnitLayer, set[int]]] = {}
    for layer in layers:
        if layer.name in chosen:
            raise ValueError(f"two layers are named {layer.name!r}")
        chosen[layer.name] = (layer, set())
    for unit in units:
        if unit.layer not in chosen:
            raise ValueError(f"no layer is named {unit.layer!r}")
        layer, indices = chosen[unit.layer]
        if not 0 <= unit.index < layer.count:
            raise ValueError(f"{unit.layer} has the units 0 to {layer.count - 1}, not {unit.index}")
        indices.add(unit.index)
    return [(layer, sorted(indices)) for layer, indices in chosen.values() if indices]
