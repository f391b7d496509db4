"""Which units, and which outputs of other layers, each number of an activation comes from."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Terms = frozenset[int]
MANY = 1 << 15
"""Sets that one operation may make: beyond it, what differs from place to place is taken together."""


class Origins:
    """Numbers for sets of terms, so that a tensor can say of each of its elements where it comes from.

    A term is a row of a node: nodes are first the layers with units, then every other application of weights.
    A number stands for all the terms that an element depends on, and for the units that it still carries:
    those whose channel it is, rather than something computed from many channels. Number 0 stands for no term.

    Parameters
    ----------
    counts
        Number of units of each layer.
    """

    def __init__(self, counts: Iterable[int]) -> None:
        self.starts = [0]
        self._sets: list[tuple[Terms, Terms]] = [(frozenset(), frozenset())]
        self._numbers = {self._sets[0]: 0}
        for count in counts:
            self.new_node(count)
        self._layers = len(self.starts) - 1
        self._partners = list(range(self.starts[-1]))

    def new_node(self, rows: int) -> int:
        """Make room for the terms of another node, and return its position."""
        self.starts.append(self.starts[-1] + rows)
        return len(self.starts) - 2

    def rows(self, node: int) -> Tensor:
        """Return the numbers of a node's rows, each of which comes from itself alone, shape ``(rows,)``."""
        carries = node < self._layers
        terms = (frozenset([term]) for term in range(self.starts[node], self.starts[node + 1]))
        numbers = [self._number(term, term if carries else frozenset()) for term in terms]
        # Whole numbers up to 16 million, in the one type that every operation that moves elements accepts.
        return torch.tensor(numbers, dtype=torch.float32)

    def terms(self, number: int) -> Terms:
        """Return the terms that a number stands for."""
        return self._sets[number][0]

    def join(self, first: Tensor, second: Tensor, *, adds: bool = False) -> Tensor:
        """Return the numbers of what an operation computes from two operands, element by element.

        Parameters
        ----------
        first, second
            Numbers of shapes that broadcast.
        adds
            Whether the operation adds, so that the units that meet in it become one group.

        Returns
        -------
        Tensor
            Numbers, as many along each axis as differ: their shape broadcasts to that of the result.
        """
        first, second = _compact(first), _compact(second)
        keys, places = torch.unique(first.long() * len(self._sets) + second.long(), return_inverse=True)
        met = [divmod(key, len(self._sets)) for key in keys.tolist()]
        if len(met) > MANY:
            return first.new_tensor(self._pooled({number for pair in met for number in pair}))
        spread = self._spread(met), self._spread([(other, one) for one, other in met])
        numbers = []
        for pair in met:
            own = [
                frozenset() if number in wide else self._sets[number][1]
                for number, wide in zip(pair, spread, strict=True)
            ]
            if adds and all(own):
                self._meet(own[0] | own[1])
            numbers.append(self._number(self.terms(pair[0]) | self.terms(pair[1]), own[0] | own[1]))
        return first.new_tensor(numbers)[places]

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the numbers of a matrix product: each takes a row of one factor, a column of the other."""
        rows, columns = self.pool(first, [-1]), self.pool(second, [-2])
        if len(rows.unique()) * len(columns.unique()) > MANY:  # type: ignore[no-untyped-call]
            rows = self.pool(rows, [-2])
        return self.join(rows, columns)

    def pool(self, numbers: Tensor, axes: Sequence[int], *, adds: bool = False) -> Tensor:
        """Return the numbers of what is computed from all elements along `axes`, which stay with length 1.

        Parameters
        ----------
        numbers
            Numbers of any shape.
        axes
            The axes that are taken together.
        adds
            Whether elements are added, so that units that meet become one group, unless they are channels of
            one layer.

        Returns
        -------
        Tensor
            Numbers of the same shape, but for `axes`.
        """
        gone = sorted({axis % numbers.dim() for axis in axes})
        compact = _compact(numbers)
        kept = [axis for axis in range(numbers.dim()) if axis not in gone]
        rows = compact.permute(*kept, *gone).flatten(len(kept))
        shape = [1 if axis in gone else compact.shape[axis] for axis in range(numbers.dim())]
        if rows.shape[-1] > 1:
            rows = rows.reshape(-1, rows.shape[-1])
            rows = rows.new_tensor([self._pooled(set(map(int, row)), adds=adds) for row in rows.tolist()])
        return rows.reshape(shape).expand(
            [1 if axis in gone else numbers.shape[axis] for axis in range(numbers.dim())]
        )

    def groups(self) -> list[int]:
        """Return the number of each unit's group, counted from 0 in the order of the units."""
        names: dict[int, int] = {}
        return [names.setdefault(self._root(unit), len(names)) for unit in range(len(self._partners))]

    def _number(self, terms: Terms, carried: Terms) -> int:
        number = self._numbers.setdefault((terms, carried), len(self._sets))
        if number == len(self._sets):
            self._sets.append((terms, carried))
        return number

    def _pooled(self, numbers: set[int], *, adds: bool = False) -> int:
        terms, carried = (
            Terms().union(*sets) for sets in zip(*map(self._sets.__getitem__, numbers), strict=True)
        )
        if self._differ(numbers):
            carried = Terms()
        elif adds:
            self._meet(carried)
        return self._number(terms, carried)

    def _spread(self, pairs: Iterable[tuple[int, int]]) -> set[int]:
        """Find the numbers that meet several channels of one layer: they gate or shift it as a whole."""
        partners: dict[int, set[int]] = {}
        for one, other in pairs:
            partners.setdefault(one, set()).add(other)
        return {number for number, others in partners.items() if self._differ(others)}

    def _differ(self, numbers: Iterable[int]) -> bool:
        """Tell whether the numbers carry different units of the same layer."""
        seen: dict[int, Terms] = {}
        for number in numbers:
            carried: dict[int, set[int]] = {}
            for unit in self._sets[number][1]:
                carried.setdefault(bisect_right(self.starts, unit), set()).add(unit)
            for layer, units in carried.items():
                if seen.setdefault(layer, frozenset(units)) != units:
                    return True
        return False

    def _meet(self, units: Terms) -> None:
        roots = [self._root(unit) for unit in units]
        for root in roots:
            self._partners[root] = min(roots)

    def _root(self, unit: int) -> int:
        while self._partners[unit] != unit:
            self._partners[unit] = self._partners[self._partners[unit]]
            unit = self._partners[unit]
        return unit


def _compact(numbers: Tensor) -> Tensor:
    """Keep one element of every axis along which all are equal."""
    for axis in reversed(range(numbers.dim())):
        first = numbers.narrow(axis, 0, min(1, numbers.shape[axis]))
        if numbers.shape[axis] > 1 and bool((numbers == first).all()):
            numbers = first
    return numbers
