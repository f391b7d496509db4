"""SCALE-UP: multiplying pixel values and watching whether the answer stays (Guo et al., ICLR 2023)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.data import CleanData, InputConvention
from secateur.errors import MethodError
from secateur.expose.samples.detector import Scorer, register
from secateur.expose.unlearning import predict
from secateur.progress import Progress

FEW = 5
"""A class that fewer clean images are answered with is judged by the mean and deviation of all of them."""


@register(
    "scale-up",
    title="SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing Scaled Prediction "
    "Consistency",
    paper="arXiv:2302.03251",
    year=2023,
)
@dataclass(frozen=True)
class ScaleUp:
    """Multiply pixel values and count how often the answer stays: it does where a trigger decides it.

    The scaled prediction consistency of an image ``x`` is the share of the factors ``n`` for which
    ``min(n * x, 1)`` gets the answer that ``x`` gets. The score is the paper's for a defender with a few
    clean images: the consistency less its mean over the clean images with the same answer, in their standard
    deviations. BackdoorBox, code by one of the authors, takes mean and deviation over all classes.

    The deviation of a class without spread is that of all clean images; if these have none, it is 1. Such a
    class keeps its own mean: it may be the one that saturated images fall into, and then none of its
    consistent images is suspicious.

    Attributes
    ----------
    factors
        By which pixel values are multiplied, each above 1.
    """

    factors: tuple[float, ...] = (3.0, 5.0, 7.0, 9.0, 11.0)

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) <= 1:
            raise MethodError(f"SCALE-UP's factors {self.factors}: there must be one, and each above 1")

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        sample: Iterable[tuple[Tensor, Tensor]],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Scorer:
        """Measure the consistency of the clean images of each class."""
        output, consistency = self._consistency(network, clean.learn.images, clean.convention)
        answers = output.argmax(1)
        means = consistency.mean().repeat(output.shape[1])
        deviation = _deviation(consistency, otherwise=torch.ones(()))
        deviations = deviation.repeat(output.shape[1])
        for label in range(output.shape[1]):
            own = consistency[answers == label]
            if len(own) >= FEW:
                means[label], deviations[label] = own.mean(), _deviation(own, otherwise=deviation)

        def score(images: Tensor, labels: Tensor) -> Tensor:
            output, consistency = self._consistency(network, images, clean.convention)
            answers = output.argmax(1)
            return (consistency - means[answers]) / deviations[answers]

        return score

    def _consistency(
        self, network: nn.Module, images: Tensor, convention: InputConvention
    ) -> tuple[Tensor, Tensor]:
        """Return the output, ``(N, K)``, and under which share of the factors the answer stays, ``(N,)``."""
        output = predict(network, images, convention)
        scaled = [predict(network, (n * images).clamp(0, 1), convention).argmax(1) for n in self.factors]
        return output, (torch.stack(scaled) == output.argmax(1)).float().mean(0)


def _deviation(values: Tensor, *, otherwise: Tensor) -> Tensor:
    # Of equal values, rounding would leave a tiny one.
    return values.std(correction=0) if values.min() < values.max() else otherwise
