"""A checkpoint and an architecture's name become a network that runs; weights go out as safetensors."""

from secateur.models.architecture import Source, build, resolve
from secateur.models.checkpoint import Checkpoint, read_checkpoint
from secateur.models.convention_check import (
    TriedConvention,
    better_convention,
    check_convention,
    try_conventions,
)
from secateur.models.loading import LoadedModel, load_model
from secateur.models.output import logits
from secateur.models.writing import write_weights
from secateur.models.zoo import ZOO

__all__ = [
    "ZOO",
    "Checkpoint",
    "LoadedModel",
    "Source",
    "TriedConvention",
    "better_convention",
    "build",
    "check_convention",
    "load_model",
    "logits",
    "read_checkpoint",
    "resolve",
    "try_conventions",
    "write_weights",
]
