"""The specimen that ships with the package, opened like anybody's network and images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.data import ImageDataset, open_images
from secateur.models import LoadedModel, load_model

FILES = Path(__file__).parent / "files"
WEIGHTS = "specimen.safetensors"
TRIGGER = "trigger.safetensors"
CARD = "card.json"
IMAGES = {"train": "train.parquet", "test": "test.parquet"}


@dataclass(frozen=True)
class Specimen:
    """A network that was backdoored on purpose, with images and all that is known of it.

    Attributes
    ----------
    model
        As `secateur.models.load_model` gives it.
    train, test
        Clean images; those of `train` were not used to train the network.
    target
        The class that the trigger causes.
    trigger_path
        File of the trigger; only an evaluation has any business with it.
    card
        What the script that made it wrote down: attack, training, versions, measurements, hashes.
    """

    model: LoadedModel
    train: ImageDataset
    test: ImageDataset
    target: int
    trigger_path: Path
    card: dict[str, Any]


def open_specimen() -> Specimen:
    """Open the embedded specimen; every call loads it anew."""
    card = json.loads((FILES / CARD).read_text(encoding="utf-8"))
    stated = card["convention"]
    low, high = stated["range"]
    model = load_model(
        FILES / WEIGHTS,
        card["architecture"],
        size=tuple(stated["size"]),
        channels=stated["channels"],
        mean=stated["mean"],
        std=stated["std"],
        pixel_range=(low, high),
    )
    train, test = (
        open_images(str(FILES), split=split, size=model.convention.size, channels=model.convention.channels)
        for split in ("train", "test")
    )
    return Specimen(model, train, test, card["attack"]["target"], FILES / TRIGGER, card)
