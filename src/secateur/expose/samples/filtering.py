"""Scoring a stream of images against a threshold that clean images give."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.data import CleanData, ImageDataset, example_input
from secateur.errors import DataError, InconclusiveError, MethodError
from secateur.expose.case import flushed_denormals
from secateur.expose.samples.detector import Detector, Scorer
from secateur.expose.unlearning import predict
from secateur.models import duplicate, logits
from secateur.progress import Progress, Silent


@dataclass(frozen=True)
class Threshold:
    """The score above which an image is suspicious.

    Attributes
    ----------
    value
        An image is suspicious if its score is higher.
    rate
        Largest share of clean images that is expected above it, in ``(0, 1)``: a property of the order of
        the scores, whatever their distribution, if clean images to come are like those that it is made from.
    images
        How many those are.
    holds
        Whether `rate` holds. It does not where the detector learned from the images to be judged: their
        scores are then not like those of images that it has not seen.
    """

    value: float
    rate: float
    images: int
    holds: bool = True

    @classmethod
    def of(cls, scores: Tensor, rate: float, *, holds: bool = True) -> "Threshold":
        """Return the lowest threshold with an expected rate of false positives of at most `rate`.

        With the n clean scores in order, the k-th is exceeded by the score of one more clean image with a
        probability of at most ``1 - k / (n + 1)`` (split conformal prediction, Papadopoulos et al., ECML
        2002). With too few images for `rate` it is the highest score, and its own rate is told.

        Parameters
        ----------
        scores
            Of clean images that the detector was not prepared with, ``(n,)``, at least one.
        rate
            In ``(0, 1)``.
        holds
            Passed on.

        Raises
        ------
        InconclusiveError
            A score is not a number.
        """
        if not scores.isfinite().all():
            raise InconclusiveError(
                "some scores of clean images are not finite, so that no threshold can be drawn: "
                "choose another detector"
            )
        count = len(scores)
        # At the last position the rate is `least`.
        position = min(count, math.ceil((count + 1) * (1 - rate)))
        return cls(float(scores.sort().values[position - 1]), 1 - position / (count + 1), count, holds)

    @staticmethod
    def least(images: int) -> float:
        """Return the lowest rate that a threshold from so many clean images can have, in ``(0, 1]``."""
        return 1 / (images + 1)


@dataclass(frozen=True)
class Scores:
    """What was found out about a batch of images.

    Attributes
    ----------
    answers
        Of the network, ``(N,)``, int64.
    values
        ``(N,)``, float32; higher is more suspicious.
    suspicious
        Whether they lie above the threshold, ``(N,)``, boolean.
    """

    answers: Tensor
    values: Tensor
    suspicious: Tensor


@dataclass(frozen=True)
class Judge:
    """A detector that is ready to score images.

    Attributes
    ----------
    threshold
        Calibrated on clean images.
    """

    threshold: Threshold
    _network: nn.Module
    _clean: CleanData
    _scorer: Scorer
    _labelled: bool

    def __call__(self, images: Tensor, labels: Tensor) -> Scores:
        """Score images, ``(N, C, H, W)`` in ``[0, 1]``; `labels` count if the filter was told so."""
        answers = predict(self._network, images, self._clean.convention).argmax(1)
        values = self._scorer(images, labels if self._labelled else answers)
        # A score that is no number is no reason to trust an image.
        return Scores(answers, values, ~(values <= self.threshold.value))


@dataclass(frozen=True)
class Filter:
    """Prepare a detector, calibrate its threshold on clean images, and let it judge others.

    Attributes
    ----------
    detector
        What scores images.
    rate
        Share of clean images that may be taken for triggered ones, in ``(0, 1)``.
    labelled
        Whether the labels that come with images count; otherwise the network's own answers do.
    sample
        Of the images to be judged, at most so many are shown to the detector beforehand.
    batch_size
        Images that are held in memory at once.
    """

    detector: Detector
    rate: float = 0.01
    labelled: bool = False
    sample: int = 2000
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise MethodError(f"rate {self.rate} must be between 0 and 1")
        if min(self.sample, self.batch_size) < 1:
            raise MethodError("a filter needs a sample and batches of at least one image")

    @contextmanager
    def prepared(
        self,
        network: nn.Module,
        clean: CleanData,
        images: ImageDataset,
        *,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Judge]:
        """Yield what judges images; it works while the block runs.

        Parameters
        ----------
        network
            A classifier, ``(N, C, H, W)`` to ``(N, K)`` logits or probabilities, on any device; not changed.
        clean
            Trusted images. The detector learns from ``clean.learn``; ``clean.choose`` gives the threshold.
        images
            Those to be judged; some are shown to the detector, which may look for what they have in common.
        generator
            Source of all randomness; seed 0 when none is given.
        progress
            Told about every stage.

        Raises
        ------
        InconclusiveError
            The detector has no score for clean images.
        """
        generator = generator or torch.Generator().manual_seed(0)
        work = duplicate(network).eval()
        example = example_input(clean.convention).to(next(work.parameters()).device)
        drawn = torch.randperm(len(images), generator=generator)[: self.sample].sort().values
        with flushed_denormals(), logits(work, example):

            def answers(pixels: Tensor) -> Tensor:
                return predict(work, pixels, clean.convention).argmax(1)

            seen: list[bool] = []

            def sample() -> Iterator[tuple[Tensor, Tensor]]:
                seen.append(True)
                for chosen in torch.split(drawn, self.batch_size):
                    pixels, read = decoded(images, chosen)
                    if pixels is not None:
                        yield pixels, images.labels[chosen[read]] if self.labelled else answers(pixels)

            scorer = self.detector(work, clean, sample(), generator=generator, progress=progress or Silent())
            held_out = [
                scorer(pixels, labels if self.labelled else answers(pixels))
                for pixels, labels in clean.choose.batches(self.batch_size)
            ]
            threshold = Threshold.of(torch.cat(held_out), self.rate, holds=not seen)
            yield Judge(threshold, work, clean, scorer, self.labelled)


def decoded(images: ImageDataset, chosen: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the images at the indices `chosen` that can be decoded, and which those are.

    One file that is no image, among many that anyone may have sent, must not keep the others from being
    judged.

    Returns
    -------
    tuple
        ``(M, C, H, W)``, None if there is none, and booleans, ``(N,)``.
    """
    pictures, read = [], torch.ones(len(chosen), dtype=torch.bool)
    for place, index in enumerate(chosen.tolist()):
        try:
            pictures.append(images[index][0])
        except DataError:
            read[place] = False
    return (torch.stack(pictures) if pictures else None), read
