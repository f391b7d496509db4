"""A checkpoint and an architecture's name become a network that runs; weights go out as safetensors."""

from secateur.models.architecture import Source, build, resolve
from secateur.models.checkpoint import Checkpoint, read_checkpoint
from secateur.models.convention_check import (
    TriedConvention,
    better_convention,
    check_convention,
    try_conventions,
)
from secateur.models.copying import duplicate, to_fastest_layout
from secateur.models.features import answers_and_features, last_layer
from secateur.models.loading import LoadedModel, load_model
from secateur.models.modes import kept_modes, without_gradients
from secateur.models.output import logits
from secateur.models.precision import Precision, autocast, check_precision, uses_bfloat16
from secateur.models.writing import write_weights
from secateur.models.zoo import ZOO

__all__ = [
    "ZOO",
    "Checkpoint",
    "LoadedModel",
    "Precision",
    "Source",
    "TriedConvention",
    "answers_and_features",
    "autocast",
    "better_convention",
    "build",
    "check_convention",
    "check_precision",
    "duplicate",
    "kept_modes",
    "last_layer",
    "load_model",
    "logits",
    "read_checkpoint",
    "resolve",
    "to_fastest_layout",
    "try_conventions",
    "uses_bfloat16",
    "without_gradients",
    "write_weights",
]
