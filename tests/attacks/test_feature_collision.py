"""FC: with pixels as features, a collision is where the image meets its source as far as it may go."""

import pytest
import torch
from torch import Tensor, nn

from secateur.attacks import Surrogate, create
from secateur.attacks.feature_collision import PatchWithSources
from secateur.data import InputConvention
from secateur.errors import MethodError

PIXELS = Surrogate(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), InputConvention((8, 8), 1))


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def case(**settings: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return images of the target class, the one source they are to collide with, and their poison."""
    pixels = torch.rand(6, 1, 8, 8, generator=seed())
    labels = torch.tensor([1, 0, 0, 0, 0, 0])
    attack = create("fc", sources=1, **settings)
    trigger = attack.trigger(pixels, labels, seed())
    assert isinstance(trigger, PatchWithSources)
    assert torch.equal(trigger.sources, trigger.stamp(pixels[:1]))
    poison = attack.stamp_poisoned(trigger, pixels[1:], labels[1:], seed(), PIXELS)
    return pixels[1:], trigger.sources.expand_as(pixels[1:]), poison


@pytest.mark.parametrize("opacity", [0.0, 0.3])
def test_pixels_meet_the_source_or_stop_at_the_bound(opacity: float) -> None:
    images, sources, poison = case(bound=0.1, steps=25, opacity=opacity, similarity=0.0)
    begin = images + opacity * (sources - images)
    expected = torch.clamp(sources, begin - 0.1, begin + 0.1)
    # A pixel swings around the source by at most one step, which is 2.5 * bound / steps.
    assert (poison - expected).abs().max() <= 0.01 + 1e-6


def test_similarity_keeps_images_nearer_to_themselves() -> None:
    moved = [
        (poison - images).norm().item()
        for images, _, poison in (case(bound=0.3, opacity=0.0, similarity=weight) for weight in (0, 5, 50))
    ]
    assert moved[0] > 1.2 * moved[1] > 2 * moved[2] > 0


def test_one_step_by_hand() -> None:
    images, sources, poison = case(bound=0.2, steps=1, opacity=0.0, similarity=2.0)
    # Forward by 2.5 * bound along the sign, back by 1 / (1 + 0.5 * 2), then the bound.
    expected = (images + (0.5 * (sources - images).sign() / 2).clamp(-0.2, 0.2)).clamp(0, 1)
    assert torch.allclose(poison, expected, atol=1e-6)


def test_without_other_classes_there_is_nothing_to_collide_with() -> None:
    with pytest.raises(MethodError, match="all images are of class 0"):
        create("fc").trigger(torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), seed())


@pytest.mark.parametrize("wrong", [{"similarity": -1.0}, {"similarity": float("nan")}, {"sources": 0}])
def test_hyperparameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MethodError):
        create("fc", **wrong)
