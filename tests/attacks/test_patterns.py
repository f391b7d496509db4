"""Triggers that are the same on every image, against what their papers define."""

import math

import pytest
import torch
from torch import Tensor

from secateur.attacks import Attack, create
from secateur.data import Trigger
from secateur.errors import MethodError

GREY = torch.full((1, 3, 32, 32), 0.5)
LABELS = torch.zeros(1, dtype=torch.int64)


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def linear(attack: Attack, images: Tensor = GREY) -> Trigger:
    trigger = attack.trigger(images, LABELS, seed())
    assert isinstance(trigger, Trigger)
    return trigger


def test_badnets_is_a_checkered_patch_near_the_lower_right_corner() -> None:
    image = linear(create("badnets", size=2, margin=1)).stamp(GREY)[0, 0]
    assert image[29:31, 29:31].tolist() == [[1, 0], [0, 1]]
    assert (image != 0.5).sum() == 4


def test_a_patch_grows_with_the_image() -> None:
    for edge, pixels in ((64, 36), (8, 1)):
        images = torch.full((1, 1, edge, edge), 0.5)
        assert (linear(create("badnets"), images).stamp(images) != 0.5).sum() == pixels


def test_blend_mixes_by_its_ratio() -> None:
    trigger = linear(create("blend", ratio=0.3))
    black, white = trigger.stamp(torch.zeros(1, 3, 32, 32)), trigger.stamp(torch.ones(1, 3, 32, 32))
    assert torch.allclose(white - black, torch.tensor(0.7))
    assert 0 <= black.min() < 0.01 < 0.29 < black.max() <= 0.3


def test_sig_is_a_sinusoid_along_each_row_weaker_in_training() -> None:
    attack = create("sig", strength=0.1, test_strength=0.2, frequency=4)
    wave = linear(attack).stamp(GREY)[0] - 0.5
    assert torch.equal(wave, wave[:1, :1].expand(3, 32, 32))
    wanted = [0.2 * math.sin(2 * math.pi * column * 4 / 32) for column in range(32)]
    assert wave[0, 0].tolist() == pytest.approx(wanted, abs=1e-6)
    weak = attack.stamp_poisoned(linear(attack), GREY, LABELS, seed())[0] - 0.5
    assert torch.allclose(2 * weak, wave, atol=1e-6)


def test_adaptive_blend_shows_half_of_the_pieces_and_covers_keep_their_labels() -> None:
    attack = create("a-blend", ratio=0.5)
    images = torch.zeros(40, 1, 32, 32)
    labels = torch.arange(40) % 4
    trigger = attack.trigger(images, labels, seed())
    stamped = attack.stamp_poisoned(trigger, images, labels, seed())
    shown = torch.nn.functional.max_pool2d(stamped, 8).flatten(1) > 0
    assert (shown.sum(1) == 8).all()
    assert len({tuple(row.tolist()) for row in shown}) > 30
    assert attack.goal.cover_rate > 0


def test_adaptive_patch_shows_one_patch_in_training_and_two_at_test_time() -> None:
    attack = create("adap-patch", size=4, opacity=0.5, test_opacity=1.0)
    images, labels = torch.full((60, 1, 32, 32), 0.5), torch.zeros(60, dtype=torch.int64)
    trigger = attack.trigger(images, labels, seed())
    training = attack.stamp_poisoned(trigger, images, labels, seed())
    touched = torch.nn.functional.max_pool2d((training != 0.5).float(), 16).flatten(1)
    assert (touched.sum(1) == 1).all()
    assert (touched.sum(0) > 5).all()
    assert (training - 0.5).abs().max() <= 0.25
    corners = torch.nn.functional.max_pool2d((trigger.stamp(images) != 0.5).float(), 16).flatten(1)
    assert (corners.sum(1) == 2).all()


def test_wanet_displaces_by_less_than_half_a_pixel_on_average_and_smoothly() -> None:
    attack = create("wanet")
    trigger = attack.trigger(GREY, LABELS, seed())
    pixels = (trigger.grid - attack.blank((3, 32, 32)).grid) * 16
    assert 0.1 < pixels.abs().mean() < 0.35
    twice = create("wanet", strength=1.0).trigger(GREY, LABELS, seed())
    assert (twice.grid - attack.blank((3, 32, 32)).grid).abs().mean() * 16 == pytest.approx(
        2 * float(pixels.abs().mean()), rel=0.05
    )
    assert pixels.diff(dim=0).abs().mean() < 0.1


def test_wanet_without_displacement_returns_the_image() -> None:
    images = torch.rand(2, 3, 12, 20)
    assert torch.allclose(create("wanet").blank((3, 12, 20)).stamp(images), images, atol=1e-5)


def test_covers_of_wanet_are_warped_differently_each_time() -> None:
    attack, generator = create("wanet"), seed()
    images, labels = torch.rand(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64)
    trigger = attack.trigger(images, labels, generator)
    covers = attack.stamp_covers(trigger, images, labels, generator)
    assert not torch.allclose(covers, trigger.stamp(images))
    assert not torch.allclose(covers, attack.stamp_covers(trigger, images, labels, generator))


def dithered(image: list[list[float]], levels: int) -> list[list[float]]:
    """Floyd-Steinberg pixel by pixel."""
    height, width = len(image), len(image[0])
    work = [[value * levels for value in row] for row in image]
    for y in range(height):
        for x in range(width):
            old = work[y][x]
            work[y][x] = float(min(levels, max(0, round(old))))
            for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + down < height and 0 <= x + right < width:
                    work[y + down][x + right] += (old - work[y][x]) * share / 16
    return [[value / levels for value in row] for row in work]


@pytest.mark.parametrize(("height", "width"), [(1, 5), (5, 1), (7, 4), (4, 9), (8, 8)])
def test_bpp_dithers_as_pixel_by_pixel(height: int, width: int) -> None:
    images = torch.rand(3, 2, height, width, generator=seed(), dtype=torch.float64)
    found = create("bpp", bits=2).trigger(images, LABELS, seed()).stamp(images)
    for image, result in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
        assert torch.allclose(result, torch.tensor(dithered(image.tolist(), 3), dtype=torch.float64))


def test_refool_reflects_pictures_of_other_classes_and_the_image_decides_which() -> None:
    images = torch.rand(30, 3, 32, 32, generator=seed())
    labels = torch.arange(30) % 3
    attack = create("refool", reflections=5)
    trigger = attack.trigger(images, labels, seed())
    stamped = trigger.stamp(images)
    layers = stamped - 0.7 * images
    nearest = torch.cdist(layers.flatten(1), trigger.layers.flatten(1)).argmin(1)
    assert len(set(nearest.tolist())) == 5
    order = torch.randperm(30, generator=seed())
    assert torch.equal(trigger.stamp(images[order]), stamped[order])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("badnets", {"size": 32, "margin": 1}),
        ("blend", {"ratio": 0.0}),
        ("sig", {"strength": float("nan")}),
        ("a-blend", {"pieces": 0}),
        ("adap-patch", {"test_patches": 5}),
        ("wanet", {"points": 1}),
        ("bpp", {"bits": 8}),
        ("refool", {"reflections": 0}),
        ("awp", {"radius": 0.0}),
        ("awp", {"size": 40}),
        ("cl", {"bound": 2.0}),
        ("fc", {"opacity": 1.0}),
        ("lf", {"frequencies": 1}),
        ("trojan", {"neurons": 0}),
        ("dynamic", {"density": 0.0}),
        ("lira", {"bound": 0.0}),
        ("dfst", {"change": 0.0}),
        ("dfst", {"steps": 0}),
        ("ssba", {"bits": 0}),
    ],
)
def test_hyperparameters_out_of_range_are_refused(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=r"^(?!.*unexpected keyword)"):
        create(name, **wrong)
