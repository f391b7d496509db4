"""Where the numbers of an operation's operands go, for every operation that applies no weights."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.units.origins import Origins

_MOVES = re.compile(
    "cat|stack|constant_pad_nd|(reflection|replication)_pad[123]d|repeat|roll|flip|index|index_select|gather|"
    "pixel_(un)?shuffle|channel_shuffle|im2col"
)
_FIRST = re.compile(
    ".*batch_norm.*|native_(layer|group)_norm|_fused_rms_norm|native_dropout|rrelu_with_noise|"
    "log_sigmoid_forward|_to_copy|hardswish"
)
_ELEMENTWISE = re.compile("_prelu_kernel|masked_fill")
_ADDS = re.compile("add|sub|rsub|lerp|addcmul|addcdiv")
_OVER_SPACE = re.compile("_?(adaptive_)?(?:avg|max)_pool(?P<axes>[123])d.*|_?upsample.*(?P<more>[123])d.*")
_OVER_ALL = re.compile("sum|mean|max|min|amax|amin|prod|var|std|norm")
_SOFTMAX = re.compile("_(log_|safe_)?softmax")
_WITHOUT_ORIGIN = re.compile(".*_like|new_.*|zero|fill")
_ATTENTION = re.compile("_scaled_dot_product_.*attention.*")


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of a forward pass.

    Parameters
    ----------
    function
        What is called, at the level of the ATen library.
    arguments
        Its arguments by name, defaults included.
    results
        The tensors of real or complex numbers that it returns.
    """

    function: OpOverload[..., Any]
    arguments: Mapping[str, Any]
    results: list[Tensor]

    @classmethod
    def of(
        cls, function: OpOverload[..., Any], given: Sequence[Any], named: Mapping[str, Any], result: object
    ) -> "Operation":
        """Name the arguments of a call, and find the tensors in its result."""
        schema = function._schema.arguments
        arguments = {entry.name: entry.default_value for entry in schema}
        arguments |= dict(zip(arguments, given, strict=False))
        return cls(function, {**arguments, **named}, _numeric(result))

    @property
    def name(self) -> str:
        """The bare name, whether in place or not: ``relu`` for ``aten::relu_.default``."""
        name = self.function._schema.name.removeprefix("aten::")
        return name.removesuffix("_") if self.in_place else name

    @property
    def in_place(self) -> bool:
        """Whether it changes an operand."""
        return self.function._schema.is_mutable

    @property
    def operands(self) -> list[Tensor]:
        """The tensors of real or complex numbers among the arguments, in order."""
        return _numeric(list(self.arguments.values()))


def _numeric(tree: object) -> list[Tensor]:
    leaves = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]


def flow(operation: Operation, numbers: Callable[[Tensor], Tensor], origins: Origins) -> Tensor | None:
    """Return the numbers of an operation's result, or None where it is not known what it does.

    Normalisations over several channels count as acting on each element alone: what an element gives to the
    others through the statistics is small and the same for all.

    Parameters
    ----------
    operation
        The operation.
    numbers
        Gives the numbers of an operand.
    origins
        What the numbers stand for.

    Returns
    -------
    Tensor or None
        Numbers whose shape broadcasts to that of the result.
    """
    name, arguments, operands = operation.name, operation.arguments, operation.operands
    if _MOVES.fullmatch(name):
        return _moved(operation, numbers)
    first = numbers(operands[0])
    if _FIRST.fullmatch(name):
        return first
    if _WITHOUT_ORIGIN.fullmatch(name):
        return first.new_zeros(())
    if name == "copy":
        return numbers(operands[1])
    if torch.Tag.pointwise in operation.function.tags or _ELEMENTWISE.fullmatch(name):
        adds = _ADDS.fullmatch(name) is not None
        return reduce(
            lambda one, other: origins.join(one, other, adds=adds), map(numbers, operands[1:]), first
        )
    if name == "glu":
        return origins.join(*first.chunk(2, arguments["dim"]))
    if space := _OVER_SPACE.fullmatch(name):
        axes = int(space["axes"] or space["more"])
        return origins.pool(first, range(-axes, 0))
    if _SOFTMAX.fullmatch(name):
        return origins.pool(first, [arguments["dim"]])
    if "keepdim" in arguments or _OVER_ALL.fullmatch(name):
        return _reduced(operation, first, origins)
    if _ATTENTION.fullmatch(name):
        query, key, value = (numbers(arguments[role]) for role in ("query", "key", "value"))
        scores = origins.join(origins.pool(query, (-2, -1)), origins.pool(key, (-2, -1)))
        return origins.join(scores, origins.pool(value, [-2]))
    return None


def _moved(operation: Operation, numbers: Callable[[Tensor], Tensor]) -> Tensor:
    """Let the operation itself move the numbers."""
    arguments = tree_map_only(
        Tensor, lambda leaf: numbers(leaf) if leaf.is_floating_point() else leaf, dict(operation.arguments)
    )
    if "value" in arguments:
        # What a padding adds comes from no unit.
        arguments["value"] = 0
    return operation.function(**arguments)  # type: ignore[no-any-return]


def _reduced(operation: Operation, numbers: Tensor, origins: Origins) -> Tensor:
    axes = operation.arguments.get("dim")
    axes = [axes] if isinstance(axes, int) else axes
    adds = operation.name in ("sum", "mean")
    pooled = origins.pool(numbers, axes or range(numbers.dim()), adds=adds)
    return pooled.reshape(operation.results[0].shape)
