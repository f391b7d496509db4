"""Polishing a pruned network: gently back towards the clean answers that the network gave as it came.

Fine-tuning on the labels of a few hundred images costs more accuracy than pruning does, and can bring the
backdoor back. The original network's own answers say far more than labels, and small steps with frozen
normalisation leave what was pruned alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.expose import Found, LatentTrigger
from secateur.models import Precision, autocast, check_precision, duplicate
from secateur.progress import Progress, Silent
from secateur.units import Unit, UnitLayer, prune

CERTAIN = 1e-6
"""Probabilities stay so far away from 0 and 1: the logarithm of what is left must be finite."""


@dataclass(frozen=True)
class Polishing:
    """Minimise the divergence of a pruned network's answers from those of the network as it came.

    Adam on clean images, moved a little and mixed with each other: the teacher answers whatever it is shown,
    but what it was not trained on teaches little (mirrored digits, images moved by an eighth of their size).
    Its steps do not depend on the scale of weights and losses, which differ from network to network. Both
    answers are softened by `temperature` (Hinton et al., 2015). The teacher knows the backdoor, too, which is
    kept out in two ways. Of each batch a part is shown with one of the inverted triggers at work, and should
    be answered as the teacher answers it without. And on images of other classes the probability of the
    triggers' label is no larger than it was after pruning: what the teacher sees of that label there may be
    what an image shares with the trigger.
    Normalisation keeps its statistics. What pruning set to zero stays zero. The weights returned lie between
    those before and those that the steps end at (Wortsman et al., arXiv 2109.01903): most of the accuracy is
    won on the first half of the way, and most of what comes back of the trigger comes on the second.

    Attributes
    ----------
    passes
        Over the images.
    rate
        The first learning rate; it falls to zero along a cosine.
    batch_size
        Images per step.
    temperature
        Above 0.
    moved
        Images are moved by up to this part of their height and width, in ``[0, 1)``.
    mixed
        Share of the batches in which each image is mixed with another, in ``[0, 1]``.
    stamped
        Share of each batch on which a trigger is at work, in ``[0, 1)``.
    way
        How far the weights go from those before to those that the steps end at, in ``(0, 1]``.
    precision
        Of forward passes.
    """

    passes: int = 20
    rate: float = 4e-4
    batch_size: int = 64
    temperature: float = 2.0
    moved: float = 0.04
    mixed: float = 0.5
    stamped: float = 0.25
    way: float = 0.8
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if min(self.passes, self.batch_size) < 1:
            raise MethodError("polishing needs at least one pass and one image per batch")
        if not (0 < self.rate < math.inf and 0 < self.temperature < math.inf):
            raise MethodError("polishing needs finite rate > 0 and temperature > 0")
        if not (0 <= self.moved < 1 and 0 <= self.mixed <= 1 and 0 <= self.stamped < 1):
            raise MethodError("polishing needs 0 <= moved < 1, 0 <= mixed <= 1 and 0 <= stamped < 1")
        if not 0 < self.way <= 1:
            raise MethodError(f"way {self.way} must be above 0 and at most 1")

    def __call__(
        self,
        pruned: nn.Module,
        teacher: nn.Module,
        learn: LabelledImages,
        convention: InputConvention,
        *,
        layers: Sequence[UnitLayer],
        units: Sequence[Unit],
        shift: bool = True,
        triggers: Sequence[Found],
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> nn.Module:
        """Return a polished copy of `pruned`.

        Parameters
        ----------
        pruned, teacher
            The same network after and before pruning, answering with logits, in evaluation mode; not changed.
        learn
            Clean images.
        convention
            How they become network input.
        layers, units
            Those that were pruned, and the layers with units.
        shift
            Whether a pruned norm lost its bias too.
        triggers
            Those that were inverted, for one label; without any, everything is learned from the teacher.
        generator
            Decides order and variation of the images, and their triggers.
        progress
            Told about every pass.
        """
        progress = progress or Silent()
        progress.start("polishing", self.passes)
        device = next(pruned.parameters()).device
        work = duplicate(pruned).eval().requires_grad_(True)
        gone = _gone(work, layers, units, shift=shift)
        triggers = [_without(trigger, gone) for trigger in triggers]
        label = triggers[0].label if triggers else None
        other = learn.labels != (-1 if label is None else label)
        optimizer = torch.optim.Adam(work.parameters(), lr=self.rate)
        steps = self.passes * math.ceil(len(learn) / self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(self.passes):
            total = 0.0
            for chosen in torch.split(torch.randperm(len(learn), generator=generator), self.batch_size):
                varied, others = self._varied(learn.images[chosen], other[chosen], generator)
                # Not all: a network may refuse a batch of none.
                count = min(round(self.stamped * len(varied)), len(varied) - 1) if triggers else 0
                which = int(torch.randint(max(1, len(triggers)), (), generator=generator))
                inputs = convention.normalise(varied.to(device))
                with autocast(self.precision, device):
                    with torch.no_grad():
                        wanted = (teacher(inputs).float() / self.temperature).log_softmax(1)
                        if label is not None:
                            before = (pruned(inputs).float() / self.temperature).log_softmax(1)
                            wanted = _without_label(wanted, before, label, others.to(device))
                    output = work(inputs[count:]).float()
                    if count:
                        stamped = triggers[which].answers(work, varied[:count], convention).float()
                        output = torch.cat([stamped, output])
                loss = F.kl_div(
                    (output / self.temperature).log_softmax(1),
                    wanted,
                    log_target=True,
                    reduction="batchmean",
                )
                optimizer.zero_grad(set_to_none=True)
                (self.temperature**2 * loss).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    for name, zero in gone.items():
                        work.get_parameter(name).masked_fill_(zero, 0.0)
                total += loss.item() * len(chosen)
            progress.advance(divergence=total / len(learn))
        with torch.no_grad():
            for before, after in zip(pruned.parameters(), work.parameters(), strict=True):
                after.copy_(before.lerp(after, self.way))
        return work.requires_grad_(False)

    def _varied(self, images: Tensor, others: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a batch moved as a whole, and perhaps mixed.

        Also where `others`, ``(N,)``, holds of all that an image shows.
        """
        height, width = images.shape[2:]
        rows, columns = int(self.moved * height), int(self.moved * width)
        padded = F.pad(images, (columns, columns, rows, rows), mode="reflect")
        top = int(torch.randint(2 * rows + 1, (), generator=generator))
        left = int(torch.randint(2 * columns + 1, (), generator=generator))
        images = padded[:, :, top : top + height, left : left + width]
        if torch.rand((), generator=generator) >= self.mixed:
            return images, others
        second = torch.randperm(len(images), generator=generator)
        shares = torch.rand(len(images), 1, 1, 1, generator=generator)
        return images[second].lerp(images, shares), others & others[second]


def _without_label(wanted: Tensor, before: Tensor, label: int, others: Tensor) -> Tensor:
    """Return logarithms of probabilities, ``(N, K)``; for `others`, `label` has no more than before."""
    own = torch.minimum(before, wanted)[:, label].clamp(math.log(CERTAIN), math.log1p(-CERTAIN))
    rest = wanted.index_fill(1, torch.tensor([label], device=wanted.device), -torch.inf).log_softmax(1)
    mixed = rest + torch.log1p(-own.exp())[:, None]
    mixed[:, label] = own
    return torch.where(others[:, None], mixed, wanted)


@torch.no_grad()
def _gone(
    pruned: nn.Module, layers: Sequence[UnitLayer], units: Sequence[Unit], *, shift: bool
) -> dict[str, Tensor]:
    """Return where parameters belong to pruned units, by their names."""
    marked = duplicate(pruned)
    for parameter in marked.parameters():
        parameter.fill_(1.0)
    named = prune(marked, layers, units, shift=shift).named_parameters()
    return {name: parameter == 0 for name, parameter in named if (parameter == 0).any()}


def _without(trigger: Found, gone: Mapping[str, Tensor]) -> Found:
    """Return a shift without what it adds to pruned channels; other triggers as they are."""
    if not isinstance(trigger, LatentTrigger):
        return trigger
    shifts = {
        name: shift.masked_fill(gone[name], 0.0) if name in gone else shift
        for name, shift in trigger.shifts.items()
    }
    return replace(trigger, shifts=shifts)
