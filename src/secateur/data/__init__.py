"""Anything that holds images becomes (image, label) tensors."""

from secateur.data.clean import CleanData
from secateur.data.convention import InputConvention, example_input
from secateur.data.dataset import ImageDataset, Source, stream
from secateur.data.images import LabelledImages
from secateur.data.opening import open_images, wrap_dataset
from secateur.data.sampling import sample_clean
from secateur.data.trigger import SPARED, Stamping, Trigger, read_trigger, write_trigger

__all__ = [
    "SPARED",
    "CleanData",
    "ImageDataset",
    "InputConvention",
    "LabelledImages",
    "Source",
    "Stamping",
    "Trigger",
    "example_input",
    "open_images",
    "read_trigger",
    "sample_clean",
    "stream",
    "wrap_dataset",
    "write_trigger",
]
