"""Zeroing units for good."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from secateur.models import duplicate
from secateur.units.layers import Slices, Unit, UnitLayer, group_units


@torch.no_grad()
def zero_slices(tensor: Tensor, slices: Slices, count: int, indices: Sequence[int]) -> None:
    """Set to zero, in place, what the units `indices` own of `tensor`.

    Raises
    ------
    ValueError
        The tensor's axis is not ``count * block`` long.
    """
    expected = count * slices.block
    if slices.axis >= tensor.dim() or tensor.shape[slices.axis] != expected:
        raise ValueError(
            f"{slices.parameter} has shape {tuple(tensor.shape)}, but its units "
            f"need axis {slices.axis} to be {expected} long"
        )
    starts = torch.tensor(indices, dtype=torch.int64, device=tensor.device) * slices.block
    owned = starts[:, None] + torch.arange(slices.block, device=tensor.device)
    tensor.index_fill_(slices.axis, owned.flatten(), 0)


def prune(
    network: nn.Module, layers: Iterable[UnitLayer], units: Iterable[Unit], *, shift: bool = True
) -> nn.Module:
    """Return a copy of `network` without the given units.

    Parameters
    ----------
    network
        Any network; it is never changed.
    layers
        Its layers with units, as `discover` found them.
    units
        What to prune.
    shift
        Whether a norm loses its bias as well (a channel of zeros) or its weight only (a constant channel).

    Returns
    -------
    nn.Module
        A deep copy whose slices of the pruned units are exactly zero.

    Raises
    ------
    ValueError
        A unit does not exist, or a layer does not belong to this network.
    """
    grouped = group_units(layers, units)
    pruned = duplicate(network)
    for layer, indices in grouped:
        for slices in layer.slices(shift=shift):
            try:
                parameter = pruned.get_parameter(slices.parameter)
            except AttributeError:
                raise ValueError(f"the network has no parameter {slices.parameter}") from None
            zero_slices(parameter, slices, layer.count, indices)
    return pruned
