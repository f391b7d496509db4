"""Recovering the clean task with one mask per unit: RNP's second stage (arXiv 2305.14876, Algorithm 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.expose import batch_statistics, dropout_seed, even_batches
from secateur.models import Precision, autocast, check_precision
from secateur.progress import Progress, Silent
from secateur.units import Masks, UnitLayer, masked


@dataclass(frozen=True)
class MaskPath:
    """Where the masks went while the clean task was recovered.

    Attributes
    ----------
    mean
        Each unit's mask averaged over all steps, ``(total,)`` in ``[0, 1]``.
    last
        The masks after the last step, ``(total,)`` in ``[0, 1]``.
    losses
        Clean cross-entropy of every step.
    """

    mean: Tensor
    last: Tensor
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Recovering:
    """Minimise the clean loss of a frozen network over masks in ``[0, 1]``.

    Attributes
    ----------
    rate, momentum
        Of the descent; masks are clipped to ``[0, 1]`` after every step.
    passes
        Over the images.
    loss_scale
        The published alpha: a constant factor on the loss, hence on the rate.
    batch_size
        Images per step at most; a pass is divided evenly.
    shift
        Whether a norm's bias is masked with its weight; the published code masks the weight only.
    dropout
        Whether dropout is active. Normalisation always uses the statistics of the batch.
    precision
        Of forward passes.
    """

    rate: float = 0.2
    momentum: float = 0.9
    passes: int = 20
    loss_scale: float = 0.2
    batch_size: int = 128
    shift: bool = False
    dropout: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        scales = (self.rate, self.loss_scale)
        if not (all(0 < scale < math.inf for scale in scales) and 0 <= self.momentum < 1):
            raise MethodError("recovering needs rate > 0, loss_scale > 0 and 0 <= momentum < 1, all finite")
        if self.passes < 1 or self.batch_size < 2:
            raise MethodError("recovering needs at least one pass and two images per batch")

    def __call__(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        images: LabelledImages,
        convention: InputConvention,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
        stage: str = "recovering",
    ) -> MaskPath:
        """Learn the masks and return their path.

        Parameters
        ----------
        network
            Answers with logits. Its weights are not changed, and no gradient is computed for them; its
            normalisation statistics move with the batches, as in the published code: give a copy.
        layers
            Its layers with units.
        images
            Clean images.
        convention
            How they become network input.
        generator
            Decides the order of the images and dropout.
        progress, stage
            Told about every pass, under this name.
        """
        progress = progress or Silent()
        progress.start(stage, self.passes)
        device = next(network.parameters()).device
        network.requires_grad_(False)
        masks = Masks.ones(layers, device=device).flat
        optimizer = torch.optim.SGD([masks], lr=self.rate, momentum=self.momentum)
        total, steps, losses = torch.zeros_like(masks), 0, []
        with (
            dropout_seed(generator),
            batch_statistics(network, dropout=self.dropout),
            masked(network, layers, masks, shift=self.shift),
        ):
            for _ in range(self.passes):
                for batch, labels in even_batches(images, self.batch_size, generator):
                    with autocast(self.precision, device):
                        output = network(convention.normalise(batch.to(device))).float()
                    loss = F.cross_entropy(output, labels.to(device))
                    optimizer.zero_grad(set_to_none=True)
                    (self.loss_scale * loss).backward()  # type: ignore[no-untyped-call]
                    if masks.grad is None or not torch.isfinite(masks.grad).all():
                        break
                    optimizer.step()
                    with torch.no_grad():
                        masks.clamp_(0, 1)
                        total += masks
                    steps += 1
                    losses.append(loss.item())
                progress.advance(loss=losses[-1] if losses else float("nan"))
        last = masks.detach().cpu()
        return MaskPath((total / steps).cpu() if steps else last.clone(), last, tuple(losses))
