"""Check that a network answers sensibly, before anything is concluded from its answers."""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from secateur.data import InputConvention, LabelledImages
from secateur.errors import ConventionError
from secateur.models.loading import IMAGENET_MEAN, IMAGENET_STD, LoadedModel

BATCH = 128
CHANCE_TAIL = 1e-3
CLEAR_LEAD = 3.0
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class TriedConvention:
    """A convention in common use and what the network makes of it.

    Attributes
    ----------
    title : str
        What it is called.
    flags : str
        Command-line options that select it.
    convention : InputConvention
        At the size and channels of the network's own.
    accuracy : float
        In [0, 1].
    """

    title: str
    flags: str
    convention: InputConvention
    accuracy: float


def check_convention(model: LoadedModel, images: LabelledImages) -> float:
    """Measure the clean accuracy and refuse to go on when it is near chance.

    Chance is what always answering the commonest of the labels would score; the accuracy counts as
    near it when guessing would reach as many hits with a probability above 1 in 1000.

    Parameters
    ----------
    model : LoadedModel
        Run as it is, under its own convention.
    images : LabelledImages
        Clean images with pixels in [0, 1], of the convention's size and channels.

    Returns
    -------
    float
        Accuracy in [0, 1].

    Raises
    ------
    ConventionError
        The accuracy is near chance.  The message lists the accuracy under other usual conventions
        and, if one of them is clearly better, the options that select it.
    """
    hits = _hits(model.network, model.convention, images)
    count = len(images)
    commonest = int(images.labels.bincount().max()) / count
    chance = max(1 / model.num_classes, commonest)
    if _is_above_chance(hits, count, chance):
        return hits / count
    others = try_conventions(model, images)
    lines = [
        f"{model.checkpoint.path}: clean accuracy is {hits / count:.1%} on {count} images, "
        f"which guessing would reach too ({chance:.1%}). Conventions tried:",
        f"  as given ({_described(model.convention)}): {hits / count:.1%}",
        *(f"  {other.title} ({other.flags}): {other.accuracy:.1%}" for other in others),
    ]
    best = max(others, key=lambda other: other.accuracy)
    if _is_above_chance(round(best.accuracy * count), count, chance):
        lines.append(f"Try {best.flags}.")
    else:
        lines.append(
            "None of them helps: check the size (--size), the order of the classes in the data, "
            "and that the data and the network belong together."
        )
    raise ConventionError("\n".join(lines))


def better_convention(model: LoadedModel, images: LabelledImages, accuracy: float) -> TriedConvention | None:
    """Look for a usual convention under which the network is clearly more accurate.

    A network under a wrong convention can be far above chance and still far below itself, and what
    is then measured of it is not worth much.

    Parameters
    ----------
    model : LoadedModel
        Its own convention is not tried again.
    images : LabelledImages
        Clean images with pixels in [0, 1].
    accuracy : float
        What `check_convention` returned for the same images.

    Returns
    -------
    TriedConvention or None
        The most accurate one, if its lead is more than three standard errors.
    """
    best = max(try_conventions(model, images), key=lambda other: other.accuracy)
    variance = sum(share * (1 - share) for share in (accuracy, best.accuracy)) / len(images)
    return best if best.accuracy - accuracy > CLEAR_LEAD * math.sqrt(variance) else None


def try_conventions(model: LoadedModel, images: LabelledImages) -> list[TriedConvention]:
    """Measure the accuracy under the conventions in common use, other than the model's own."""
    usual: list[tuple[str, tuple[float, ...], tuple[float, ...], float]] = [
        ("pixels in [0, 1]", (0.0,), (1.0,), 1.0),
        ("pixels in [-1, 1]", (0.5,), (0.5,), 1.0),
        ("pixels in [0, 255]", (0.0,), (1.0,), 255.0),
    ]
    if model.convention.channels == len(IMAGENET_MEAN):
        usual += [
            ("ImageNet mean and std", IMAGENET_MEAN, IMAGENET_STD, 1.0),
            ("CIFAR-10 mean and std", CIFAR10_MEAN, CIFAR10_STD, 1.0),
        ]
    tried = []
    for title, mean, std, high in usual:
        convention = replace(model.convention, mean=mean, std=std, low=0.0, high=high)
        if convention != model.convention:
            accuracy = _hits(model.network, convention, images) / len(images)
            flags = f"--mean {_listed(mean)} --std {_listed(std)} --range 0,{high:g}"
            tried.append(TriedConvention(title, flags, convention, accuracy))
    return tried


def _hits(network: nn.Module, convention: InputConvention, images: LabelledImages) -> int:
    hits = 0
    with torch.inference_mode():
        for batch, labels in images.batches(BATCH):
            hits += int((network(convention.normalise(batch)).argmax(1) == labels).sum())
    return hits


def _is_above_chance(hits: int, count: int, chance: float) -> bool:
    """Whether guessing right with probability `chance` gives `hits` or more of `count` only rarely."""
    if chance >= 1:
        return hits == count
    tail = sum(
        math.exp(
            math.lgamma(count + 1)
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * math.log(chance)
            + (count - k) * math.log1p(-chance)
        )
        for k in range(hits, count + 1)
    )
    return tail < CHANCE_TAIL


def _described(convention: InputConvention) -> str:
    return (
        f"--mean {_listed(convention.mean)} --std {_listed(convention.std)} "
        f"--range {convention.low:g},{convention.high:g}"
    )


def _listed(values: tuple[float, ...]) -> str:
    distinct = values[:1] if len(set(values)) == 1 else values
    return ",".join(f"{value:g}" for value in distinct)
