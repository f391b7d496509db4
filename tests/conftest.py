"""What many tests need."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of third-party checkpoints and real data beside the checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "checkpoints" / "checkpoints.json").is_file():
        if os.environ.get("SECATEUR_REQUIRE_SHARED"):
            pytest.fail(f"{folder} is required here and absent")
        pytest.skip("the third-party checkpoints and data are not beside the checkout")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    """Return a generator with a fixed seed."""
    return torch.Generator().manual_seed(0)
