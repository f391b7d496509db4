"""What a network reveals when it is made to forget its clean task."""

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
    "Unlearning",
    "batch_statistics",
    "dropout_seed",
    "even_batches",
    "predict",
]
