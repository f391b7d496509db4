"""Listening to one forward pass: which weights take which units to which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.units.discovery import traceable
from secateur.units.flows import Operation, flow
from secateur.units.layers import UnitLayer
from secateur.units.origins import Origins
from secateur.units.sites import Feed, Site, Wiring

_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


@dataclass(frozen=True, eq=False)
class Heard:
    """What one forward pass tells about the units.

    Parameters
    ----------
    wiring
        How the units feed each other.
    groups
        Number of each unit's group, counted from 0; units that meet at an addition share one.
    unknown
        Names of the operations behind which it is not known what comes from which unit.
    """

    wiring: Wiring
    groups: tuple[int, ...]
    unknown: tuple[str, ...]


def listen(network: nn.Module, layers: Sequence[UnitLayer], example: Tensor) -> Heard:
    """Run `example` through the network, and find out how its units feed each other.

    Raises
    ------
    ValueError
        A layer does not belong to the network. Whatever the network raises on `example` passes through.
    """
    listener = _Listener(network, layers)
    with traceable(network), torch.inference_mode(False), torch.enable_grad():
        source = example.detach().clone()
        listener.write(source, torch.zeros(()))
        with listener:
            network(source)
    wiring = Wiring(len(layers), tuple(listener.origins.starts), tuple(listener.sites))
    return Heard(wiring, tuple(listener.origins.groups()), tuple(listener.unknown))


@dataclass(frozen=True)
class _Place:
    """How a parameter belongs to units: its rows give them (axis 0), or blocks of its columns take them."""

    layer: int
    count: int
    axis: int
    block: int


class _Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the numbers of a pass through the storages of its tensors.

    Numbers are kept for each storage, so that views share them, and a change through one shows in all others.
    Storages are kept too: their addresses must not be used again.
    """

    def __init__(self, network: nn.Module, layers: Sequence[UnitLayer]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.origins = Origins(layer.count for layer in layers)
        self.sites: list[Site] = []
        self.unknown: dict[str, None] = {}
        self._places = _places(network, layers)
        self._kept: dict[int, tuple[torch.UntypedStorage, int, Tensor]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload[Any, Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.inplace_view not in func.tags:
            self._hear(Operation.of(func, args, kwargs or {}, result))
        return result

    def write(self, tensor: Tensor, numbers: Tensor) -> None:
        """Keep the numbers of a tensor, given in a shape that broadcasts to its own."""
        storage = tensor.untyped_storage()
        if not self._depends(tensor):
            length = storage.nbytes() // tensor.element_size()
            flat = torch.zeros(length, device=tensor.device)
            self._kept[storage.data_ptr()] = (storage, tensor.element_size(), flat)
        self._numbers(tensor).copy_(numbers)

    def _hear(self, operation: Operation) -> None:
        if not any(map(self._depends, operation.operands)):
            return
        addresses = {tensor.untyped_storage().data_ptr() for tensor in operation.operands}
        fresh = [
            result for result in operation.results if result.untyped_storage().data_ptr() not in addresses
        ]
        if operation.in_place or fresh:
            numbers = self._applied(operation)
            if numbers is None:
                numbers = flow(operation, self._numbers, self.origins)
            known, nothing = numbers is not None, torch.zeros(())
            for result in operation.results:
                same = result.shape == operation.results[0].shape
                self.write(result, nothing if numbers is None or not same else numbers)
        else:
            # A view shares the numbers, unless its elements are of another size.
            known = all(map(self._depends, operation.results))
        if not known:
            self.unknown[operation.name] = None

    def _applied(self, operation: Operation) -> Tensor | None:
        """Return the numbers of a result that gives units or applies weights, None for any other."""
        arguments, results = operation.arguments, operation.results
        weight = arguments.get("weight")
        if isinstance(weight, Tensor):
            if "batch_norm" in operation.name and weight.data_ptr() in self._places:
                return _along_channels(results[0], self._normalised(arguments["input"], weight))
            if operation.name == "convolution" and not self._depends(weight):
                return _along_channels(results[0], self._convolved(**arguments))
        if operation.name in _PRODUCTS:
            *summand, first, second = operation.operands
            numbers = self._multiplied(first, second)
            if summand and self._depends(summand[0]):
                numbers = self.origins.join(self._numbers(summand[0]), numbers, adds=True)
            return numbers
        return None

    def _normalised(self, inputs: Tensor, weight: Tensor) -> Tensor:
        layer = self._places[weight.data_ptr()].layer
        self.sites.append(Site(layer, None, self._feeds(self._channels(inputs))))
        return self.origins.rows(layer).to(weight.device)

    def _convolved(self, input: Tensor, weight: Tensor, groups: int, transposed: bool, **_: object) -> Tensor:
        strengths = weight.detach().float().abs().flatten(2).sum(2)
        strengths = strengths.reshape(groups, -1, strengths.shape[1])
        if transposed:
            strengths = strengths.transpose(1, 2)
        return self._apply(weight, strengths, self._channels(input))

    def _multiplied(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the numbers of a matrix product, of which either factor can be the weights."""
        left, right = self._numbers(first), self._numbers(second)
        if self._depends(first) and self._depends(second):
            return self.origins.join(self.origins.pool(left, [-1]), self.origins.pool(right, [-2]))
        if self._depends(first):
            strengths = second.detach().float().abs().transpose(-2, -1)
            rows = self._apply(second, strengths, self.origins.pool(left, [-2]).flatten())
            return rows.view(*second.shape[:-2], 1, -1)
        rows = self._apply(first, first.detach().float().abs(), self.origins.pool(right, [-1]).flatten())
        return rows.view(*first.shape[:-2], -1, 1)

    def _apply(self, weight: Tensor, strengths: Tensor, columns: Tensor) -> Tensor:
        """Take columns to rows, and return the rows' numbers."""
        strengths = strengths.cpu() if strengths.dim() == 3 else strengths.cpu()[None]
        count = strengths.shape[0] * strengths.shape[1]
        place = self._places.get(weight.data_ptr())
        if place is not None and place.axis == 1 and len(columns) == place.count * place.block:
            taken = self.origins.pool(columns.view(place.count, place.block), [1]).flatten()
            self.sites.append(Site(place.layer, None, self._feeds(taken)))
            columns = self.origins.rows(place.layer).repeat_interleave(place.block)
        if place is not None and place.axis == 0 and place.count == count:
            node = place.layer
        else:
            node = self.origins.new_node(count)
        self.sites.append(Site(node, strengths, self._feeds(columns)))
        return self.origins.rows(node).to(weight.device)

    def _feeds(self, columns: Tensor) -> tuple[Feed, ...]:
        terms = [sorted(self.origins.terms(int(number))) for number in columns.tolist()]
        lengths = torch.tensor([len(some) for some in terms])
        places = torch.arange(len(terms)).repeat_interleave(lengths)
        rows = torch.tensor([term for some in terms for term in some], dtype=torch.int64)
        starts = torch.tensor(self.origins.starts)
        nodes = torch.searchsorted(starts, rows, right=True) - 1
        chosen = [(node, nodes == node) for node in sorted(set(nodes.tolist()))]
        return tuple(Feed(node, rows[own] - starts[node], places[own]) for node, own in chosen)

    def _channels(self, inputs: Tensor) -> Tensor:
        others = [axis for axis in range(inputs.dim()) if axis != 1]
        return self.origins.pool(self._numbers(inputs), others).flatten()

    def _depends(self, tensor: Tensor) -> bool:
        return self._read(tensor) is not None

    def _numbers(self, tensor: Tensor) -> Tensor:
        kept = self._read(tensor)
        return torch.zeros((), device=tensor.device).expand(tensor.shape) if kept is None else kept

    def _read(self, tensor: Tensor) -> Tensor | None:
        """Return the numbers of a tensor that depends on the network's input, in its own shape."""
        _, size, flat = self._kept.get(tensor.untyped_storage().data_ptr(), (None, 0, None))
        if flat is None or size != tensor.element_size():
            return None
        return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _along_channels(result: Tensor, rows: Tensor) -> Tensor:
    return rows.view(1, -1, *[1] * (result.dim() - 2))


def _places(network: nn.Module, layers: Sequence[UnitLayer]) -> dict[int, _Place]:
    """Find out which layer each parameter belongs to, by the address of its numbers."""
    places = {}
    for position, layer in enumerate(layers):
        for slices in layer.scale:
            try:
                parameter = network.get_parameter(slices.parameter)
            except AttributeError:
                raise ValueError(f"the network has no parameter {slices.parameter}") from None
            if slices.axis >= parameter.dim() or parameter.shape[slices.axis] != layer.count * slices.block:
                raise ValueError(
                    f"{slices.parameter} has shape {tuple(parameter.shape)}, not {layer.count} units"
                )
            places[parameter.data_ptr()] = _Place(position, layer.count, slices.axis, slices.block)
    return places
