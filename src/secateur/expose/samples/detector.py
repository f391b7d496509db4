"""What a detector of triggered images is, and which there are."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from secateur.data import CleanData
from secateur.progress import Progress
from secateur.registry import Registry


class Scorer(Protocol):
    """Says how much images look like triggered ones."""

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Score images.

        Parameters
        ----------
        images
            ``(N, C, H, W)`` in ``[0, 1]``.
        labels
            ``(N,)``, int64: those that came with the images, or else the network's own answers.

        Returns
        -------
        Tensor
            ``(N,)``, float32, on the CPU; higher is more suspicious. The score of one image does not depend
            on the others.
        """
        ...


class Detector(Protocol):
    """What a method is once its hyperparameters are chosen."""

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        sample: Iterable[tuple[Tensor, Tensor]],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Scorer:
        """Prepare to score images.

        Parameters
        ----------
        network
            Answers with logits, ``(N, K)``, in evaluation mode; not changed.
        clean
            Trusted images. Only ``clean.learn`` may be used: the threshold comes from ``clean.choose``.
        sample
            Batches of images and labels drawn from those to be scored, as a scorer receives them; triggered
            ones may be among them. It can be read once, and a method that needs none leaves it unread.
        generator
            Source of all randomness.
        progress
            Told about every stage.
        """
        ...


DETECTORS: Registry[Detector] = Registry("sample detector", "secateur.detectors")
register, detectors, create = DETECTORS.register, DETECTORS.entries, DETECTORS.create
