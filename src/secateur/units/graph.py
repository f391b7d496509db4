"""What happens to a layer's output, read from the autograd graph of one forward pass."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

Use = tuple[Node, int]

_WEIGHT_POSITION = {"Convolution": 1, "Addmm": 2, "Mm": 1, "Linear": 1}
_WEIGHTS = re.compile("Convolution|Addmm|Mm|Bmm|Baddbmm|Linear|Mv")
_NORMS = re.compile("(Native|Cudnn|Miopen)?BatchNorm|Native(Layer|Group)Norm|FusedRmsNorm")
_LAYOUT = re.compile(
    "View|UnsafeView|ReshapeAlias|Permute|Transpose|T|Squeeze|Unsqueeze|Expand|Clone|Alias|ToCopy|"
    "Select|Slice|Split|SplitWithSizes|Unbind|Index|IndexSelect|Cat|Stack|Repeat|Roll|Flip|"
    "ConstantPadNd|(Reflection|Replication)Pad[123]D|PixelShuffle|PixelUnshuffle|Im2Col|Upsample.*|.*Pool.*"
)
_ZERO_KEEPING = re.compile(
    "Relu|LeakyRelu|PreluKernel|RreluWithNoise|Elu|Celu|Gelu|Silu|Mish|Hardswish|Tanh|Softshrink|"
    "Hardshrink|Abs|Neg|Mean|Sum|Amax"
)
_SUMS = re.compile("Add|Sub|Addmm|Baddbmm|Addcmul")
_GATES = re.compile("Sigmoid|Hardsigmoid|Softplus|LogSigmoid")
_PRODUCTS = re.compile("Bmm|Mm|Mv|Softmax|LogSoftmax|.*Attention.*")
_RESHAPES = re.compile("View|UnsafeView|ReshapeAlias")


def operation(node: Node) -> str:
    """Return the bare name of a node's operation: ``ReluBackward0`` is ``Relu``."""
    return re.sub(r"Backward\d*$", "", node.name())


@dataclass(frozen=True)
class ForwardGraph:
    """The autograd graph of a forward pass, turned round: from each node to those that use its result.

    Parameters
    ----------
    consumers
        For each node, the nodes that take its result, with the position at which they do.
    results
        Nodes whose result the network returns.
    dependent
        Nodes that depend on the network's input.
    leaves
        The node of each parameter in the graph, by the parameter's `id`.
    """

    consumers: Mapping[Node, list[Use]]
    results: frozenset[Node]
    dependent: frozenset[Node]
    leaves: Mapping[int, Node]

    @classmethod
    def trace(cls, outputs: Iterable[Tensor], source: Tensor) -> "ForwardGraph":
        """Walk back from the network's `outputs` to everything they were computed from."""
        results = frozenset(output.grad_fn for output in outputs if output.grad_fn is not None)
        consumers: dict[Node, list[Use]] = {node: [] for node in results}
        leaves: dict[int, Node] = {}
        todo = list(results)
        while todo:
            node = todo.pop()
            variable = getattr(node, "variable", None)
            if variable is not None:
                leaves[id(variable)] = node
            for position, (child, _) in enumerate(node.next_functions):
                if child is None:
                    continue
                if child not in consumers:
                    consumers[child] = []
                    todo.append(child)
                consumers[child].append((node, position))
        dependent: set[Node] = set()
        todo = [leaves[id(source)]] if id(source) in leaves else []
        while todo:
            node = todo.pop()
            if node not in dependent:
                dependent.add(node)
                todo += [consumer for consumer, _ in consumers[node]]
        return cls(consumers, results, frozenset(dependent), leaves)

    def uses(self, parameter: Tensor) -> int:
        """Count the operations that read `parameter`."""
        leaf = self.leaves.get(id(parameter))
        return 0 if leaf is None else len(self.consumers[leaf])

    def weight_operations(self, weight: Tensor) -> list[Node]:
        """Find the linear operations that apply `weight`, as it is or reparametrised, to activations."""
        leaf = self.leaves.get(id(weight))
        todo = [] if leaf is None else [leaf]
        found = []
        while todo:
            for consumer, position in self.consumers[todo.pop()]:
                if consumer not in self.dependent:
                    todo.append(consumer)
                elif _WEIGHT_POSITION.get(operation(consumer)) == position:
                    found.append(consumer)
        return found

    def obstacle(
        self, origin: Node, own: Iterable[Tensor], names: Mapping[int, str], layers: Mapping[str, nn.Module]
    ) -> str | None:
        """Tell why the result of `origin` is more than the hidden input of further weights.

        Parameters
        ----------
        origin
            The operation that applies the layer's weight.
        own
            The layer's parameters: adding its own bias is part of the layer.
        names
            Full name of each parameter, by its `id`.
        layers
            The module at each path.

        Returns
        -------
        str or None
            The reason in plain words, or None where every path leads to other weights, and a zero stays
            zero until then.
        """
        own_leaves = {self.leaves[id(parameter)] for parameter in own if id(parameter) in self.leaves}
        todo, seen, weighted = [origin], {origin}, False
        while todo:
            node = todo.pop(0)
            if node in self.results:
                return "it gives the network's output"
            for consumer, position in self.consumers[node]:
                others = [
                    child
                    for at, (child, _) in enumerate(consumer.next_functions)
                    if at != position and child not in own_leaves
                ]
                mixed = any(child in self.dependent for child in others)
                name = operation(consumer)
                is_summand = position == 0 and name in ("Addmm", "Baddbmm")
                if _WEIGHTS.fullmatch(name) and not mixed and not is_summand:
                    weighted = True
                elif reason := self._judge((consumer, position), others, names, layers):
                    return reason
                elif consumer not in seen:
                    seen.add(consumer)
                    todo.append(consumer)
        return None if weighted else "the network's output does not depend on it"

    def _judge(
        self,
        use: Use,
        others: list[Node | None],
        names: Mapping[int, str],
        layers: Mapping[str, nn.Module],
    ) -> str | None:
        """Tell why an operation does not pass a zero on, or None where it does."""
        node, position = use
        name = operation(node)
        mixed = any(other in self.dependent for other in others)
        if _LAYOUT.fullmatch(name) or _ZERO_KEEPING.fullmatch(name):
            return None
        if name in ("Hardtanh", "Clamp") and _keeps_zero(node, name):
            return None
        if name == "Mul" or (name == "Div" and position == 0):
            return "it multiplies or gates another activation" if mixed else None
        if _SUMS.fullmatch(name):
            if mixed:
                return "it is added to another tensor (a residual stream)"
            # Without another summand, what is added is the layer's own bias.
            return "a constant is added to it, so that a pruned unit would not be silent" if others else None
        if _NORMS.fullmatch(name):
            return _followed_by_norm(node, names, layers)
        if _PRODUCTS.fullmatch(name):
            if node in self.results:
                return "it gives the network's output"
            return "it is part of an attention"
        if _GATES.fullmatch(name):
            return f"its activation ({name.lower()}) does not keep zero: it acts as a gate"
        if name == "CopySlices":
            return "it is changed in place through a view, which hides the operation"
        return f"it goes through the operation {name}, which is not known to keep zero"

    def merges_heads(self, projection: Node, heads: int, size: int) -> bool:
        """Tell whether the input of `projection` is made of `heads` contiguous blocks of `size` numbers."""
        for node in self._only_source(projection):
            if _RESHAPES.fullmatch(operation(node)):
                if tuple(node._saved_self_sym_sizes)[-2:] == (heads, size):  # type: ignore[attr-defined]
                    return True
            elif _WEIGHTS.fullmatch(operation(node)) or _PRODUCTS.fullmatch(operation(node)):
                return False
        return False

    def _only_source(self, node: Node) -> Iterator[Node]:
        """Follow the input back for as long as it comes from one place."""
        while True:
            sources = [child for child, _ in node.next_functions if child in self.dependent]
            if len(sources) != 1 or not sources[0].next_functions:
                return
            node = sources[0]
            yield node


def _followed_by_norm(node: Node, names: Mapping[int, str], layers: Mapping[str, nn.Module]) -> str:
    for parameter, _ in node.next_functions[1:]:
        source = parameter
        while source is not None and len(source.next_functions) == 1:
            source = source.next_functions[0][0]
        variable = getattr(source, "variable", None)
        if id(variable) in names:
            path = names[id(variable)].rpartition(".")[0]
            if isinstance(layers.get(path), _BatchNorm):
                return f"it is followed by {path}: prune its channels there"
            return f"it is followed by {path}, which normalises over channels"
    return "it is followed by a normalisation without parameters"


def _keeps_zero(node: Node, name: str) -> bool:
    low, high = ("_saved_min_val", "_saved_max_val") if name == "Hardtanh" else ("_saved_min", "_saved_max")
    minimum, maximum = getattr(node, low, None), getattr(node, high, None)
    return (minimum is None or minimum <= 0) and (maximum is None or maximum >= 0)
