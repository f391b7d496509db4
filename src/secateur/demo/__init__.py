"""The main job on embedded, real data: a backdoored network and clean images that ship with the package."""

from secateur.demo.embedded import CARD, FILES, IMAGES, TRIGGER, WEIGHTS, Specimen, open_specimen
from secateur.demo.running import OUTPUTS, DemoResult, run

__all__ = [
    "CARD",
    "FILES",
    "IMAGES",
    "OUTPUTS",
    "TRIGGER",
    "WEIGHTS",
    "DemoResult",
    "Specimen",
    "open_specimen",
    "run",
]
