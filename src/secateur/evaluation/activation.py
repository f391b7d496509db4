"""Which units a trigger really uses: an analysis that sees the trigger, so no repair may run it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.data import SPARED, InputConvention, LabelledImages, Stamping
from secateur.statistics import Proportion
from secateur.units import UnitLayer, masked

GONE = 0.1
"""Attack success rate at which the trigger's units count as found."""
MOST_USED = 0.25
"""Share of all units among which they are searched."""


@dataclass(frozen=True)
class ActivationChange:
    """How units answer a trigger.

    Attributes
    ----------
    change
        Trigger-activated change (TAC; Zheng et al., ECCV 2022, arXiv 2208.03111, equation 4): the mean over
        images of the L2 norm of the difference that the trigger makes to the unit's output, ``(total,)``.
    relative
        The same, divided by the mean norm of the unit's output on clean images.
    """

    change: Tensor
    relative: Tensor


@dataclass(frozen=True)
class Overlap:
    """How well pruned units match those that the trigger uses.

    Attributes
    ----------
    precision
        Share of the pruned units that the trigger uses.
    recall
        Share of the units that the trigger uses that were pruned.
    """

    precision: Proportion
    recall: Proportion


@torch.no_grad()
def trigger_activated_change(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    images: LabelledImages,
    convention: InputConvention,
    trigger: Stamping,
    *,
    batch_size: int = 128,
) -> ActivationChange:
    """Measure how much a trigger changes the output of every unit.

    Parameters
    ----------
    network
        Not changed; runs in the mode that it is in.
    layers
        Its layers with units, as `secateur.units.discover` finds them.
    images
        Clean images.
    convention
        How they become network input.
    trigger
        What is stamped on them.
    batch_size
        Images per forward pass.

    Returns
    -------
    ActivationChange
        In the order of `secateur.units.all_units`; 0 for heads of attentions that are computed as a whole,
        which show no output of their own.
    """
    device = next(network.parameters()).device
    total = sum(layer.count for layer in layers)
    change, size = torch.zeros(total), torch.zeros(total)
    with _watched(network, layers) as seen:

        def outputs(pixels: Tensor) -> dict[str, Tensor]:
            seen.clear()
            network(convention.normalise(pixels.to(device)))
            return dict(seen)

        for pixels, _ in images.batches(batch_size):
            clean, triggered = outputs(pixels), outputs(trigger.stamp(pixels))
            at = 0
            for layer in layers:
                if layer.name in clean:
                    part = slice(at, at + layer.count)
                    change[part] += (triggered[layer.name] - clean[layer.name]).norm(dim=2).sum(0).cpu()
                    size[part] += clean[layer.name].norm(dim=2).sum(0).cpu()
                at += layer.count
    count = max(1, len(images))
    return ActivationChange(change / count, change / size.clamp_min(1e-12))


@torch.no_grad()
def backdoor_units(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    images: LabelledImages,
    convention: InputConvention,
    trigger: Stamping,
    wanted: Sequence[int],
) -> tuple[int, ...] | None:
    """Return the units that a trigger needs, most changed first; None if they are not among a few.

    Units are ranked by their relative change, divided by the median of their layer: behind a backdoor all
    units of a layer change. Of ever longer beginnings of that order, doubled and then halved in between, the
    shortest is taken whose removal leaves the attack a success rate of at most 10 %. Removing more units may,
    rarely, help the attack again, so the length is a local minimum.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    layers, images, convention, trigger
        As for `trigger_activated_change`.
    wanted
        For each class the label that the trigger should cause, `SPARED` for classes that are not attacked.

    Returns
    -------
    tuple of int or None
        Positions in the order of `secateur.units.all_units`.
    """
    device = next(network.parameters()).device
    found = trigger_activated_change(network, layers, images, convention, trigger)
    parts = torch.split(found.relative, [layer.count for layer in layers])
    standing_out = torch.cat([part / part.median().clamp_min(1e-12) for part in parts])
    order = standing_out.argsort(descending=True, stable=True)
    aims = torch.tensor(list(wanted))[images.labels]
    attacked = aims != SPARED
    inputs = convention.normalise(trigger.stamp(images.images[attacked]).to(device))
    aims = aims[attacked].to(device)

    def succeeds(count: int) -> bool:
        mask = torch.ones(len(order), device=device)
        mask[order[:count].to(device)] = 0
        with masked(network, layers, mask, shift=True):
            answers = torch.cat([network(part).argmax(1) for part in torch.split(inputs, 256)])
        return float((answers == aims).float().mean()) > GONE

    shortest = _shortest(succeeds, int(MOST_USED * len(order)))
    return None if shortest is None else tuple(order[:shortest].tolist())


def overlap(pruned: Iterable[int], used: Iterable[int]) -> Overlap:
    """Compare pruned units with those that the trigger uses."""
    taken, needed = set(pruned), set(used)
    both = len(taken & needed)
    return Overlap(Proportion(both, len(taken)), Proportion(both, len(needed)))


def _shortest(succeeds: Callable[[int], bool], most: int) -> int | None:
    """Return the smallest count up to `most` that ends the success, by doubling and halving."""
    if not succeeds(0):
        return 0
    failing, count = 0, 1
    while count <= most and succeeds(count):
        failing, count = count, 2 * count
    if count > most:
        count = most
        if failing >= most or succeeds(most):
            return None
    while count - failing > 1:
        middle = (count + failing) // 2
        if succeeds(middle):
            failing = middle
        else:
            count = middle
    return count


@contextmanager
def _watched(network: nn.Module, layers: Sequence[UnitLayer]) -> Iterator[dict[str, Tensor]]:
    """Yield what each layer's units put out in the last forward pass, ``(N, count, values)`` by its name."""
    seen: dict[str, Tensor] = {}

    def watch(layer: UnitLayer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            last = layer.kind == "linear"
            seen[layer.name] = _by_unit(output, output.dim() - 1 if last else 1, layer.count)

        return hook

    def watch_input(layer: UnitLayer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[layer.name] = _by_unit(inputs[0], inputs[0].dim() - 1, layer.count)

        return hook

    with ExitStack() as stack:
        for layer in layers:
            if layer.kind == "heads":
                # Heads have no module of their own; they are what the output projection receives.
                projection = network.get_submodule(layer.scale[0].parameter.rpartition(".")[0])
                stack.enter_context(projection.register_forward_pre_hook(watch_input(layer)))
            else:
                module = network.get_submodule(layer.name)
                stack.enter_context(module.register_forward_hook(watch(layer)))
        yield seen


def _by_unit(output: Tensor, axis: int, count: int) -> Tensor:
    return output.movedim(axis, 1).flatten(2 if output.dim() > 2 else 1).reshape(len(output), count, -1)
