"""Silencing an inverted trigger where no layer is a norm, one small group of units at a time.

Where no normalisation follows a layer, masks recovered from clean images do not find the units of a backdoor:
they are dormant, and no statistics tell of them. An inverted trigger shows them at work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import MethodError
from secateur.expose import Case, InvertedTrigger, images_of_others, of_others
from secateur.repair.activity import activity
from secateur.repair.choosing import MEMORY, Choice, HeldOut, network_inputs
from secateur.units import Masks, Replay, UnitLayer, masked

STEPS = 56
"""At most so many groups of `TAKEN` are taken out."""
TAKEN = 2
"""Groups that are taken out before the gradient is computed anew."""


@dataclass(frozen=True)
class Silencing:
    """Make stamped images answer as clean ones do, by pruning alone.

    The loss is the divergence of the pruned network's answers from those of the network as it came, both
    softened by `temperature`: on clean images, plus `weight` times that on the same images stamped. The units
    that are left are ordered by its gradient in their masks times the change that the trigger causes in them,
    in standard deviations over clean images (the gradient alone would start with units that the clean task
    needs). The first `candidates` groups are tried, the best `TAKEN` of them are taken out, and the gradient
    is computed anew.

    Attributes
    ----------
    weight
        Of the stamped images, above 0.
    temperature
        Above 0; the answers of a saturated network say more when it is above 1.
    share
        Of all units, how many may be pruned, in ``(0, 1]``.
    success
        Stop once the trigger succeeds on no more than this share of held-out images, in ``[0, 1)``.
    candidates
        Groups that are tried before some are taken.
    """

    weight: float = 0.3
    temperature: float = 2.0
    share: float = 0.2
    success: float = 0.01
    candidates: int = 16

    def __post_init__(self) -> None:
        if self.weight <= 0 or self.temperature <= 0 or not 0 < self.share <= 1:
            raise MethodError("silencing needs weight > 0, temperature > 0 and 0 < share <= 1")
        if not 0 <= self.success < 1 or self.candidates < TAKEN:
            raise MethodError(f"silencing needs 0 <= success < 1 and at least {TAKEN} candidates")

    def __call__(
        self,
        case: Case,
        found: InvertedTrigger,
        *,
        budget: float,
        shift: bool,
    ) -> tuple[Choice, Tensor]:
        """Return what to prune, in order, and every unit's score.

        Parameters
        ----------
        case
            The network, answering with logits, and its clean images: units are chosen on ``clean.learn``;
            ``clean.choose`` decides when to stop.
        found
            The trigger and its label.
        budget
            Loss of held-out accuracy that must not be exceeded for sure, in ``[0, 1]``.
        shift
            Whether a pruned norm loses its bias too.

        Returns
        -------
        tuple
            The choice, and scores ``(total,)`` in ``[0, 1]``: 1 where the trigger changes
            nothing, towards 0 the larger the change.
        """
        network, layers, clean = case.network, case.discovery.layers, case.clean
        device = case.example.device

        def batches(images: Tensor) -> list[Tensor]:
            return network_inputs(images, clean.convention, device)

        learn, label = clean.learn, found.label
        if label is None:
            raise MethodError("silencing needs a trigger with a label")
        others = of_others(learn.labels, label)
        plain, stamped = batches(learn.images), batches(found.trigger.stamp(learn.images[others]))
        replay = Replay(network, layers, plain + stamped, shift=shift)
        target = self._soft(replay.outputs[: len(learn)])
        targets = torch.cat([target, target[others.to(device)]])
        weights = torch.full((len(targets),), self.weight / len(others), device=device)
        weights[: len(learn)] = 1 / len(learn)

        held = HeldOut(network, layers, clean, shift=shift)
        held_stamped = batches(found.trigger.stamp(images_of_others(clean.choose, label)))
        watch = Replay(network, layers, held_stamped, shift=shift, memory=MEMORY)
        flat = torch.ones(held.total, device=device)
        most = math.floor(self.share * len(flat))
        group = max(1, math.ceil(most / (TAKEN * STEPS)))
        changes = activity(network, layers, batches(learn.images[others]), stamped).change
        current = self._loss(replay.outputs, targets, weights)
        kept: list[int] = []
        curve = [held.point(flat, 0)]
        case.progress.start("silencing", math.ceil(most / group))
        while len(kept) < most:
            slopes = self._slopes(network, layers, flat, plain + stamped, targets, weights, shift)
            gains = torch.where(flat > 0, slopes * changes, -torch.inf)
            order = gains.argsort(descending=True, stable=True)[: int(flat.sum())]
            trials = []
            for suspects in torch.split(order[: self.candidates * group], group):
                trial = flat.clone()
                trial[suspects] = 0
                loss = self._loss(replay.attempt(trial), targets, weights)
                if loss < current:
                    trials.append((loss, suspects.tolist()))
            trials.sort(key=lambda pair: pair[0])
            taken = [unit for _, suspects in trials[:TAKEN] for unit in suspects][: most - len(kept)]
            if not taken:
                break
            flat[taken] = 0
            kept += taken
            current = self._loss(replay.attempt(flat), targets, weights)
            replay.accept()
            hits = float((watch.attempt(flat).argmax(1) == label).double().mean())
            watch.accept()
            curve.append(held.point(flat, len(kept)))
            case.progress.advance(pruned=len(kept), accuracy=curve[-1].accuracy.value, trigger=hits)
            if curve[-1].loss.low > budget or hits <= self.success:
                break
        return Choice.within(budget, kept, curve), (1 / (1 + changes)).cpu()

    def _slopes(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        flat: Tensor,
        inputs: Sequence[Tensor],
        targets: Tensor,
        weights: Tensor,
        shift: bool,
    ) -> Tensor:
        """Return the loss's gradient in the masks, ``(total,)``: high promises a gain."""
        masks = Masks(tuple(layers), flat.clone().requires_grad_()).flat
        total = torch.zeros_like(flat)
        start = 0
        with masked(network, layers, masks, shift=shift):
            for batch in inputs:
                part = slice(start, start + len(batch))
                loss = self._divergence(network(batch), targets[part], weights[part])
                total += torch.autograd.grad(loss, masks)[0]
                start += len(batch)
        return total

    def _soft(self, outputs: Tensor) -> Tensor:
        return (outputs / self.temperature).softmax(1)

    def _divergence(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        answers = (outputs / self.temperature).log_softmax(1)
        return weights @ F.kl_div(answers, targets, reduction="none").sum(1)

    def _loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> float:
        return float(self._divergence(outputs, targets, weights))
