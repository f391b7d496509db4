"""Which images of a data set a repair is given."""

import heapq
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.data.clean import CleanData
from secateur.data.convention import InputConvention
from secateur.data.dataset import ImageDataset
from secateur.data.images import LabelledImages
from secateur.errors import DataError, InputError


def sample_clean(
    dataset: ImageDataset,
    convention: InputConvention,
    *,
    samples: int = 500,
    per_class: int | None = None,
    choose_fraction: float = 0.4,
    seed: int = 0,
    num_classes: int | None = None,
) -> CleanData:
    """Draw a stratified sample and split it into what is learned from and what only chooses.

    The sample has the class shares of the data set, but at least one image of every class if `samples`
    suffices; the split has the class shares of the sample. The same seed gives the same images, and a larger
    sample contains the smaller one. Only the images drawn are decoded.

    Parameters
    ----------
    samples
        How many images; all if there are fewer.
    per_class
        That many images of every class instead of `samples` overall.
    choose_fraction
        Share of the sample that only chooses, in ``(0, 1)``; both parts get at least one image.
    seed
        Of the draw.
    num_classes
        Labels must be below it.

    Raises
    ------
    DataError
        A label is outside the classes, an image cannot be decoded, or there are fewer than two images.
    InputError
        A number is out of range.
    """
    if samples < 2:
        raise InputError(f"{samples} samples: at least 2 are needed, one to learn from and one to choose by")
    if per_class is not None and per_class < 1:
        raise InputError(f"{per_class} samples per class: at least 1 is needed")
    if not 0 < choose_fraction < 1:
        raise InputError(f"the fraction that chooses is {choose_fraction}, not between 0 and 1")
    dataset.check_labels(num_classes)
    learn, choose = sample_indices(
        dataset.labels, samples=samples, per_class=per_class, choose_fraction=choose_fraction, seed=seed
    )
    return CleanData(_decode(dataset, learn), _decode(dataset, choose), convention, dataset.class_names)


def sample_indices(
    labels: Tensor, *, samples: int, per_class: int | None, choose_fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the ascending indices to learn from and to choose by; see `sample_clean`."""
    generator = torch.Generator().manual_seed(seed)
    members = [(labels == label).nonzero().flatten() for label in torch.unique(labels)]
    shuffled = [indices[torch.randperm(len(indices), generator=generator)] for indices in members]
    sizes = [len(indices) for indices in shuffled]
    if per_class is None:
        drawn = apportion(samples, sizes, cover=True)
    else:
        drawn = [min(per_class, size) for size in sizes]
    total = sum(drawn)
    if total < 2:
        raise DataError(
            f"{total} usable images: at least 2 are needed, one to learn from and one to choose by"
        )
    chosen = apportion(min(max(1, round(choose_fraction * total)), total - 1), drawn, cover=False)
    choose = [indices[:count] for indices, count in zip(shuffled, chosen, strict=True)]
    learn = [indices[start:stop] for indices, start, stop in zip(shuffled, chosen, drawn, strict=True)]
    return torch.cat(learn).sort().values, torch.cat(choose).sort().values


def apportion(seats: int, sizes: Sequence[int], *, cover: bool) -> list[int]:
    """Share out `seats` in proportion to `sizes`, never more than its size to anyone.

    Seats go one by one to the largest ``size / (2 * seats held + 1)`` (the method of Sainte-Laguë), ties to
    the first. With `cover`, nobody gets a second seat before all have one.
    """
    held = [0] * len(sizes)

    def claim(index: int) -> tuple[float, int]:
        if cover and not held[index]:
            return -math.inf, index
        return -sizes[index] / (2 * held[index] + 1), index

    claims = [claim(index) for index, size in enumerate(sizes) if size]
    heapq.heapify(claims)
    for _ in range(min(seats, sum(sizes))):
        index = heapq.heappop(claims)[1]
        held[index] += 1
        if held[index] < sizes[index]:
            heapq.heappush(claims, claim(index))
    return held


def _decode(dataset: ImageDataset, indices: Tensor) -> LabelledImages:
    images = torch.stack([dataset[int(index)][0] for index in indices])
    return LabelledImages(images, dataset.labels[indices])
