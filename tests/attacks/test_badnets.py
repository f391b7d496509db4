"""BadNets stamps a checkered patch near the lower right corner."""

import pytest
import torch

from secateur.attacks import create
from secateur.errors import MethodError


def stamped(edge: int, **settings: int) -> torch.Tensor:
    generator = torch.Generator()
    trigger = create("badnets", **settings).trigger(torch.zeros(1, 1, edge, edge), torch.zeros(1), generator)
    return trigger.stamp(torch.full((1, 1, edge, edge), 0.5))[0, 0]


def test_the_patch_by_hand() -> None:
    image = stamped(32, size=2, margin=1)
    assert image[29:31, 29:31].tolist() == [[1, 0], [0, 1]]
    assert (image != 0.5).sum() == 4


def test_the_patch_grows_with_the_image() -> None:
    assert (stamped(64) != 0.5).sum() == 36
    assert (stamped(8) != 0.5).sum() == 1


def test_a_patch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MethodError, match="fit"):
        create("badnets", size=32, margin=1)
