"""Walking along an order of suspects as far as the clean task allows."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import CleanData
from secateur.progress import Progress
from secateur.repair.choosing import MEMORY, Choice, HeldOut, network_inputs
from secateur.units import Replay, UnitLayer

CHUNKS = 48
"""An order is walked along in so many groups."""


@dataclass(frozen=True)
class Limits:
    """When a walk stops.

    Attributes
    ----------
    budget
        Loss of held-out accuracy that must not be exceeded for sure, in ``[0, 1]``.
    loss
        By how much the learning loss may rise in all, in nats.
    units
        How many units may be taken out.
    """

    budget: float = 1.0
    loss: float = math.inf
    units: int = sys.maxsize


class Walk:
    """Walks along an order of suspects, taking out what the clean task does not need.

    Groups of suspects are tried together on the learning images; a group whose loss rises by more than its
    tolerance is halved until the units that the clean task needs are found, and these are spared. After each
    group the held-out accuracy gives one point of the curve. Each mask is evaluated once, and only from the
    first layer that it changes.

    Parameters
    ----------
    network
        Answers with logits; not changed.
    layers
        Its layers with units.
    clean
        ``clean.learn`` tells the loss of a trial, ``clean.choose`` the accuracy that is held against the
        budget.
    shift
        Whether a pruned norm loses its bias too.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[UnitLayer], clean: CleanData, *, shift: bool
    ) -> None:
        device = next(network.parameters()).device
        inputs = network_inputs(clean.learn.images, clean.convention, device)
        self._learn = Replay(network, layers, inputs, shift=shift, memory=MEMORY)
        self._labels = clean.learn.labels.to(device)
        self._held_out = HeldOut(network, layers, clean, shift=shift)
        self._flat = torch.ones(self._held_out.total, device=device)
        self._loss = self._cross_entropy(self._learn.outputs)

    def along(
        self,
        order: Sequence[int],
        tolerances: Tensor | None,
        limits: Limits,
        progress: Progress,
    ) -> Choice:
        """Walk along `order` until it ends or a limit is reached.

        Parameters
        ----------
        order
            Positions of the suspects, most suspicious first.
        tolerances
            ``(total,)``: by how much the learning loss may rise for each unit. None spares nothing.
        limits
            When to stop.
        progress
            Told about every group.
        """
        first = self._loss
        kept: list[int] = []
        curve = [self._held_out.point(self._flat, 0)]
        group = max(1, len(order) // CHUNKS)
        progress.start("choosing", -(-len(order) // group))
        visited = 0
        for start in range(0, len(order), group):
            suspects = list(order[start : start + group])[: max(0, limits.units - len(kept))]
            if not suspects:
                break
            visited += len(suspects)
            taken = self._take(suspects, tolerances, limits.loss - (self._loss - first))
            if not taken and tolerances is None:
                break
            if taken:
                kept += taken
                curve.append(self._held_out.point(self._flat, len(kept)))
            progress.advance(pruned=len(kept), accuracy=curve[-1].accuracy.value)
            if curve[-1].loss.low > limits.budget:
                break
        return Choice.within(limits.budget, kept, curve, spared=visited - len(kept))

    def _take(self, suspects: list[int], tolerances: Tensor | None, left: float) -> list[int]:
        trial = self._flat.clone()
        trial[suspects] = 0
        loss = self._cross_entropy(self._learn.attempt(trial))
        rise = loss - self._loss
        if rise <= left and (tolerances is None or rise <= float(tolerances[suspects].sum())):
            self._learn.accept()
            self._flat, self._loss = trial, loss
            return suspects
        if len(suspects) == 1 or tolerances is None:
            return []
        half, before = len(suspects) // 2, self._loss
        taken = self._take(suspects[:half], tolerances, left)
        return taken + self._take(suspects[half:], tolerances, left - (self._loss - before))

    def _cross_entropy(self, outputs: Tensor) -> float:
        return float(F.cross_entropy(outputs, self._labels))
