"""Counting a network's answers to clean and triggered images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.data import SPARED, ImageDataset, InputConvention, LabelledImages, Stamping
from secateur.errors import DataError, InputError
from secateur.evaluation.measures import Evaluation
from secateur.evaluation.passes import batches, evaluating, scores, stamped
from secateur.progress import Progress, Silent
from secateur.statistics import Proportion

NO_ANSWER = -1


def evaluate(
    network: nn.Module,
    dataset: ImageDataset | LabelledImages,
    convention: InputConvention,
    *,
    trigger: Stamping | None = None,
    target: int | Sequence[int] | None = None,
    limit: int | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure ACC and per-class accuracy, and ASR and RA if there is a trigger.

    Images are streamed: one clean and, where a trigger is given, one triggered forward pass each, on the
    device that the network is on. The network runs in evaluation mode and gets its own mode back.

    Parameters
    ----------
    network
        Takes ``(N, C, H, W)``, answers ``(N, K)``.
    dataset
        Pixels in ``[0, 1]``, of the size and channels that `convention` states.
    convention
        How they become network input; a trigger is stamped before that.
    trigger, target
        Both or neither. `target` is the label that the trigger should cause for each of the K classes, in
        label order: ``(1, 2, 0)`` turns each class into the next. `secateur.data.SPARED` (-1) marks classes
        that are not attacked. A single label t stands for t for every class but t itself.
    limit
        Use that many images instead of all: evenly spaced ones in the order of their classes, so that every
        class has its share, however the data set is sorted.
    batch_size
        Images per forward pass, at least 1.
    progress
        Told of one stage, ``"evaluate"``, of one step per batch.

    Raises
    ------
    DataError
        There are no images, an image cannot be decoded, or a label is not one of the network's classes.
    TriggerError
        The trigger is of another shape than the images.
    ArchitectureError
        The network does not answer with one row of scores per image.
    InputError
        `target` does not suit the network's classes or comes without a trigger, or a number is out of range.
    """
    if (trigger is None) != (target is None):
        raise InputError(
            "a trigger and its target class belong together: give both or neither (--trigger, --target)"
        )
    if batch_size < 1 or (limit is not None and limit < 1):
        raise InputError(f"batch size {batch_size} and limit {limit} must be at least 1")
    if not len(dataset):
        raise DataError("there are no images to evaluate on")

    listener = Silent() if progress is None else progress
    chosen = torch.arange(len(dataset)) if limit is None else evenly_spaced(dataset.labels, limit)
    listener.start("evaluate", -(-len(chosen) // batch_size))
    labels, clean, triggered = [], [], []
    classes, wanted = 0, None
    with evaluating(network):
        for images, truth in batches(dataset, chosen, batch_size):
            answered = scores(network, convention, images)
            if not classes:
                classes = answered.shape[1]
                wanted = None if target is None else wanted_labels(target, classes)
                _check_labels(dataset, classes)
            labels.append(truth)
            clean.append(_answers(answered))
            if trigger is not None:
                triggered.append(_answers(scores(network, convention, stamped(trigger, images))))
            listener.advance()

    truth, answers = torch.cat(labels), torch.cat(clean)
    right = answers == truth
    found = Evaluation(Proportion.of(right), None, None, _per_class(right, truth, classes))
    if wanted is None:
        return found
    attacked = wanted[truth] != SPARED
    truth, answers = truth[attacked], torch.cat(triggered)[attacked]
    fooled = answers == wanted[truth]
    return Evaluation(
        acc=found.acc,
        asr=Proportion.of(fooled),
        ra=Proportion.of(answers == truth),
        per_class=found.per_class,
        asr_per_class=_per_class(fooled, truth, classes),
    )


def wanted_labels(target: int | Sequence[int], classes: int) -> Tensor:
    """Return the label that an attack wants for images of each class, ``(classes,)``, int64.

    Raises
    ------
    InputError
        There is not one label per class, one is neither a class nor `SPARED`, a class is to become itself, or
        none is attacked.
    """
    if isinstance(target, int):
        labels = [SPARED if label == target else target for label in range(classes)]
        wrong = [] if 0 <= target < classes else [target]
    else:
        labels = list(target)
        wrong = [label for label in labels if not (label == SPARED or 0 <= label < classes)]
    if wrong:
        raise InputError(f"target {wrong[0]} is not a class: the network has classes 0 to {classes - 1}")
    if len(labels) != classes:
        raise InputError(f"the target has {len(labels)} labels, but the network has {classes} classes")
    wanted = torch.tensor(labels)
    same = wanted == torch.arange(classes)
    if same.any():
        label = int(same.nonzero()[0])
        raise InputError(f"class {label} cannot be turned into itself: {SPARED} spares a class")
    if (wanted == SPARED).all():
        raise InputError("the target attacks no class: give a label for at least one")
    return wanted


def evenly_spaced(labels: Tensor, count: int) -> Tensor:
    """Return the ascending indices of at most `count` images, evenly spaced in the order of their labels.

    Every class gets its share of `count`, rounded up or down.
    """
    if count >= len(labels):
        return torch.arange(len(labels))
    positions = torch.arange(count) * len(labels) // count
    return labels.argsort(stable=True)[positions].sort().values


def _answers(answered: Tensor) -> Tensor:
    """Return the class of each row ``(N, K)``, `NO_ANSWER` where there is a NaN."""
    return answered.argmax(1).masked_fill(answered.isnan().any(1), NO_ANSWER).cpu()


def _per_class(flags: Tensor, truth: Tensor, classes: int) -> tuple[Proportion, ...]:
    return tuple(Proportion.of(flags[truth == label]) for label in range(classes))


def _check_labels(dataset: ImageDataset | LabelledImages, classes: int) -> None:
    if isinstance(dataset, ImageDataset):
        dataset.check_labels(classes)
    elif not ((dataset.labels >= 0) & (dataset.labels < classes)).all():
        raise DataError(
            f"labels reach from {int(dataset.labels.min())} to {int(dataset.labels.max())} and the network "
            f"has classes 0 to {classes - 1}: choose the data that it was trained for"
        )
