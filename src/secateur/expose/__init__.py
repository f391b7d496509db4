"""What a network reveals when it is made to forget its clean task."""

from secateur.expose.latent import LatentInversion, LatentTrigger
from secateur.expose.triggers import (
    Found,
    Inversion,
    InvertedTrigger,
    anomalies,
    success_of,
    suspect,
    typical_norm,
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
    "Exposure",
    "Found",
    "Inversion",
    "InvertedTrigger",
    "LatentInversion",
    "LatentTrigger",
    "Unlearning",
    "anomalies",
    "batch_statistics",
    "dropout_seed",
    "even_batches",
    "predict",
    "success_of",
    "suspect",
    "typical_norm",
]
