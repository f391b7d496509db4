"""How far to prune: clean accuracy on held-out images decides, nothing else is known to a defender.

A few hundred images cannot tell a loss of 2 points from none, so the budget is held against the lower end of
the loss's interval: pruning stops when the images show that the loss is larger, not when chance says so.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages
from secateur.progress import Progress
from secateur.repair.result import CurvePoint
from secateur.statistics import Proportion, paired_loss
from secateur.units import Replay, UnitLayer

CHUNKS = 48
MEMORY = 1 << 29
"""Bytes of activations that each of the two sets of images may keep."""


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
        Index into `curve`: the last point whose loss is not shown to exceed the budget.
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
    learn, choose
        Images for the loss of a trial, and for the accuracy that is held against the budget.
    convention
        How they become network input.
    shift
        Whether a pruned norm loses its bias too.
    batch_size
        Images per forward pass.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        learn: LabelledImages,
        choose: LabelledImages,
        convention: InputConvention,
        *,
        shift: bool,
        batch_size: int = 128,
    ) -> None:
        device = next(network.parameters()).device

        def replay(images: LabelledImages) -> Replay:
            inputs = [convention.normalise(batch.to(device)) for batch, _ in images.batches(batch_size)]
            return Replay(network, layers, inputs, shift=shift, memory=MEMORY)

        self._learn, self._choose = replay(learn), replay(choose)
        self._learn_labels, self._choose_labels = learn.labels.to(device), choose.labels.to(device)
        self._flat = torch.ones(sum(layer.count for layer in layers), device=device)
        self._loss = self._cross_entropy(self._learn.outputs)
        self._before = self._correct(self._choose.outputs)

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
        curve = [self._point(0, self._before)]
        group = max(1, len(order) // CHUNKS)
        progress.start("choosing", -(-len(order) // group))
        visited = 0
        for start in range(0, len(order), group):
            suspects = list(order[start : start + group])[: max(0, limits.units - len(kept))]
            if not suspects:
                break
            visited += len(suspects)
            taken = self._take(suspects, tolerances)
            if taken:
                kept += taken
                correct = self._correct(self._choose.attempt(self._flat))
                self._choose.accept()
                curve.append(self._point(len(kept), correct))
            progress.advance(pruned=len(kept), accuracy=curve[-1].accuracy.value)
            if curve[-1].loss.low > limits.budget or self._loss - first > limits.loss:
                break
        within = [index for index, point in enumerate(curve) if point.loss.low <= limits.budget]
        return Choice(tuple(kept), tuple(curve), within[-1], visited - len(kept))

    def _take(self, suspects: list[int], tolerances: Tensor | None) -> list[int]:
        trial = self._flat.clone()
        trial[suspects] = 0
        loss = self._cross_entropy(self._learn.attempt(trial))
        if tolerances is None or loss - self._loss <= float(tolerances[suspects].sum()):
            self._learn.accept()
            self._flat, self._loss = trial, loss
            return suspects
        if len(suspects) == 1:
            return []
        half = len(suspects) // 2
        return self._take(suspects[:half], tolerances) + self._take(suspects[half:], tolerances)

    def _cross_entropy(self, outputs: Tensor) -> float:
        return float(F.cross_entropy(outputs, self._learn_labels))

    def _correct(self, outputs: Tensor) -> Tensor:
        return (outputs.argmax(1) == self._choose_labels).cpu()

    def _point(self, pruned: int, correct: Tensor) -> CurvePoint:
        return CurvePoint(pruned, Proportion.of(correct), paired_loss(self._before, correct))
