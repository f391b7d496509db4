"""Listening to one forward pass: which weights take which units to which."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.units.discovery import traceable
from secateur.units.flows import Operation, flow
from secateur.units.layers import UnitLayer
from secateur.units.masks import hooked_modules, trailing_axes
from secateur.units.origins import Origins
from secateur.units.sites import Feed, Site, Wiring


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
    listener = _Listener(layers)
    with ExitStack() as undo, torch.inference_mode(False), torch.enable_grad():
        for position, layer in enumerate(layers):
            for module, owned in hooked_modules(network, layer, shift=False).items():
                if layer.kind == "heads":
                    for slices in owned:
                        listener.heads[network.get_parameter(slices.parameter).data_ptr()] = position
                else:
                    axis = 1 if layer.kind == "norm" else -1 - trailing_axes(module)
                    hook = partial(listener.hear_units, position, axis)
                    undo.callback(module.register_forward_hook(hook).remove)
        undo.enter_context(traceable(network))
        source = example.detach().clone()
        listener.write(source, torch.zeros(()))
        with listener:
            network(source)
    wiring = Wiring(len(layers), tuple(listener.origins.starts), tuple(listener.sites))
    return Heard(wiring, tuple(listener.origins.groups()), tuple(listener.unknown))


class _Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the numbers of a pass through the storages of its tensors.

    Numbers are kept for each storage, so that views share them, and a change through one shows in all others.
    Storages are kept too: their addresses must not be used again.
    """

    def __init__(self, layers: Sequence[UnitLayer]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.origins = Origins(layer.count for layer in layers)
        self.sites: list[Site] = []
        self.unknown: dict[str, None] = {}
        self.heads: dict[int, int] = {}
        """The layer whose heads are blocks of a projection's columns, by the address of its weight."""
        self._layers = layers
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

    def hear_units(self, layer: int, axis: int, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        """Take what a module gives for the units of its layer."""
        axis %= output.dim()
        name, count = self._layers[layer].name, self._layers[layer].count
        if output.shape[axis] != count:
            raise ValueError(f"{name} gives {output.shape[axis]} channels for its {count} units")
        others = [other for other in range(output.dim()) if other != axis]
        taken = self.origins.pool(self._numbers(output), others)
        self.sites.append(Site(layer, None, self._feeds(taken.flatten())))
        self.write(output, self.origins.rows(layer).view(taken.shape))

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
        before = {tensor.untyped_storage().data_ptr() for tensor in operation.operands}
        after = {tensor.untyped_storage().data_ptr() for tensor in operation.results}
        if operation.in_place or not after <= before:
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
        """Return the numbers of a result that weights give, None for any other."""
        arguments, operands = operation.arguments, operation.operands
        if operation.name == "convolution" and not self._depends(arguments["weight"]):
            rows = self._convolved(**arguments)
            return rows.view(-1, *[1] * (operation.results[0].dim() - 2))
        if operation.name in ("mm", "bmm", "addmm", "baddbmm"):
            *summand, first, second = operands
            numbers = self._multiplied(first, second)
            if summand and self._depends(summand[0]):
                numbers = self.origins.join(self._numbers(summand[0]), numbers, adds=True)
            return numbers
        return None

    def _convolved(self, input: Tensor, weight: Tensor, groups: int, transposed: bool, **_: object) -> Tensor:
        strengths = weight.detach().float().abs().flatten(2).sum(2)
        strengths = strengths.reshape(groups, -1, strengths.shape[1])
        if transposed:
            strengths = strengths.transpose(1, 2)
        others = [axis for axis in range(input.dim()) if axis != 1]
        return self._apply(weight, strengths, self.origins.pool(self._numbers(input), others).flatten())

    def _multiplied(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the numbers of a matrix product, of which either factor can be the weights."""
        left, right = self._numbers(first), self._numbers(second)
        if self._depends(first) and self._depends(second):
            return self.origins.product(left, right)
        if self._depends(first):
            strengths = second.detach().float().abs().transpose(-2, -1)
            rows = self._apply(second, strengths, self.origins.pool(left, [-2]).flatten())
            return rows.view(*second.shape[:-2], 1, -1)
        rows = self._apply(first, first.detach().float().abs(), self.origins.pool(right, [-1]).flatten())
        return rows.view(*first.shape[:-2], -1, 1)

    def _apply(self, weight: Tensor, strengths: Tensor, columns: Tensor) -> Tensor:
        """Take columns to rows, and return the rows' numbers."""
        strengths = strengths.cpu() if strengths.dim() == 3 else strengths.cpu()[None]
        if weight.data_ptr() in self.heads:
            columns = self._hear_heads(self.heads[weight.data_ptr()], columns)
        node = self.origins.new_node(strengths.shape[0] * strengths.shape[1])
        self.sites.append(Site(node, strengths, self._feeds(columns)))
        return self.origins.rows(node).to(weight.device)

    def _hear_heads(self, layer: int, columns: Tensor) -> Tensor:
        """Take blocks of a projection's columns for heads: each takes what any of its columns does."""
        taken = self.origins.pool(columns.view(self._layers[layer].count, -1), [1])
        self.sites.append(Site(layer, None, self._feeds(taken.flatten())))
        return self.origins.rows(layer).repeat_interleave(len(columns) // len(taken))

    def _feeds(self, columns: Tensor) -> tuple[Feed, ...]:
        terms = [sorted(self.origins.terms(int(number))) for number in columns.tolist()]
        lengths = torch.tensor([len(some) for some in terms])
        places = torch.arange(len(terms)).repeat_interleave(lengths)
        rows = torch.tensor([term for some in terms for term in some], dtype=torch.int64)
        starts = torch.tensor(self.origins.starts)
        nodes = torch.searchsorted(starts, rows, right=True) - 1
        chosen = [(node, nodes == node) for node in sorted(set(nodes.tolist()))]
        return tuple(Feed(node, rows[own] - starts[node], places[own]) for node, own in chosen)

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
