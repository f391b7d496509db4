"""Activation clustering: triggered images are a cluster within their label (Chen et al., 2018)."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose.samples.detector import Scorer, register
from secateur.expose.samples.spectral import ROUNDING, features_by_label, last_features
from secateur.progress import Progress


@register(
    "clustering",
    title="Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering",
    paper="arXiv:1811.03728",
    year=2018,
)
@dataclass(frozen=True)
class Clustering:
    """Divide the features of each label into two clusters: the triggered images are the smaller one.

    As in the paper, the features of the sample's images of a label are reduced by independent component
    analysis and divided by 2-means. The paper decides on whole clusters and offers three ways: a network
    trained without the cluster gives its images another label; the cluster is much the smaller one; the
    silhouette score is high enough for there to be two. The first needs training and none of them says which
    image is more suspicious, so the other two are combined with where an image lies. With the distances ``s``
    and ``l`` to the centres of the smaller and of the larger cluster, ``d`` between the centres, and the
    label's silhouette score ``w``, the score is ``w * (l ** 2 - s ** 2) / d ** 2``: the position along the
    line through the centres, -1 at the larger cluster's, 1 at the smaller one's and 0, as if nothing were
    known, midway, times how well the clusters are separated. Unlike the ratio of the distances, it does not
    fade with the number of dimensions in which the clusters do not differ.

    The reduced features have the same variance in every direction, so many divisions are nearly as good as
    each other: one start seldom finds the best, and another seed would give other scores.

    The score is 0 for all images of a label whose smaller cluster is too large, whose silhouette score is not
    positive, whose features do not vary, or that no more images of the sample have than `dimensions`. The
    method presumes that the triggered images are a minority of those with the target label.

    Attributes
    ----------
    dimensions
        To which the features are reduced, or to as many as they vary in.
    share
        Of a label's images that the smaller cluster may hold at most, in ``(0, 0.5]``.
    restarts
        Random starts of 2-means; the tightest clusters count.
    most
        Images of the sample whose features are kept, drawn at random if there are more.
    """

    dimensions: int = 10
    share: float = 0.35
    restarts: int = 100
    most: int = 2000

    def __post_init__(self) -> None:
        if min(self.dimensions, self.restarts) < 1 or not 0 < self.share <= 0.5:
            raise MethodError("activation clustering needs a dimension, a start and 0 < share <= 0.5")
        if self.most <= self.dimensions:
            raise MethodError("activation clustering needs more images than dimensions")

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        sample: Iterable[tuple[Tensor, Tensor]],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Scorer:
        """Divide the images of each label in the sample."""
        known = features_by_label(network, clean.convention, sample, self.most, generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        progress.start("clustering labels", len(known))
        divided: dict[int, Callable[[Tensor], Tensor]] = {}
        for label, features in known.items():
            if (position := self._divide(features, seed)) is not None:
                divided[label] = position
            progress.advance()

        def score(images: Tensor, labels: Tensor) -> Tensor:
            features = last_features(network, images, clean.convention)
            scores = torch.zeros(len(labels))
            for label in set(labels.tolist()):
                if label in divided:
                    own = labels == label
                    scores[own] = divided[label](features[own])
            return scores

        return score

    def _divide(self, features: Tensor, seed: int) -> Callable[[Tensor], Tensor] | None:
        """Return what scores features of the label, ``(N, D)`` to ``(N,)``, or None if it tells nothing."""
        # Importing it takes longer than the rest of the package, and few commands need it.
        from sklearn.cluster import KMeans
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.metrics import silhouette_score

        points = features.numpy()
        # Whitening divides by the deviation in each direction, and dead neurons have none.
        rank = np.linalg.matrix_rank(points - points.mean(0), tol=ROUNDING * np.linalg.norm(points))
        if len(points) <= self.dimensions or rank == 0:
            return None
        analysis = FastICA(min(self.dimensions, int(rank)), random_state=seed)
        division = KMeans(2, n_init=self.restarts, random_state=seed)
        # It divides by the singular values of the directions that it leaves out as well, and components that
        # still turn a little when it stops do not move the clusters.
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", ConvergenceWarning)
            reduced = analysis.fit_transform(points)
            assigned = division.fit_predict(reduced)
        sizes = np.bincount(assigned, minlength=2)
        small = int(sizes.argmin())
        strength = float(silhouette_score(reduced, assigned))
        if strength <= 0 or sizes[small] > self.share * len(points):
            return None
        between = np.square(np.diff(division.cluster_centers_, axis=0)).sum()

        def position(features: Tensor) -> Tensor:
            squares = np.square(division.transform(analysis.transform(features.numpy())))
            return torch.from_numpy(strength * (squares[:, 1 - small] - squares[:, small]) / between).float()

        return position
