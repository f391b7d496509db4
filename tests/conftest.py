"""What many tests need."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what may take long begin first, or one worker waits for it at the end."""

    def allowed(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return mark.args[0] if mark else 0.0

    longest: dict[Path, float] = {}
    for item in items:
        longest[item.path] = max(longest.get(item.path, 0.0), allowed(item))
    items.sort(key=lambda item: -longest[item.path])


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
