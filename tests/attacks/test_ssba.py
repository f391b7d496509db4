"""SSBA hides a code that can be read again, by residuals that are small and differ between images."""

import pytest
import torch

from secateur.attacks import create
from secateur.attacks.ssba import texture
from secateur.errors import MethodError


def pictures(count: int) -> torch.Tensor:
    """Return smooth random pictures with a busy right half."""
    generator = torch.Generator().manual_seed(count)
    smooth = torch.rand(count, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(smooth, (16, 16), mode="bilinear")
    images[..., 8:] = torch.rand(count, 3, 16, 8, generator=generator)
    return images


def test_the_code_is_hidden_in_residuals_of_each_image() -> None:
    attack = create("ssba", bits=4, bound=0.1, steps=60)
    encoder, decoder = attack.trained(pictures(200), torch.Generator().manual_seed(0))
    images = pictures(50)
    codes = torch.randint(2, (50, 4), generator=torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        assert ((decoder(encoder(images, codes)) > 0) == (codes > 0)).float().mean() > 0.9
        assert ((decoder(encoder.stamp(images)) > 0) == (encoder.code > 0)).float().mean() > 0.9
        residuals = encoder.stamp(images) - images
    assert residuals.abs().max() <= 0.1 + 1e-6
    directions = torch.nn.functional.normalize(residuals.flatten(1))
    alike = directions @ directions.T
    assert (alike.sum() - 50) / (50 * 49) < 0.9


def test_texture_by_hand() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[..., 4] = 1
    assert texture(image)[0, 0, 2].tolist() == pytest.approx([0, 0, 0, 2**0.5 / 3, 0.5])


def test_a_code_without_bits_is_refused() -> None:
    with pytest.raises(MethodError, match="bits"):
        create("ssba", bits=0)
