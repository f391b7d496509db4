"""A small data set that a test can train on in a second."""

from pathlib import Path

import numpy as np
import pytest

import tiny

FACTORY = f"{Path(tiny.__file__)}:Tiny"


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two npz files: bright stripes whose place is the class."""
    folder = tmp_path_factory.mktemp("stripes")
    arrays = {}
    for split, count in (("train", 400), ("test", 200)):
        data = tiny.images(count, seed=count)
        pixels = (data.images.squeeze(1) * 255).round().byte().numpy()
        arrays |= {f"x_{split}": pixels, f"y_{split}": data.labels.numpy()}
    path = folder / "stripes.npz"
    np.savez(path, **arrays)
    return path
