"""What the agent knows of every unit: its weights, what it passes on, and what exposing showed."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from secateur.repair.activity import Activity
from secateur.units import Connections, UnitLayer

NAMES = (
    "strength towards units before",
    "strength towards units after",
    "weights (Euclidean norm)",
    "scale",
    "shift",
    "running mean",
    "running deviation",
    "Lipschitz bound",
    "activation mean",
    "activation deviation",
    "change of weights while unlearning",
    "mask while recovering",
    "change by the trigger",
    "share of the trigger's margin",
    "depth",
)
"""The features, in order."""
CARRIED = NAMES.index("share of the trigger's margin")
FARTHEST = 5.0
"""Standard deviations beyond which a feature says no more."""
LARGEST = 1e38
"""Larger numbers, of a broken or hostile network, count as this."""


def features(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    example: Tensor,
    connections: Connections,
    activity: Activity,
    *,
    unlearned: nn.Module | None,
    masks: Tensor | None,
) -> Tensor:
    """Return the features of all units, ``(total, len(NAMES))``, float32.

    But for the depth, each has mean 0 and standard deviation 1 within a layer, so that they mean the same in
    every layer and network, and is cut at `FARTHEST`. What is not known is 0, and so is the share of the
    margin: it changes with the triggers, see `with_carried`.

    Parameters
    ----------
    network
        As it came, in evaluation mode; not changed.
    layers
        Its layers with units.
    example
        One network input.
    connections
        Of its units.
    activity
        On clean images and with a trigger at work.
    unlearned
        The network after unlearning its clean task, if that was done.
    masks
        Mean masks of RNP's recovery, ``(total,)``, if there was one.
    """
    before = feeding(network, layers, example)
    own = torch.cat([_own(network, layer, before.get(layer.name)) for layer in layers])
    columns = [
        connections.inputs.log1p(),
        connections.outputs.log1p(),
        *own.unbind(1),
        activity.mean.cpu(),
        activity.deviation.cpu(),
        torch.zeros(len(own)) if unlearned is None else _changes(network, unlearned, layers, before),
        torch.zeros(len(own)) if masks is None else masks.cpu(),
        activity.change.cpu().log1p(),
        torch.zeros(len(own)),
    ]
    parts = torch.split(torch.stack(columns, 1).float(), [layer.count for layer in layers])
    depths = torch.linspace(-1, 1, max(2, len(layers)))
    return torch.cat(
        [
            torch.cat([_standardised(part), depth.expand(len(part), 1)], 1)
            for part, depth in zip(parts, depths, strict=False)
        ]
    )


def with_carried(known: Tensor, layers: Sequence[UnitLayer], carried: Tensor) -> Tensor:
    """Return features with the share of the trigger's margin that each unit carries, ``(total,)``."""
    parts = torch.split(carried.cpu().float()[:, None], [layer.count for layer in layers])
    full = known.clone()
    full[:, CARRIED] = torch.cat([_standardised(part) for part in parts])[:, 0]
    return full


def feeding(network: nn.Module, layers: Sequence[UnitLayer], example: Tensor) -> dict[str, nn.Module]:
    """Return the module with weights whose output each norm takes as it is, by the norm's name."""
    made: dict[tuple[int, int], tuple[Tensor, nn.Module]] = {}
    found: dict[str, nn.Module] = {}

    def remember(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            made[_as_it_is(output)] = (output, module)

    with ExitStack() as undo, torch.no_grad():
        for module in network.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.ndim > 1:
                undo.callback(module.register_forward_hook(remember).remove)
        for layer in (layer for layer in layers if layer.kind == "norm"):

            def look(_module: nn.Module, inputs: tuple[object, ...], name: str = layer.name) -> None:
                if inputs and isinstance(inputs[0], Tensor) and _as_it_is(inputs[0]) in made:
                    found[name] = made[_as_it_is(inputs[0])][1]

            undo.callback(network.get_submodule(layer.name).register_forward_pre_hook(look).remove)
        network(example)
    return found


def _as_it_is(tensor: Tensor) -> tuple[int, int]:
    """Return what tells a tensor from others, and from itself once it was changed in place."""
    return id(tensor), tensor._version


@torch.no_grad()
def _own(network: nn.Module, layer: UnitLayer, before: nn.Module | None) -> Tensor:
    """Return norm of the weights, scale, shift, running mean and deviation, and bound, ``(count, 6)``."""
    found = torch.zeros(6, layer.count)
    module = network.get_submodule(layer.name)
    weight = _weight(before if layer.kind == "norm" else module, layer.count)
    bound = torch.ones(layer.count)
    if weight is not None:
        found[0] = weight.flatten(1).norm(dim=1).log1p()
        # Of a channel, with its kernel as one matrix from inputs to places (Zheng et al., ECCV 2022).
        matrices = weight.flatten(2) if weight.ndim > 2 else weight[:, :, None]
        bound = torch.linalg.matrix_norm(matrices, 2)
    if layer.kind == "norm":
        for row, name in enumerate(("weight", "bias", "running_mean", "running_var"), 1):
            value = getattr(module, name, None)
            if isinstance(value, Tensor) and value.numel() == layer.count:
                found[row] = value.detach().float().cpu()
        found[4] = found[4].clamp_min(0).sqrt()
        bound = bound * found[1].abs() / (found[4] + 1e-5)
    found[5] = bound.log1p()
    return found.T


def _weight(module: nn.Module | None, count: int) -> Tensor | None:
    """Return a module's weight with its outputs first, if it has one for each unit."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim > 1 and len(weight) == count:
        return weight.detach().float().cpu()
    return None


@torch.no_grad()
def _changes(
    network: nn.Module, unlearned: nn.Module, layers: Sequence[UnitLayer], before: Mapping[str, nn.Module]
) -> Tensor:
    """Return how far the weights of each unit moved while unlearning, ``(total,)``, on a logarithmic scale.

    Those that it owns and, of a norm, those of the channel that feeds it.
    """
    names = {module: name for name, module in network.named_modules()}
    changes = []
    for layer in layers:
        change = torch.zeros(layer.count)
        for slices in layer.slices(shift=True):
            pair = (net.get_parameter(slices.parameter).detach().float() for net in (network, unlearned))
            first, second = (tensor.movedim(slices.axis, 0).reshape(layer.count, -1).cpu() for tensor in pair)
            change += (second - first).abs().sum(1)
        if layer.name in before:
            name = names[before[layer.name]]
            found = [_weight(net.get_submodule(name), layer.count) for net in (network, unlearned)]
            if found[0] is not None and found[1] is not None:
                change += (found[1] - found[0]).abs().flatten(1).sum(1)
        changes.append(change.log1p())
    return torch.cat(changes)


def _standardised(part: Tensor) -> Tensor:
    """Return columns with mean 0 and deviation 1; those that do not vary are 0."""
    # Squares of the largest numbers overflow.
    known = part.double().nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
    centred = known - known.mean(0)
    deviation = centred.square().mean(0).sqrt()
    scaled = torch.where(deviation > 1e-6, centred / deviation.clamp_min(1e-6), 0.0)
    return scaled.clamp(-FARTHEST, FARTHEST).float()
