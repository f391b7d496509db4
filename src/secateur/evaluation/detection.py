"""How well triggered images, and planted triggers, were recognised."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from secateur.data import Trigger
from secateur.errors import InputError
from secateur.statistics import LEVEL

RESAMPLES = 1000
HALF = 0.5


@dataclass(frozen=True)
class Separation:
    """Area under the curve of true over false positives (AUROC).

    Attributes
    ----------
    value
        Probability that a triggered image scores higher than a clean one, ties counted half, in ``[0, 1]``.
    low, high
        Bootstrap interval (percentiles), both groups drawn anew.
    clean, triggered
        Images.
    """

    value: float
    low: float
    high: float
    clean: int
    triggered: int


def separation(clean: Tensor, triggered: Tensor, *, seed: int = 0, level: float = LEVEL) -> Separation:
    """Return how well scores tell triggered images from clean ones.

    Parameters
    ----------
    clean, triggered
        Scores, ``(N,)`` and ``(M,)``, finite.
    seed
        Of the bootstrap.

    Raises
    ------
    InputError
        One of the groups has fewer than two images.
    """
    from scipy.stats import bootstrap

    if min(len(clean), len(triggered)) < 2:
        raise InputError("a separation needs at least two clean and two triggered images")
    groups = (clean.double().numpy(), triggered.double().numpy())
    value = float(_area(*groups))
    drawn = bootstrap(
        groups,
        _area,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Separation(value, float(drawn.low), float(drawn.high), len(clean), len(triggered))


def mask_overlap(found: Trigger, planted: Trigger, *, anywhere: bool = False) -> float:
    """Return the intersection over union of the pixels that two triggers change, in ``[0, 1]``.

    A planted trigger changes the pixels where it keeps less than everything or adds something. An inverted
    mask has no edge: its pixels are those that it covers at least half as much as the one it covers most.

    Parameters
    ----------
    found, planted
        Triggers for images of one shape.
    anywhere
        Compare at the shift that fits best. A convolutional network answers a patch elsewhere as well, so
        that an inversion has no reason to find the place where it was planted.

    Raises
    ------
    InputError
        The triggers are for images of different shapes.
    """
    if found.keep.shape != planted.keep.shape:
        raise InputError(
            f"triggers for images of {tuple(found.keep.shape)} and {tuple(planted.keep.shape)} do not overlap"
        )
    covered = (1 - found.keep).amax(0)
    mine = ((covered >= HALF * covered.max()) & (covered > 0)).float()
    theirs = ((planted.keep != 1) | (planted.add != 0)).any(0).float()
    height, width = mine.shape
    padding = (height - 1, width - 1) if anywhere else 0
    common = F.conv2d(mine[None, None], theirs[None, None], padding=padding).max()
    union = mine.sum() + theirs.sum() - common
    return float(common / union) if union else 0.0


def _area(clean: NDArray[np.float64], triggered: NDArray[np.float64]) -> np.float64:
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, triggered, side="left")
    tied = np.searchsorted(ordered, triggered, side="right") - below
    return np.float64((below + tied / 2).mean() / len(clean))
