"""A network that only guesses stops the work, with the convention that would have worked."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages
from secateur.errors import ConventionError
from secateur.models.checkpoint import Checkpoint
from secateur.models.convention_check import better_convention, check_convention, try_conventions
from secateur.models.loading import LoadedModel


class Brightness(nn.Module):
    """Tells four brightnesses apart, if pixels arrive as it expects them: 0, 85, 170 and 255 times `unit`."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.register_buffer("levels", torch.arange(4) * 85 * unit)

    def forward(self, x: Tensor) -> Tensor:
        return -(x.mean((1, 2, 3))[:, None] - self.levels).abs()


def model(unit: float) -> LoadedModel:
    convention = InputConvention((4, 4), 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return LoadedModel(Brightness(unit), convention, 4, "mine", Checkpoint({}, None, Path("model.pth"), ""))


@pytest.fixture
def images() -> LabelledImages:
    labels = torch.arange(4).repeat(50)
    return LabelledImages((labels.float() / 3).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), labels)


def test_accuracy_is_that_of_the_network(images: LabelledImages) -> None:
    assert check_convention(model(1 / 255), images) == 1
    half_wrong = LabelledImages(
        images.images, torch.where(images.labels < 2, images.labels, 5 - images.labels)
    )
    assert check_convention(model(1 / 255), half_wrong) == 0.5


def test_near_chance_names_the_convention_that_works(images: LabelledImages) -> None:
    with pytest.raises(ConventionError) as caught:
        check_convention(model(1.0), images)
    message = str(caught.value)
    assert message.startswith("model.pth: clean accuracy is 25.0% on 200 images")
    assert "pixels in [0, 255] (--mean 0 --std 1 --range 0,255): 100.0%" in message
    assert message.endswith("Try --mean 0 --std 1 --range 0,255.")


def test_hopeless_networks_get_other_advice(images: LabelledImages) -> None:
    with pytest.raises(ConventionError, match=r"None of them helps.*order of the classes"):
        check_convention(model(1e6), images)


def test_always_answering_the_commonest_label_is_chance(images: LabelledImages) -> None:
    unbalanced = LabelledImages(images.images, torch.where(torch.arange(200) < 140, 0, images.labels))
    with pytest.raises(ConventionError):
        check_convention(model(1e6), unbalanced)


@pytest.mark.parametrize(("channels", "count"), [(1, 2), (3, 4)])
def test_alternatives_differ_from_what_was_given(images: LabelledImages, channels: int, count: int) -> None:
    given = InputConvention((4, 4), channels, (0.5,), (0.5,))
    tried = try_conventions(
        replace(model(1 / 255), convention=given), LabelledImages(images.images[:, :channels], images.labels)
    )
    assert given not in [other.convention for other in tried]
    assert len(tried) == count
    assert tried[0].convention == InputConvention((4, 4), channels)
    assert tried[0].accuracy == 1


def test_a_clearly_better_convention_is_suggested(images: LabelledImages) -> None:
    """Under [-1, 1] two of the four levels are lost: above chance, and half of what the network can."""
    right, wrong = model(1 / 255), model(1 / 255)
    wrong = replace(wrong, convention=InputConvention((4, 4), 3, (0.5,), (0.5,)))
    accuracy = check_convention(wrong, images)
    assert 0.25 < accuracy < 1
    found = better_convention(wrong, images, accuracy)
    assert found is not None
    assert (found.flags, found.accuracy) == ("--mean 0 --std 1 --range 0,1", 1)
    assert better_convention(right, images, 1.0) is None
