"""Pixels become network input as stated."""

import pytest
import torch

from secateur.data import InputConvention, example_input
from secateur.errors import ConventionError


def test_range_comes_before_mean_and_std():
    convention = InputConvention((1, 1), 2, mean=(10.0, 0.0), std=(2.0, 1.0), low=-5, high=15)
    images = torch.tensor([0.0, 0.5]).view(1, 2, 1, 1)
    assert convention.normalise(images).flatten().tolist() == [-7.5, 5.0]


def test_one_value_serves_all_channels():
    convention = InputConvention((2, 2), 3, mean=(0.5,), std=(0.25,))
    assert convention.mean == (0.5, 0.5, 0.5)
    assert convention.std == (0.25, 0.25, 0.25)
    assert example_input(convention).shape == (1, 3, 2, 2)
    assert example_input(convention).abs().max() == 0


def test_normalising_is_differentiable():
    images = torch.rand(2, 1, 2, 2, requires_grad=True)
    InputConvention((2, 2), 1, std=(0.5,)).normalise(images).sum().backward()
    assert images.grad.unique().tolist() == [2.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": (0, 4)}, "size"),
        ({"channels": 0}, "channels"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values for 3 channels"),
        ({"mean": (float("nan"),)}, "not finite"),
        ({"std": (0.0,)}, "above zero"),
        ({"low": 1.0}, "below the second"),
    ],
)
def test_values_out_of_range_are_refused(changes, words):
    with pytest.raises(ConventionError, match=words):
        InputConvention(**({"size": (4, 4), "channels": 3} | changes))
