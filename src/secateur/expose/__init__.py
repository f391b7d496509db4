"""What a network reveals when it is made to forget its clean task."""

from secateur.expose.latent import LatentInversion, LatentTrigger
from secateur.expose.searching import CHANGING, Findings, Search
from secateur.expose.succeeding import Succeeding, Successors
from secateur.expose.triggers import (
    Found,
    Inversion,
    InvertedTrigger,
    anomalies,
    answers_without,
    images_of_others,
    of_others,
    success_of,
    suspect,
    typical_norm,
    wanted_classes,
)
from secateur.expose.unlearning import (
    Exposure,
    Unlearning,
    batch_statistics,
    dropout_seed,
    even_batches,
    predict,
)

__all__ = [
    "CHANGING",
    "Exposure",
    "Findings",
    "Found",
    "Inversion",
    "InvertedTrigger",
    "LatentInversion",
    "LatentTrigger",
    "Search",
    "Succeeding",
    "Successors",
    "Unlearning",
    "anomalies",
    "answers_without",
    "batch_statistics",
    "dropout_seed",
    "even_batches",
    "images_of_others",
    "of_others",
    "predict",
    "success_of",
    "suspect",
    "typical_norm",
    "wanted_classes",
]
