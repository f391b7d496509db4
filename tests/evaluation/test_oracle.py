"""The counts agree with torchmetrics."""

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from secateur.data import InputConvention, LabelledImages, Trigger
from secateur.evaluation import evaluate

CLASSES = 5


class Scores(nn.Module):
    """Answers with the pixels of the first row."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_and_success_are_those_of_torchmetrics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(200, 1, 1, CLASSES, generator=generator)
    labels = torch.randint(CLASSES, (200,), generator=generator)
    add = torch.rand(1, 1, CLASSES, generator=generator) / 2
    trigger, target = Trigger(torch.full_like(add, 0.5), add), int(add.argmax())
    found = evaluate(
        Scores(),
        LabelledImages(images, labels),
        InputConvention((1, CLASSES), 1),
        trigger=trigger,
        target=target,
    )
    clean, triggered = images[:, 0, 0], trigger.stamp(images)[:, 0, 0]
    assert found.acc.value == pytest.approx(float(multiclass_accuracy(clean, labels, CLASSES, "micro")))
    each = multiclass_accuracy(clean, labels, CLASSES, average=None)
    assert [share.value for share in found.per_class] == pytest.approx(each.tolist())
    others = labels != target
    wanted = torch.full_like(labels[others], target)
    assert found.asr is not None
    assert found.ra is not None
    success = multiclass_accuracy(triggered[others], wanted, CLASSES, "micro")
    assert found.asr.value == pytest.approx(float(success))
    robust = multiclass_accuracy(triggered[others], labels[others], CLASSES, "micro")
    assert found.ra.value == pytest.approx(float(robust))
