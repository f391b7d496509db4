"""Masks that make units weaker or absent for a while, without a trace afterwards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.units.layers import Slices, Unit, UnitLayer, all_units, group_units

MaskOf = Callable[[], Tensor]
_CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


@dataclass(frozen=True, eq=False)
class Masks:
    """One number per unit: 1 leaves it alone, 0 removes it.

    Parameters
    ----------
    layers
        The layers with units, in order.
    flat
        Masks of all units, shape ``(total,)``, in the order of `layers`.

    Raises
    ------
    ValueError
        `flat` does not hold one number per unit.
    """

    layers: tuple[UnitLayer, ...]
    flat: Tensor

    def __post_init__(self) -> None:
        _check_flat(self.layers, self.flat)

    @classmethod
    def ones(
        cls,
        layers: Iterable[UnitLayer],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        requires_grad: bool = True,
    ) -> "Masks":
        """Return masks that change nothing, as a leaf tensor that can be learned."""
        layers = tuple(layers)
        total = sum(layer.count for layer in layers)
        return cls(layers, torch.ones(total, dtype=dtype, device=device, requires_grad=requires_grad))

    @classmethod
    def from_units(
        cls,
        layers: Iterable[UnitLayer],
        units: Iterable[Unit],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> "Masks":
        """Return masks that are 0 at `units` and 1 elsewhere, without gradient.

        Raises
        ------
        ValueError
            A unit does not exist.
        """
        masks = cls.ones(layers, dtype=dtype, device=device, requires_grad=False)
        for layer, indices in group_units(masks.layers, units):
            masks.of(layer.name)[indices] = 0
        return masks

    def of(self, name: str) -> Tensor:
        """Return the view of `flat` that belongs to the layer `name`, shape ``(count,)``.

        Raises
        ------
        KeyError
            There is no such layer.
        """
        start = 0
        for layer in self.layers:
            if layer.name == name:
                return self.flat.narrow(0, start, layer.count)
            start += layer.count
        raise KeyError(name)

    def units(self) -> tuple[Unit, ...]:
        """Return the unit at each position of `flat`."""
        return tuple(all_units(self.layers))


@contextmanager
def masked(network: nn.Module, layers: Sequence[UnitLayer], flat: Tensor, *, shift: bool) -> Iterator[None]:
    """Multiply every unit by its mask while the block runs.

    Inside, the network (or any part of it) computes what it would if each unit's slices were multiplied by
    its mask, differentiably in `flat`, which is read anew at every forward pass. Afterwards, also after an
    exception, the network is what it was: the same parameter objects in the same order, and no hook.

    Parameters
    ----------
    network
        The network that the layers were discovered in.
    layers
        Its layers with units.
    flat
        Masks of all units, shape ``(total,)``, any values, in the order of `layers`.
    shift
        Whether a norm's bias is masked as well as its weight.

    Raises
    ------
    ValueError
        `flat` does not fit the layers, a layer does not belong to the network, or the network is masked
        already.
    """
    _check_flat(layers, flat)
    hooked = [hooked_modules(network, layer, shift) for layer in layers]
    if any(_is_masked(module) for modules in hooked for module in modules):
        raise ValueError("the network is masked already: leave that block before masking it again")
    with ExitStack() as undo:
        start = 0
        for layer, modules in zip(layers, hooked, strict=True):
            mask = _reader(flat, start, layer.count)
            start += layer.count
            for module, owned in modules.items():
                if layer.kind in ("conv", "linear"):
                    multiply = _Multiply(mask, trailing_axes(module))
                    undo.callback(module.register_forward_hook(multiply).remove)
                else:
                    swap = _Swap(mask, network, owned)
                    undo.callback(swap.after)
                    undo.callback(module.register_forward_pre_hook(swap.before).remove)
                    undo.callback(module.register_forward_hook(swap.after, always_call=True).remove)
        yield


class _Swap:
    """Exchanges parameters for their masked values while their module runs.

    The module's own entry is replaced (not deleted), so that the order of its parameters never changes.
    """

    def __init__(self, mask: MaskOf, network: nn.Module, owned: Iterable[Slices]) -> None:
        self._mask = mask
        self._places: list[tuple[dict[str, Any], str, Slices]] = []
        self._originals: list[tuple[dict[str, Any], str, Tensor]] = []
        for slices in owned:
            path, _, key = slices.parameter.rpartition(".")
            parameters: dict[str, Any] = network.get_submodule(path)._parameters
            # A module under two names lists its parameters twice.
            if not any(known is parameters and key == name for known, name, _ in self._places):
                self._places.append((parameters, key, slices))

    def before(self, *_: object) -> None:
        # An interrupt skips the hook after the pass, so that masked values may still be in place.
        self.after()
        mask = self._mask()
        for parameters, key, slices in self._places:
            original = parameters[key]
            factor = mask.to(original)
            if slices.block > 1:
                factor = factor.repeat_interleave(slices.block)
            self._originals.append((parameters, key, original))
            parameters[key] = original * factor.view(-1, *[1] * (original.dim() - slices.axis - 1))

    def after(self, *_: object) -> None:
        while self._originals:
            parameters, key, original = self._originals.pop()
            parameters[key] = original


class _Multiply:
    """Multiplies a module's output by the mask along its channel axis, counted from the end."""

    def __init__(self, mask: MaskOf, trailing: int) -> None:
        self._mask = mask
        self._trailing = trailing

    def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output * self._mask().to(output).view(-1, *[1] * self._trailing)


def hooked_modules(network: nn.Module, layer: UnitLayer, shift: bool) -> dict[nn.Module, list[Slices]]:
    """Sort what a layer's masks act on by the module whose run they act in."""
    modules: dict[nn.Module, list[Slices]] = {}
    for slices in layer.slices(shift=shift):
        path = slices.parameter.rpartition(".")[0]
        # An attention may hand its projection's weight to a function instead of calling the projection.
        runs = path.rpartition(".")[0] if layer.kind == "heads" else path
        try:
            network.get_parameter(slices.parameter)
        except AttributeError:
            raise ValueError(f"the network has no parameter {slices.parameter}") from None
        modules.setdefault(network.get_submodule(runs), []).append(slices)
    return modules


def _is_masked(module: nn.Module) -> bool:
    hooks: list[object] = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(isinstance(getattr(hook, "__self__", hook), _Swap | _Multiply) for hook in hooks)


def trailing_axes(module: nn.Module) -> int:
    """Return how many axes follow the channels in the module's output, with or without a batch axis."""
    return next((axes for cls, axes in _CONVOLUTIONS.items() if isinstance(module, cls)), 0)


def _reader(flat: Tensor, start: int, count: int) -> MaskOf:
    return lambda: flat.narrow(0, start, count)


def _check_flat(layers: Iterable[UnitLayer], flat: Tensor) -> None:
    total = sum(layer.count for layer in layers)
    if flat.shape != (total,):
        raise ValueError(f"the layers have {total} units, but the masks have shape {tuple(flat.shape)}")
    if not flat.is_floating_point():
        raise ValueError(f"masks are floating-point numbers, not {flat.dtype}")
