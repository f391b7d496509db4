"""What a network reveals when it is made to forget its clean task."""

from secateur.expose.case import Case, flushed_denormals
from secateur.expose.exposing import GENTLE, Exposed, Exposing
from secateur.expose.forms import Additive, Form, Patch
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
    "GENTLE",
    "Additive",
    "Case",
    "Exposed",
    "Exposing",
    "Exposure",
    "Findings",
    "Form",
    "Found",
    "Inversion",
    "InvertedTrigger",
    "LatentInversion",
    "LatentTrigger",
    "Patch",
    "Search",
    "Succeeding",
    "Successors",
    "Unlearning",
    "anomalies",
    "answers_without",
    "batch_statistics",
    "dropout_seed",
    "even_batches",
    "flushed_denormals",
    "images_of_others",
    "of_others",
    "predict",
    "success_of",
    "suspect",
    "typical_norm",
    "wanted_classes",
]
