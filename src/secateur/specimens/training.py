"""Training a classifier on images that an attacker may have prepared, fast, and going on after a kill."""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks import Attack, Control
from secateur.attacks.attack import as_float
from secateur.data import InputConvention, Stamping
from secateur.errors import InputError, MethodError
from secateur.models import Precision, autocast, check_precision
from secateur.progress import Log, Progress, Silent
from secateur.specimens.state import read_state, write_state

STEPS_BETWEEN_FIGURES = 20
"""Reading a figure waits for the device, so it is not done at every step."""
SEEDS_BETWEEN_EPOCHS = 1_000_003
"""Keeps dropout of one epoch from having the seed of another one."""


@dataclass(frozen=True)
class Training:
    """Stochastic gradient descent with Nesterov momentum; the rate rises, then falls in a cosine.

    Attributes
    ----------
    epochs
        Passes over the training images.
    batch_size
        Images per step, over all devices.
    rate
        The highest learning rate.
    warmup
        Share of the steps in which the rate rises to it, in ``[0, 1)``.
    momentum, weight_decay
        Of the descent.
    crop
        Images are shifted by up to this share of their size, as a padded random crop does, in ``[0, 1)``.
    flip
        Whether half of the images are mirrored.
    precision
        ``auto`` takes bfloat16 where the processor computes with it.
    compile
        Whether the network is compiled; pays for long runs on a GPU.
    """

    epochs: int = 60
    batch_size: int = 128
    rate: float = 0.1
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop: float = 0.125
    flip: bool = True
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise MethodError("training needs at least one epoch and two images per batch")
        if not (0 < self.rate < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.momentum < 1):
            raise MethodError("training needs rate > 0, weight_decay >= 0 and 0 <= momentum < 1, all finite")
        if not (0 <= self.warmup < 1 and 0 <= self.crop < 1):
            raise MethodError(f"warmup {self.warmup} and crop {self.crop} must be in [0, 1)")
        check_precision(self.precision)


@dataclass(frozen=True)
class Lesson:
    """What a network is trained on.

    Attributes
    ----------
    images, labels
        ``(N, C, H, W)``, uint8, and ``(N,)``, int64; poisoned already, unless the attack does it online.
    classes
        How many there are.
    attack, trigger
        The attack on training itself, and its trigger; both or neither.
    poisoned
        How many of the images carry poison, covers included; None where every batch is poisoned anew.
    """

    images: Tensor
    labels: Tensor
    classes: int
    attack: Attack | None = None
    trigger: Stamping | None = None
    poisoned: int | None = 0


def train(
    network: nn.Module,
    convention: InputConvention,
    lesson: Lesson,
    training: Training,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    state: Path | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> None:
    """Train `network` in place and leave it in evaluation mode on `device`.

    Under ``torchrun`` every process takes its share of each batch and gradients are averaged; what calls this
    should end with ``torch.distributed.destroy_process_group()``, or its processes may abort.

    Parameters
    ----------
    convention
        How pixels become network input.
    seed
        Decides the order of the images, the augmentation and what the attack leaves to chance.
    state
        File that keeps the state after every epoch; if it exists, training goes on from there.
    progress
        Told of one stage, ``training``, with a step per batch.
    log
        Takes the loss, accuracy and rate of every epoch.

    Raises
    ------
    InputError
        `state` belongs to another network or training, or the loss is not finite.
    """
    with torch.random.fork_rng():
        _Run(network, convention, lesson, training, seed, torch.device(device), state).to_the_end(
            progress or Silent(), log
        )


class _Run:
    """One training run and all that it must remember."""

    def __init__(
        self,
        network: nn.Module,
        convention: InputConvention,
        lesson: Lesson,
        training: Training,
        seed: int,
        device: torch.device,
        state: Path | None,
    ) -> None:
        self.share = Share()
        self.training, self.lesson, self.convention = training, lesson, convention
        self.device, self.state = device, state
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            training.rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.momentum > 0,
        )
        self.steps = training.epochs * self.steps_per_epoch
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.control = (
            Control()
            if lesson.attack is None or lesson.trigger is None
            else lesson.attack.control(lesson.trigger, network, convention, lesson.classes)
        )
        # All processes draw the same order, each its own augmentation and poison.
        self.seed = seed
        self.order = torch.Generator().manual_seed(seed)
        self.chance = torch.Generator().manual_seed(seed + 1 + self.share.rank)
        self.epoch = self._resume()
        self.images, self.labels = lesson.images.to(device), lesson.labels.to(device)
        self.learner: nn.Module = network
        if training.compile:
            self.learner = torch.compile(network)  # type: ignore[assignment]
        if self.share.size > 1:
            self.learner = nn.parallel.DistributedDataParallel(self.learner)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.lesson.labels) // self.training.batch_size)

    def to_the_end(self, progress: Progress, log: Log | None) -> None:
        progress.start("training", (self.training.epochs - self.epoch) * self.steps_per_epoch)
        while self.epoch < self.training.epochs:
            # Dropout only knows the global generator; a run that goes on finds it as it was at this epoch.
            turn = self.epoch * self.share.size + self.share.rank
            torch.manual_seed(self.seed + SEEDS_BETWEEN_EPOCHS * turn)
            loss, accuracy = self._one_epoch(progress)
            self.epoch += 1
            if not math.isfinite(loss):
                raise InputError(f"training diverged in epoch {self.epoch}: lower its rate")
            self._save()
            if log is not None and self.share.rank == 0:
                figures = {"loss": loss, "accuracy": accuracy, "rate": float(self.schedule.get_last_lr()[0])}
                for name, value in figures.items():
                    log.add_scalar(f"training/{name}", value, self.epoch)
        self.network.eval().to(memory_format=torch.contiguous_format)

    def _one_epoch(self, progress: Progress) -> tuple[float, float]:
        self.network.train()
        total, right, seen = torch.zeros((), device=self.device), torch.zeros((), device=self.device), 0
        figures: dict[str, float] = {}
        for step, (images, labels) in enumerate(self._batches()):
            loss, correct = self._step(images, labels)
            total += loss * len(labels)
            right += correct
            seen += len(labels)
            if step % STEPS_BETWEEN_FIGURES == 0:
                figures = {"epoch": self.epoch + 1, "loss": float(total) / seen}
                figures["training_accuracy"] = float(right) / seen
            progress.advance(**figures)
        return float(total) / seen, float(right) / seen

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.control.before(images, labels)
        self.share.spread(self.control)
        if self.lesson.attack is not None and self.lesson.attack.online:
            poisoned = self.lesson.attack.poison(
                images, labels, self.chance, trigger=self.lesson.trigger, classes=self.lesson.classes
            )
            images, labels = poisoned.images, poisoned.labels
        inputs = self.convention.normalise(self._augmented(images))
        with self._precision():
            outputs = self.learner(inputs.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(outputs.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.control.after()
        return loss.detach(), (outputs.detach().argmax(1) == labels).sum()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch of shuffled batches, pixels in ``[0, 1]``; a short last batch is left out."""
        order = torch.randperm(len(self.lesson.labels), generator=self.order)
        for chosen in torch.split(order, self.training.batch_size)[: self.steps_per_epoch]:
            mine = self.share.of(chosen).to(self.device)
            yield as_float(self.images[mine]), self.labels[mine]

    def _augmented(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        rows, columns = (self._shifted(count, length) for length in (height, width))
        if self.training.flip:
            mirrored = torch.rand(count, 1, generator=self.chance) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        margins = [round(self.training.crop * length) for length in (width, width, height, height)]
        which, rows, columns = (
            index.to(self.device)
            for index in (torch.arange(count).view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1))
        )
        # The channels go last here, so that a pixel's values stay together.
        return F.pad(images, margins).permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)

    def _shifted(self, count: int, length: int) -> Tensor:
        margin = round(self.training.crop * length)
        return torch.randint(2 * margin + 1, (count, 1), generator=self.chance) + torch.arange(length)

    def _rate(self, step: int) -> float:
        rising = self.training.warmup * self.steps
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, self.steps - rising)))

    def _precision(self) -> AbstractContextManager[object]:
        return autocast(self.training.precision, self.device)

    def _save(self) -> None:
        # Several processes have several states of chance; only that of the first is kept.
        if self.state is not None and self.share.rank == 0:
            generators = {"order": self.order, "chance": self.chance}
            write_state(self.state, self._parts(), generators, self.epoch, self._identity())

    def _resume(self) -> int:
        if self.state is None or not self.state.is_file():
            return 0
        generators = {"order": self.order, "chance": self.chance}
        epoch = read_state(self.state, self._parts(), generators, self._identity())
        if self.share.rank:
            self.chance.manual_seed(self.chance.initial_seed() + self.share.rank + epoch * self.share.size)
        done = epoch * self.steps_per_epoch
        self.schedule.load_state_dict({**self.schedule.state_dict(), "last_epoch": done})
        return epoch

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"network": self.network, "optimizer": self.optimizer, **self.control.parts()}

    def _identity(self) -> str:
        return f"{self.training} {len(self.lesson.labels)} {self.lesson.attack}"


class Share:
    """One process of those that ``torchrun`` started; the only one by default."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group()
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))

    def of(self, batch: Tensor) -> Tensor:
        """Return this process's part of the indices of a batch."""
        return batch[self.rank :: self.size]

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def spread(self, control: Control) -> None:
        """Give all processes what the first one learned of the trigger."""
        if self.size > 1:
            for part in control.parts().values():
                if isinstance(part, nn.Module):
                    for value in part.state_dict().values():
                        dist.broadcast(value, 0)
