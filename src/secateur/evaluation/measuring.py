"""Counting a network's answers to clean and triggered images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.data import SPARED, ImageDataset, InputConvention, LabelledImages, Stamping, stream
from secateur.errors import ArchitectureError, DataError, InputError
from secateur.evaluation.measures import Evaluation
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
        Both or neither. `target` is the class that the trigger should cause in images of all others,
        ``0 <= target < K``; or one such class for each true class, `secateur.data.SPARED` for those that are
        not attacked.
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
        `target` names no class of the network, spares all or comes without a trigger, or a number is out of
        range.
    """
    if (trigger is None) != (target is None):
        raise InputError("a trigger and its target class belong together: give both or neither")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise InputError(f"batch size {batch_size} and limit {limit} must be at least 1")
    if not len(dataset):
        raise DataError("there are no images to evaluate on")

    listener = Silent() if progress is None else progress
    chosen = torch.arange(len(dataset)) if limit is None else evenly_spaced(dataset.labels, limit)
    listener.start("evaluate", -(-len(chosen) // batch_size))
    labels, clean, triggered = [], [], []
    wanted = torch.empty(0)
    with _evaluating(network):
        classes = 0
        for images, truth in _batches(dataset, chosen, batch_size):
            scores = _scores(network, convention, images)
            if not classes:
                classes = scores.shape[1]
                _check_labels(dataset, classes)
                if target is not None:
                    wanted = _wanted(target, classes)
            labels.append(truth)
            clean.append(_answers(scores))
            if trigger is not None:
                triggered.append(_answers(_scores(network, convention, trigger.stamp(images))))
            listener.advance()

    truth, answers = torch.cat(labels), torch.cat(clean)
    right = answers == truth
    asr = ra = asr_per_class = None
    if target is not None:
        aims = wanted[truth]
        answers = torch.cat(triggered)
        attacked, fooled = aims != SPARED, answers == aims
        asr = Proportion.of(fooled[attacked])
        ra = Proportion.of(answers[attacked] == truth[attacked])
        asr_per_class = tuple(Proportion.of(fooled[attacked & (truth == label)]) for label in range(classes))
    return Evaluation(
        acc=Proportion.of(right),
        asr=asr,
        ra=ra,
        per_class=tuple(Proportion.of(right[truth == label]) for label in range(classes)),
        asr_per_class=asr_per_class,
    )


def evenly_spaced(labels: Tensor, count: int) -> Tensor:
    """Return the ascending indices of at most `count` images, evenly spaced in the order of their labels.

    Every class gets its share of `count`, rounded up or down.
    """
    if count >= len(labels):
        return torch.arange(len(labels))
    positions = torch.arange(count) * len(labels) // count
    return labels.argsort(stable=True)[positions].sort().values


def _batches(
    dataset: ImageDataset | LabelledImages, chosen: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(dataset, ImageDataset):
        return stream(dataset, batch_size, chosen)
    return dataset.subset(chosen).batches(batch_size)


def _scores(network: nn.Module, convention: InputConvention, images: Tensor) -> Tensor:
    parameter = next(network.parameters(), None)
    if parameter is not None:
        images = images.to(parameter.device)
    scores: object = network(convention.normalise(images))
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(images):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ArchitectureError(
            f"a classifier answers {len(images)} images with {len(images)} rows, not {shape}"
        )
    return scores


def _answers(scores: Tensor) -> Tensor:
    """Return the class of each row ``(N, K)``, `NO_ANSWER` where there is a NaN."""
    return scores.argmax(1).masked_fill(scores.isnan().any(1), NO_ANSWER).cpu()


def _wanted(target: int | Sequence[int], classes: int) -> Tensor:
    """Return the label that the attack wants for each class, ``(classes,)``, `SPARED` where none."""
    if isinstance(target, int):
        if not 0 <= target < classes:
            raise InputError(f"target {target} is not a class: the network has classes 0 to {classes - 1}")
        return torch.full((classes,), target).index_fill(0, torch.tensor(target), SPARED)
    wanted = torch.tensor(list(target), dtype=torch.int64)
    if len(wanted) != classes or wanted.max() >= classes or wanted.min() < SPARED:
        raise InputError(
            f"target {list(target)}: each of the {classes} classes needs a wanted class of 0 to "
            f"{classes - 1}, or {SPARED}"
        )
    if (wanted == torch.arange(classes)).any() or (wanted == SPARED).all():
        raise InputError(f"target {list(target)}: at least one class, and none its own, must be attacked")
    return wanted


def _check_labels(dataset: ImageDataset | LabelledImages, classes: int) -> None:
    if isinstance(dataset, ImageDataset):
        dataset.check_labels(classes)
    elif not ((dataset.labels >= 0) & (dataset.labels < classes)).all():
        raise DataError(
            f"labels reach from {int(dataset.labels.min())} to {int(dataset.labels.max())} and the network "
            f"has classes 0 to {classes - 1}: choose the data that it was trained for"
        )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
