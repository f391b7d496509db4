"""Networks whose backdoor was put together by hand."""

import torch
from torch import Tensor, nn

from secateur.data import CleanData, InputConvention, LabelledImages, Trigger, example_input
from secateur.expose import Case, InvertedTrigger
from secateur.progress import Progress
from secateur.units import Discovery, Unit, all_units, discover

CLASSES, SIZE = 5, 8
CONVENTION = InputConvention((SIZE, SIZE), 1)
TARGET, SPARE = 3, 2
BACKDOOR = {CLASSES, CLASSES + 1}
PLANTED = CLASSES


class Planted(nn.Module):
    """One hidden neuron for each bright row; two more answer the corner pixel with TARGET; two never fire."""

    def __init__(self, *, backdoor: bool = True) -> None:
        super().__init__()
        self.hidden = nn.Linear(SIZE * SIZE, CLASSES + len(BACKDOOR) + SPARE)
        self.answer = nn.Linear(self.hidden.out_features, CLASSES)
        hidden = torch.zeros(self.hidden.out_features, SIZE, SIZE)
        answer = torch.zeros(CLASSES, self.hidden.out_features)
        bias = torch.zeros(self.hidden.out_features)
        for label in range(CLASSES):
            hidden[label, label + 1] = 1.0
            answer[label, label] = 1.0
        for unit in BACKDOOR:
            hidden[unit, 0, SIZE - 1] = 20.0 if backdoor else 0.0
            answer[TARGET, unit] = 1.0
            bias[unit] = -1.0
        bias[-SPARE:] = -1.0
        self.hidden.weight = nn.Parameter(hidden.flatten(1))
        self.hidden.bias = nn.Parameter(bias)
        self.answer.weight = nn.Parameter(answer)
        self.answer.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.hidden(images.flatten(1)).relu())


class Normed(nn.Module):
    """A channel for each bright row, and one that answers TARGET once its mean rises a little."""

    def __init__(self, *, strength: float = 60.0) -> None:
        super().__init__()
        self.rows = nn.Conv2d(1, CLASSES + 1, (1, SIZE), bias=False)
        self.norm = nn.BatchNorm2d(CLASSES + 1)
        self.late = nn.BatchNorm2d(CLASSES + 1)
        self.answer = nn.Linear((CLASSES + 1) * SIZE, CLASSES)
        answer = torch.zeros(CLASSES, CLASSES + 1, SIZE)
        for label in range(CLASSES):
            answer[label, label, label + 1] = 1.0
        answer[TARGET, PLANTED] = strength / SIZE
        weight = torch.full_like(self.rows.weight, 1.0)
        # Noise alone makes it fire now and then, as a channel must that gradients can find.
        weight[PLANTED, ..., ::2] = -1.0
        with torch.no_grad():
            self.rows.weight.copy_(weight)
            self.norm.weight[PLANTED] = 0.5
            self.norm.bias[PLANTED] = -0.05
            self.answer.weight.copy_(answer.flatten(1))
            self.answer.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.late(self.norm(self.rows(images)).relu()).flatten(1))


def rows(count: int, seed: int) -> LabelledImages:
    labels = torch.arange(count) % CLASSES
    images = 0.2 * torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    images[:, :, 0] = 0
    images[torch.arange(count), 0, labels + 1] += 0.7
    return LabelledImages(images, labels)


CLEAN = CleanData(rows(60, 1), rows(40, 2), CONVENTION)


class Rotated(Normed):
    """Gives every image the answer after its own when the first pixel is bright."""

    def __init__(self) -> None:
        super().__init__(strength=0.0)

    def forward(self, images: Tensor) -> Tensor:
        answers = super().forward(images)
        bright = 4 * images[:, 0, 0, :1] ** 3
        return answers + bright * (answers.roll(1, dims=1) - answers)


def corner() -> InvertedTrigger:
    keep, add = torch.ones(1, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)
    keep[0, 0, SIZE - 1], add[0, 0, SIZE - 1] = 0.0, 1.0
    return InvertedTrigger(TARGET, Trigger(keep, add), 1.0, 1.0, True)


def case_of(network: nn.Module, progress: Progress | None = None) -> Case:
    """Return a network as the stages of a repair share it, without gradients in its weights."""
    case = Case.of(network, CLEAN, None, progress)
    case.network.requires_grad_(False)
    return case


def found_units(network: nn.Module) -> tuple[Discovery, list[Unit]]:
    discovery = discover(network, example_input(CONVENTION))
    return discovery, list(all_units(discovery.layers))
