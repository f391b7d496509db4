"""Finding what can be pruned, without renaming, rewriting or tracing the network."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils._pytree import tree_leaves

from secateur.units.graph import ForwardGraph
from secateur.units.layers import Discovery, Kind, Slices, UnitLayer

_HIDDEN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_OVER_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_SHARED = "its parameters are also used outside its own forward pass"


def discover(network: nn.Module, example: Tensor) -> Discovery:
    """Find the prunable units of any network from one forward pass.

    The pass runs in evaluation mode, and the autograd graph that it leaves behind tells what becomes of each
    layer's output, whatever Python computed it. Prunable are the channels of every batch normalisation with
    parameters; the outputs of convolutions and linear layers that reach nothing but further weights, through
    operations that keep zero; and the heads of attentions whose output projection is known.

    Parameters
    ----------
    network
        Any network. Its parameters, buffers, modes and hooks are as before when the function returns.
    example
        A floating-point batch that the network accepts, for example ``(1, C, H, W)``; it is not changed.

    Returns
    -------
    Discovery
        Layers in forward order, and the reason for every other module with parameters. A network without
        any unit gives no layers.

    Raises
    ------
    ValueError
        `example` is not floating-point. Whatever the network raises on `example` passes through.
    """
    if not example.is_floating_point():
        raise ValueError(f"the example must be a floating-point batch, not {example.dtype}")
    return _Survey(network, example).discovery()


@dataclass(frozen=True)
class _Run:
    graph: ForwardGraph
    calls: Counter[nn.Module]
    odd: frozenset[nn.Module]


class _Survey:
    """One discovery: the network, its one forward pass, and what has been decided so far."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.modules = dict(network.named_modules())
        self.paths = {module: path for path, module in self.modules.items()}
        self.names: dict[int, list[str]] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            self.names.setdefault(id(parameter), []).append(name)
        self.first_names = {key: names[0] for key, names in self.names.items()}
        self.run = _run(network, example, self.modules)
        self.layers: list[UnitLayer] = []
        self.refused: dict[str, str] = {}

    def discovery(self) -> Discovery:
        taken: dict[int, str] = {}
        for module in self.run.calls:
            for weight, verdict in self._judge(module):
                path = self.paths[module]
                if id(weight) in taken:
                    verdict = f"it shares its weight with {taken[id(weight)]}: they are pruned together"
                if isinstance(verdict, str):
                    self.refused[path] = verdict
                else:
                    taken[id(weight)] = path
                    self.layers.append(verdict)
        prunable = {layer.name for layer in self.layers}
        for path, module in self.modules.items():
            if path not in prunable and path not in self.refused and _deserves_a_reason(module):
                self.refused[path] = self._reason(module)
        order = {path: position for position, path in enumerate(self.modules)}
        refused = dict(sorted(self.refused.items(), key=lambda item: order[item[0]]))
        return Discovery(tuple(self.layers), refused)

    def _judge(self, module: nn.Module) -> Iterator[tuple[Tensor, UnitLayer | str]]:
        projection = _projection(module)
        if projection is not None:
            heads = self._heads(module, projection)
            if heads is not None:
                yield projection.weight, heads
        weight = module._parameters.get("weight")
        if weight is not None and isinstance(module, _BatchNorm):
            yield weight, self._norm(module, weight)
        elif weight is not None and isinstance(module, _HIDDEN):
            yield weight, self._hidden(module, weight)

    def _norm(self, module: nn.Module, weight: Tensor) -> UnitLayer | str:
        sharing = self._sharing(weight)
        biases = self._biases(sharing)
        if not all(isinstance(other, _BatchNorm) for other in sharing):
            return _SHARED
        if self.run.graph.uses(weight) and not self._used_only_by(sharing, weight, biases):
            return _SHARED
        return UnitLayer(
            self.paths[module], "norm", weight.shape[0], self._slices(weight), self._slices(*biases)
        )

    def _hidden(self, module: nn.Module, weight: Tensor) -> UnitLayer | str:
        sharing = self._sharing(weight)
        biases = self._biases(sharing)
        reason = self._obstacle(weight, biases)
        if reason is not None:
            return reason
        same_kind = all(isinstance(other, _HIDDEN) for other in sharing)
        if not same_kind or not self._used_only_by(sharing, weight, biases):
            return _SHARED
        if any(other in self.run.odd for other in sharing):
            return "its output does not have one channel per row of its weight"
        kind: Kind = "linear" if isinstance(module, nn.Linear) else "conv"
        return UnitLayer(self.paths[module], kind, weight.shape[0], self._slices(weight, *biases))

    def _obstacle(self, weight: Tensor, biases: list[Tensor]) -> str | None:
        operations = self.run.graph.weight_operations(weight)
        if not operations:
            return "the network's output does not depend on it, or is cut off from it without gradient"
        reasons = (
            self.run.graph.obstacle(operation, [weight, *biases], self.first_names, self.modules)
            for operation in operations
        )
        return next((reason for reason in reasons if reason is not None), None)

    def _heads(self, module: nn.Module, projection: nn.Linear) -> UnitLayer | None:
        graph, weight = self.run.graph, projection.weight
        heads: int = module.num_heads  # type: ignore[assignment]
        size = weight.shape[1] // heads
        sharing = [other for other in self.run.calls if getattr(_projection(other), "weight", None) is weight]
        operations = graph.weight_operations(weight)
        if not operations or graph.uses(weight) != sum(self.run.calls[other] for other in sharing):
            return None
        if not isinstance(module, nn.MultiheadAttention) and not all(
            graph.merges_heads(operation, heads, size) for operation in operations
        ):
            return None
        return UnitLayer(self.paths[module], "heads", heads, self._slices(weight, axis=1, block=size))

    def _sharing(self, weight: Tensor) -> list[nn.Module]:
        return [module for module in self.run.calls if module._parameters.get("weight") is weight]

    @staticmethod
    def _biases(sharing: list[nn.Module]) -> list[Tensor]:
        biases = {
            id(bias): bias for module in sharing if (bias := module._parameters.get("bias")) is not None
        }
        return list(biases.values())

    def _used_only_by(self, sharing: list[nn.Module], weight: Tensor, biases: list[Tensor]) -> bool:
        graph, calls = self.run.graph, self.run.calls
        with_bias = [module for module in sharing if module._parameters.get("bias") is not None]
        return graph.uses(weight) == sum(calls[module] for module in sharing) and sum(
            graph.uses(bias) for bias in biases
        ) == sum(calls[module] for module in with_bias)

    def _slices(self, *parameters: Tensor, axis: int = 0, block: int = 1) -> tuple[Slices, ...]:
        names = [name for parameter in parameters for name in self.names[id(parameter)]]
        return tuple(Slices(name, axis, block) for name in names)

    def _reason(self, module: nn.Module) -> str:
        weight = module._parameters.get("weight")
        if isinstance(module, (_BatchNorm, *_HIDDEN)):
            if weight is None and isinstance(module, _BatchNorm) and not module.affine:
                return "a batch normalisation without affine parameters has nothing to prune"
            if weight is None:
                return "its weight is computed from other parameters"
            if not self.run.graph.uses(weight):
                return "it is not used in evaluation mode"
            bias = module._parameters.get("bias")
            reason = self._obstacle(weight, [] if bias is None else [bias])
            return reason or "its weight is used without calling it"
        if isinstance(module, _OVER_CHANNELS):
            return "it normalises over several channels, which makes them depend on each other"
        if isinstance(module, _ConvTransposeNd):
            return "transposed convolutions are not supported"
        return f"layers of type {type(module).__name__} have no units"


def _deserves_a_reason(module: nn.Module) -> bool:
    if isinstance(module, (_BatchNorm, *_HIDDEN)):
        return True
    has_parameters = any(parameter is not None for parameter in module._parameters.values())
    return has_parameters and not any(True for _ in module.children())


def _projection(module: nn.Module | None) -> nn.Linear | None:
    """Return the output projection of an attention with heads, or None for any other module."""
    name = "out_proj" if isinstance(module, nn.MultiheadAttention) else "proj"
    projection, heads = getattr(module, name, None), getattr(module, "num_heads", None)
    if not isinstance(projection, nn.Linear) or not isinstance(heads, int) or heads < 1:
        return None
    weight = projection._parameters.get("weight")
    return projection if weight is not None and weight.shape[1] % heads == 0 else None


def _run(network: nn.Module, example: Tensor, modules: Mapping[str, nn.Module]) -> _Run:
    calls: Counter[nn.Module] = Counter()
    odd: set[nn.Module] = set()

    def record(module: nn.Module, _inputs: object, output: object) -> None:
        calls[module] += 1
        weight = module._parameters.get("weight")
        if isinstance(module, _HIDDEN) and weight is not None:
            axis = -1 if isinstance(module, nn.Linear) else 1 - weight.dim()
            if not isinstance(output, Tensor) or output.shape[axis] != weight.shape[0]:
                odd.add(module)

    with ExitStack() as undo, torch.inference_mode(False), torch.enable_grad():
        for module in modules.values():
            if module._parameters or _projection(module) is not None:
                undo.callback(module.register_forward_hook(record).remove)
        undo.enter_context(traceable(network))
        source = example.detach().clone().requires_grad_()
        # The network may change its input in place, which a leaf does not allow.
        output = network(source.clone())
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        return _Run(ForwardGraph.trace(tensors, source), calls, frozenset(odd))


@contextmanager
def traceable(network: nn.Module) -> Iterator[None]:
    """Let every operation of a pass show: evaluation mode, gradients, nothing in place, nothing fused."""
    training = {module: module.training for module in network.modules()}
    in_place = [module for module in training if getattr(module, "inplace", None) is True]
    frozen = [p for p in network.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        # Flags are set one by one because a network's own train() may do more than set them.
        for module in training:
            module.training = False
        for module in in_place:
            module.inplace = False  # type: ignore[assignment]
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]
        for parameter in frozen:
            parameter.requires_grad_(False)
