"""What units pass on, on clean images and with a trigger at work."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.units import UnitLayer

FLOOR = 0.01
"""Of a layer's mean deviation: keeps the change of units that are silent on clean images finite."""


@dataclass(frozen=True)
class Activity:
    """Statistics of what each unit passes on, its positive part, over images and places.

    Heads, whose outputs are not told apart by a module, count as the median unit.

    Attributes
    ----------
    mean, deviation
        On clean images, ``(total,)``.
    change
        How much a trigger changes it, in deviations, ``(total,)``.
    """

    mean: Tensor
    deviation: Tensor
    change: Tensor


@torch.no_grad()
def activity(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    plain: Sequence[Tensor],
    stamped: Sequence[Tensor],
    *,
    changed: nn.Module | None = None,
) -> Activity:
    """Measure what units pass on.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    layers
        Its layers with units.
    plain, stamped
        Batches of network inputs, of the same images without and with a trigger.
    changed
        The network with the trigger at work, where it does not sit in the images; not changed.
    """
    changed = changed or network
    held: dict[str, Tensor] = {}

    def watch(layer: UnitLayer) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            channels_last = layer.kind == "linear" or output.ndim == 2
            # Activations let little through of what is negative.
            held[layer.name] = (output if channels_last else output.movedim(1, -1)).relu()

        return keep

    told = [layer for layer in layers if layer.kind != "heads"]
    sums = {layer.name: plain[0].new_zeros(3, layer.count, dtype=torch.float64) for layer in told}
    values = dict.fromkeys(sums, 0)
    with ExitStack() as undo:
        for layer in told:
            for module in {net.get_submodule(layer.name) for net in (network, changed)}:
                undo.callback(module.register_forward_hook(watch(layer)).remove)
        for clean_batch, stamped_batch in zip(plain, stamped, strict=True):
            network(clean_batch)
            before = {name: output.flatten(0, -2) for name, output in held.items()}
            changed(stamped_batch)
            for name, first in before.items():
                change = (held[name].flatten(0, -2) - first).abs()
                measured = (first, first.square(), change)
                sums[name] += torch.stack([part.sum(0, dtype=torch.float64) for part in measured])
                values[name] += len(first)
    found = {}
    for name, (total, squares, change) in sums.items():
        mean = total / values[name]
        deviation = (squares / values[name] - mean.square()).clamp_min(0).sqrt()
        floor = FLOOR * deviation.mean() + torch.finfo(deviation.dtype).tiny
        found[name] = torch.stack([mean, deviation, change / values[name] / (deviation + floor)]).float()
    typical = torch.ones(3, device=plain[0].device)
    if found:
        typical = torch.cat(list(found.values()), 1).median(1).values
    parts = [
        found[layer.name] if layer.name in found else typical[:, None].expand(3, layer.count)
        for layer in layers
    ]
    return Activity(*torch.cat(parts, 1))
