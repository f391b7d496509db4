"""Repair backdoored neural networks by pruning the few neurons that carry the backdoor.

>>> from secateur import RNP, load_model, open_images, sample_clean
"""

import importlib
from typing import TYPE_CHECKING, Any

from secateur._version import __version__

if TYPE_CHECKING:
    from secateur.data import CleanData, InputConvention, open_images, sample_clean, wrap_dataset
    from secateur.evaluation import evaluate
    from secateur.models import load_model
    from secateur.repair import ONP, RNP, Repair
    from secateur.units import Recipe, discover, prune

# Loaded when first used, so that `secateur --help` does not wait for torch.
_HOMES = {
    "ONP": "repair",
    "RNP": "repair",
    "CleanData": "data",
    "InputConvention": "data",
    "Recipe": "units",
    "Repair": "repair",
    "discover": "units",
    "evaluate": "evaluation",
    "load_model": "models",
    "open_images": "data",
    "prune": "units",
    "sample_clean": "data",
    "wrap_dataset": "data",
}

__all__ = [
    "ONP",
    "RNP",
    "CleanData",
    "InputConvention",
    "Recipe",
    "Repair",
    "__version__",
    "discover",
    "evaluate",
    "load_model",
    "open_images",
    "prune",
    "sample_clean",
    "wrap_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"secateur.{_HOMES[name]}"), name)
