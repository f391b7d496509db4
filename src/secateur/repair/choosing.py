"""How far to prune: clean accuracy on held-out images decides, nothing else is known to a defender.

A few hundred images cannot tell a loss of 2 points from none, so the budget is held against the lower end of
the loss's interval: pruning stops when the images show that the loss is larger, not when chance says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from secateur.data import CleanData, InputConvention
from secateur.repair.result import CurvePoint
from secateur.statistics import Proportion, paired_loss
from secateur.units import Replay, UnitLayer

BATCH, VALUES = 128, 1 << 22
"""Images, and values of images, per pass at most."""
MEMORY = 1 << 29
"""Bytes of activations that held-out images may keep."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Choice:
    """What a walk along an order of suspects decided.

    Attributes
    ----------
    kept
        Positions of the units taken out, in order, beyond the chosen point too.
    curve
        Accuracy after each group of them.
    chosen
        Index into `curve`: the last point whose loss is not shown to exceed the budget, or the last of all.
    spared
        How many suspects were left alone because the clean task needs them.
    """

    kept: tuple[int, ...]
    curve: tuple[CurvePoint, ...]
    chosen: int
    spared: int

    @property
    def pruned(self) -> tuple[int, ...]:
        """Positions of the units to prune, in order."""
        return self.kept[: self.curve[self.chosen].pruned]

    @classmethod
    def within(
        cls,
        budget: float,
        kept: Sequence[int],
        curve: Sequence[CurvePoint],
        *,
        spared: int = 0,
        whole: float = 0.0,
    ) -> "Choice":
        """Choose the last point of `curve` whose loss is not shown to exceed `budget`.

        For all units together, the loss may reach `whole`.
        """
        if curve[-1].loss.low <= whole:
            return cls(tuple(kept), tuple(curve), len(curve) - 1, spared)
        allowed = [index for index, point in enumerate(curve) if point.loss.low <= budget]
        return cls(tuple(kept), tuple(curve), allowed[-1], spared)


class HeldOut:
    """The images that decide how far to prune, and what the network answers on them.

    Parameters
    ----------
    network
        Answers with logits; not changed.
    layers
        Its layers with units.
    clean
        Its ``choose`` are the images.
    shift
        Whether a pruned norm loses its bias too.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[UnitLayer], clean: CleanData, *, shift: bool
    ) -> None:
        self._device = next(network.parameters()).device
        self._inputs = network_inputs(clean.choose.images, clean.convention, self._device)
        self._replay = Replay(network, layers, self._inputs, shift=shift, memory=MEMORY)
        self._labels = clean.choose.labels
        self._before = self._correct(self._replay.outputs)
        self.total = sum(layer.count for layer in layers)

    def point(self, flat: Tensor, pruned: int) -> CurvePoint:
        """Return the accuracy with masks `flat`, ``(total,)``, of which `pruned` are 0."""
        correct = self._correct(self._replay.attempt(flat))
        self._replay.accept()
        return CurvePoint(pruned, Proportion.of(correct), paired_loss(self._before, correct))

    def of(self, network: nn.Module, pruned: int) -> CurvePoint:
        """Return the accuracy of another network for the same task, of which `pruned` units are gone."""
        with torch.no_grad():
            outputs = torch.cat([network(batch).float() for batch in self._inputs])
        correct = self._correct(outputs)
        return CurvePoint(pruned, Proportion.of(correct), paired_loss(self._before, correct))

    def curve(self, kept: Sequence[int], step: int) -> list[CurvePoint]:
        """Return the accuracy after each group of `step` units, from none on."""
        flat = torch.ones(self.total, device=self._device)
        points = [self.point(flat, 0)]
        for start in range(0, len(kept), step):
            flat[list(kept[start : start + step])] = 0
            points.append(self.point(flat, min(start + step, len(kept))))
        return points

    def _correct(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1).cpu() == self._labels


def network_inputs(images: Tensor, convention: InputConvention, device: torch.device) -> list[Tensor]:
    """Return `images`, ``(N, C, H, W)`` in ``[0, 1]``, as batches of what the network takes."""
    size = max(1, min(BATCH, VALUES // images[0].numel()))
    return [convention.normalise(part.to(device)) for part in torch.split(images, size)]


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, evenly, with both ends."""
    places = np.linspace(0, len(items) - 1, min(len(items), count)).round().astype(int)
    return [items[place] for place in places]
