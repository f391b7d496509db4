"""Spectral signatures: in which direction the features of a label vary most (Tran et al., NeurIPS 2018)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.data import CleanData, InputConvention
from secateur.errors import MethodError
from secateur.expose.samples.detector import Scorer, register
from secateur.expose.unlearning import predict
from secateur.models import answers_and_features
from secateur.progress import Progress

FEW = 5
"""A label that fewer images of the sample have tells nothing."""
ROUNDING = 1e-6
"""Features that vary by no more than this part of their length do not vary: float32 has 7 digits."""


@register(
    "spectral",
    title="Spectral Signatures in Backdoor Attacks",
    paper="arXiv:1811.00636",
    year=2018,
)
@dataclass(frozen=True)
class Spectral:
    """Project features onto the direction in which those of their label vary most: triggered ones stick out.

    With the mean ``c`` and the top right singular vector ``v`` of the centred features of the sample's images
    of a label, the paper's score of features ``r`` is ``((r - c) @ v) ** 2`` (Algorithm 1). The paper ranks
    the images of each label among themselves and removes a fixed share of every label. Here one threshold
    serves all labels, so the score is divided by its mean over the sample's images of the label: 1 is
    ordinary, whatever the scale of the features. That keeps the order within a label, but not the size of the
    variance that a backdoor adds to its target label.

    Images of a label that fewer than 5 images of the sample have, or whose features do not vary, score 0. The
    method presumes that few of a label's images are triggered: of a sample in which most are, the clean ones
    stick out.

    Attributes
    ----------
    most
        Images of the sample whose features are kept, drawn at random if there are more.
    """

    most: int = 2000

    def __post_init__(self) -> None:
        if self.most < FEW:
            raise MethodError(f"spectral signatures of {self.most} images: there must be at least {FEW}")

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        sample: Iterable[tuple[Tensor, Tensor]],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Scorer:
        """Find each label's direction in the sample."""
        known = features_by_label(network, clean.convention, sample, self.most, generator)
        progress.start("finding directions", len(known))
        directions: dict[int, tuple[Tensor, Tensor]] = {}
        for label, features in known.items():
            mean = features.mean(0)
            _, sizes, vectors = torch.linalg.svd(features - mean, full_matrices=False)
            if len(features) >= FEW and sizes[0] > ROUNDING * features.norm():
                # The square of the largest singular value is the sum of the squared projections.
                directions[label] = mean, vectors[0] * len(features) ** 0.5 / sizes[0]
            progress.advance()

        def score(images: Tensor, labels: Tensor) -> Tensor:
            features = last_features(network, images, clean.convention)
            scores = torch.zeros(len(labels))
            for label in set(labels.tolist()):
                if label in directions:
                    own = labels == label
                    mean, direction = directions[label]
                    scores[own] = ((features[own] - mean) @ direction).square().float()
            return scores

        return score


class _LastFeatures(nn.Module):
    """Answers with what the last layer of a network receives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return answers_and_features(self.network, inputs)[1]


def last_features(network: nn.Module, images: Tensor, convention: InputConvention) -> Tensor:
    """Return what the network's last layer receives in evaluation mode, ``(N, D)``, float64, on the CPU."""
    return predict(_LastFeatures(network), images, convention).double()


def features_by_label(
    network: nn.Module,
    convention: InputConvention,
    sample: Iterable[tuple[Tensor, Tensor]],
    most: int,
    generator: torch.Generator,
) -> dict[int, Tensor]:
    """Return the last layer's features of at most `most` images, each label's ``(n, D)``, float64.

    Only features are held in memory. If there are more images, `generator` decides which stay: all have the
    same chance, in whatever order they come.
    """
    kept: list[Tensor] = []
    labels, draws = torch.empty(0, dtype=torch.int64), torch.empty(0)
    for images, given in sample:
        features = torch.cat([*kept, last_features(network, images, convention)])
        labels = torch.cat([labels, given])
        draws = torch.cat([draws, torch.rand(len(given), generator=generator)])
        # In ascending order, so that how the sample was cut into batches makes no difference.
        chosen = draws.topk(min(most, len(draws)), largest=False).indices.sort().values
        kept, labels, draws = [features[chosen]], labels[chosen], draws[chosen]
    return {label: kept[0][labels == label] for label in sorted(set(labels.tolist()))}
