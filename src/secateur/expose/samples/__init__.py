"""Which images carry a trigger: detectors that score images, and the threshold that clean images give."""

import importlib
import pkgutil

from secateur.expose.samples.detector import Detector, Scorer, create, detectors, register
from secateur.expose.samples.filtering import Filter, Judge, Scores, Threshold, decoded

# Each detector registers itself when its file is imported.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Detector",
    "Filter",
    "Judge",
    "Scorer",
    "Scores",
    "Threshold",
    "create",
    "decoded",
    "detectors",
    "register",
]
