"""What each form of trigger does to images, by hand, and additive triggers found."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.expose import Inversion
from secateur.expose.forms import FORMS

CONVENTION = InputConvention((4, 4), 1)
IMAGES = torch.tensor([[0.25, 0.5], [0.75, 1.0]]).reshape(1, 1, 1, 2, 2)


def test_a_patch_covers_by_its_mask() -> None:
    form = FORMS["patch"]
    opened = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]], [[0.2, 0.9], [0.4, 0.4]]]])
    images, sizes = form.stamped(opened, IMAGES), form.sizes(opened)
    assert torch.allclose(images.flatten(), torch.tensor([0.2, 0.7, 0.75, 1.0]))
    assert sizes.tolist() == [1.5]
    trigger, size = form.trigger(opened[0])
    assert size == 1.5
    assert torch.allclose(trigger.stamp(IMAGES[0]), images[0])


def test_the_outline_of_a_compact_patch_counts_while_it_is_searched() -> None:
    form = FORMS["compact"]
    opened = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]], [[0.2, 0.9], [0.4, 0.4]]]])
    assert torch.equal(form.stamped(opened, IMAGES), FORMS["patch"].stamped(opened, IMAGES))
    # Steps: down 1 and 0.5, across 0.5 and 0.
    assert form.sizes(opened).tolist() == [1.5 + 0.5 * 2.0]
    assert form.trigger(opened[0])[1] == 1.5


class Block(nn.Module):
    """Answers 1 where three of the nine pixels of a block in the middle are bright, and some more of it."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.zeros(8, 8)
        weights[3:6, 3:6] = 1.0
        weights[3:6:2, 3:6:2] = 1.2
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        height = 5 * ((images * self.weights).sum((1, 2, 3)) - 4.0)
        return torch.stack([torch.zeros_like(height), height], 1)


def test_a_compact_patch_is_in_one_piece() -> None:
    images = LabelledImages(torch.rand(40, 1, 8, 8) * 0.1, torch.zeros(40, dtype=torch.int64))
    convention, found = InputConvention((8, 8), 1), {}
    for form in ("patch", "compact"):
        (found[form],) = Inversion(form=form, steps=300)(
            Block(), images, images, convention, generator=torch.Generator().manual_seed(0), labels=[1]
        )
    assert all(one.converged and one.form == "patch" for one in found.values())
    outlines = {
        name: sum(float((1 - one.trigger.keep[0]).diff(dim=dim).abs().sum()) for dim in (0, 1))
        for name, one in found.items()
    }
    assert outlines["compact"] < 0.8 * outlines["patch"], outlines


def test_an_additive_pattern_is_added_and_clipped() -> None:
    form = FORMS["additive"]
    opened = torch.tensor([[[[-0.5, 0.3], [0.0, 0.4]]]])
    images, sizes = form.stamped(opened, IMAGES), form.sizes(opened)
    assert torch.allclose(images.flatten(), torch.tensor([0.0, 0.8, 0.75, 1.0]))
    assert torch.allclose(sizes, torch.tensor([0.5**0.5]))
    trigger, size = form.trigger(opened[0])
    assert abs(size - 0.5**0.5) < 1e-6
    assert torch.allclose(trigger.stamp(IMAGES[0]), images[0])


class Plane(nn.Module):
    """Answers 1 beyond a plane in the space of pixels, otherwise 0."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = nn.Parameter(torch.linspace(-1, 1, 16))

    def forward(self, images: Tensor) -> Tensor:
        height = 10 * (images.flatten(1) @ self.normal - 0.8)
        return torch.stack([torch.zeros_like(height), height], 1)


def test_the_least_additive_pattern_is_the_way_to_the_plane() -> None:
    # Of an even grey the normal makes 0, so that the plane lies 0.8 / |normal| away, along the normal.
    images = LabelledImages(torch.full((20, 1, 4, 4), 0.5), torch.zeros(20, dtype=torch.int64))
    network = Plane()
    inversion = Inversion(form="additive", rate=0.02, weight=0.1, steps=150, batch_size=8)
    (found,) = inversion(
        network, images, images, CONVENTION, generator=torch.Generator().manual_seed(0), labels=[1]
    )
    normal = network.normal.detach()
    assert found.converged
    assert found.success == 1
    assert 1 <= found.norm / (0.8 / normal.norm()) < 1.15
    assert F.cosine_similarity(found.trigger.add.flatten(), normal, dim=0) > 0.97


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(MethodError, match="round"):
        Inversion(form="round")
