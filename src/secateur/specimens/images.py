"""The images that specimens are trained on, decoded once and held as bytes."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.data import ImageDataset, stream
from secateur.errors import DataError
from secateur.progress import Progress

BATCH = 512


@dataclass(frozen=True)
class TrainingImages:
    """Labelled images in memory.

    Attributes
    ----------
    images
        ``(N, C, H, W)``, uint8.
    labels
        ``(N,)``, int64, from 0.
    class_names
        In label order, where the source names them.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] | None = None

    @property
    def classes(self) -> int:
        """How many classes there are: the names, or the labels, tell."""
        return max(int(self.labels.max()) + 1, len(self.class_names or ()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all pixels and labels."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for values in (self.images, self.labels):
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel, of pixels in ``[0, 1]``."""
        # Counts of each value are exact and need no floating-point copy of the images.
        values = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        for channel in self.images.unbind(1):
            share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
            mean = float((share * values).sum())
            means.append(round(mean, 4))
            deviations.append(max(1e-3, round(float((share * (values - mean) ** 2).sum()) ** 0.5, 4)))
        return tuple(means), tuple(deviations)


def read_images(dataset: ImageDataset, progress: Progress, stage: str = "reading images") -> TrainingImages:
    """Decode all images of `dataset`; DataError names one that cannot be decoded or has no usable label."""
    if not len(dataset):
        raise DataError("there are no images to train on")
    dataset.check_labels(None)
    height, width = dataset.size
    images = torch.empty(len(dataset), dataset.channels, height, width, dtype=torch.uint8)
    progress.start(stage, -(-len(dataset) // BATCH))
    at = 0
    for pixels, _ in stream(dataset, BATCH):
        images[at : at + len(pixels)] = (pixels * 255).round().byte()
        at += len(pixels)
        progress.advance()
    return TrainingImages(images, dataset.labels, dataset.class_names)
