"""Which units a trigger uses: an analysis that sees the trigger, so no repair may run it."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from secateur.data import SPARED, ImageDataset, InputConvention, LabelledImages, Stamping
from secateur.errors import ArchitectureError, DataError, InputError
from secateur.evaluation.measuring import evaluate, wanted_labels
from secateur.evaluation.passes import batches, evaluating, scores, stamped
from secateur.progress import Progress, Silent
from secateur.statistics import Proportion
from secateur.units import Masks, Unit, UnitLayer, masked

SILENCED = 0.1
"""Attack success rate at which a backdoor counts as removed."""
SHARE = 4
"""No more than one unit in so many is pruned to remove it."""

UnitOrIndex = TypeVar("UnitOrIndex", Unit, int)


@dataclass(frozen=True, eq=False)
class ActivationChange:
    """How much a trigger changes each unit, in the order of `secateur.units.all_units`.

    Attributes
    ----------
    change
        Mean over images of the Euclidean norm of what the trigger changes in the unit's output,
        ``(total,)``, float64. NaN where no module's output tells of the unit.
    relative
        The same divided by the mean norm of the unit's output on clean images; 0 where nothing changes and
        infinite where a unit that is otherwise always 0 does.
    """

    change: Tensor
    relative: Tensor


def trigger_activated_change(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    dataset: ImageDataset | LabelledImages,
    convention: InputConvention,
    trigger: Stamping,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> ActivationChange:
    """Measure the trigger-activated change (TAC) of every unit.

    TAC (Zheng et al., Data-free Backdoor Removal based on Channel Lipschitzness, ECCV 2022, arXiv 2208.03111)
    of a unit is the mean over images x of ``||a(T(x)) - a(x)||_2``, where a is the unit's output map and T
    stamps the trigger. A unit's output is its channel in what its module returns, before any activation
    function that follows; for a head, its part of what the output projection takes in. The heads of an
    `nn.MultiheadAttention`, which does not call its projection, cannot be read. Where a module runs several
    times in one pass, the norms of its runs are added up.

    Parameters
    ----------
    network
        Its modules keep the images of a batch along the first axis. Evaluation mode while this runs; its own
        modes, and no hook, afterwards.
    layers
        Its layers with units, as `secateur.units.discover` found them.
    dataset
        Images in ``[0, 1]``, of any class.
    batch_size
        Images per forward pass, at least 1. The outputs of all layers are held for two passes.
    progress
        Told of one stage, ``"activations"``, of one step per batch.

    Raises
    ------
    DataError
        There are no images, or one cannot be decoded.
    TriggerError
        The trigger is of another shape than the images.
    ArchitectureError
        The network is no classifier, it has no units, or a module does not keep the images along the first
        axis.
    InputError
        `batch_size` is not positive.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} must be at least 1")
    if not len(dataset):
        raise DataError("there are no images to measure activations on")
    if not layers:
        raise ArchitectureError("the network has no units that could be pruned")
    listener = Silent() if progress is None else progress
    listener.start("activations", -(-len(dataset) // batch_size))
    runs: list[list[Tensor]] = [[] for _ in layers]
    sums = [torch.zeros(2, layer.count, dtype=torch.float64) for layer in layers]
    with ExitStack() as undo:
        undo.enter_context(evaluating(network))
        for layer, own in zip(layers, runs, strict=True):
            undo.callback(_record(network, layer, own))
        for images, _ in batches(dataset, torch.arange(len(dataset)), batch_size):
            scores(network, convention, images)
            clean = [own.copy() for own in runs]
            for own in runs:
                own.clear()
            scores(network, convention, stamped(trigger, images))
            for layer, own, before, total in zip(layers, runs, clean, sums, strict=True):
                if not own:
                    total.fill_(torch.nan)
                for first, second in zip(before, own, strict=True):
                    total[0] += _norms(layer, second - first, len(images))
                    total[1] += _norms(layer, first, len(images))
                own.clear()
            listener.advance()
    change, size = torch.cat(sums, 1) / len(dataset)
    return ActivationChange(change, torch.where(change == 0, 0.0, change / size))


def backdoor_units(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    images: LabelledImages,
    convention: InputConvention,
    trigger: Stamping,
    target: int | Sequence[int],
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[int, ...] | None:
    """Find the units without which the trigger does not work.

    Units are ordered by their relative trigger-activated change on images of attacked classes, divided by the
    median of their layer (behind a backdoor all units of a layer change), largest first. Pruning the first n
    of them brings the attack success rate on these images down to `SILENCED`; n is doubled until it does,
    then bisected, so that pruning one unit less does not. Clean accuracy plays no
    part: the units may serve the clean task as well.

    Parameters
    ----------
    network, layers, convention, trigger, batch_size
        As for `trigger_activated_change`; the network is not changed.
    images
        A few hundred; those of classes that are not attacked are left out.
    target
        As for `secateur.evaluation.evaluate`.
    progress
        Told of the stages ``"activations"`` and ``"backdoor units"``, the latter of one step per attempt.

    Returns
    -------
    tuple of int or None
        Positions in `secateur.units.all_units`, in order. Empty if the trigger does not work anyway; None if
        not even pruning a quarter of all units stops it.

    Raises
    ------
    DataError
        No image is of an attacked class, or a label is not one of the network's classes.
    TriggerError, ArchitectureError, InputError
        As `secateur.evaluation.evaluate` does.
    """
    before = evaluate(network, images, convention, trigger=trigger, target=target, batch_size=batch_size)
    assert before.asr is not None
    if not before.asr.total:
        raise DataError("no image is of a class that the trigger attacks")
    if before.asr.value <= SILENCED:
        return ()
    wanted = wanted_labels(target, len(before.per_class))[images.labels]
    attacked = images.subset(wanted != SPARED)
    found = trigger_activated_change(
        network, layers, attacked, convention, trigger, batch_size=batch_size, progress=progress
    )
    parts = torch.split(found.relative.nan_to_num(nan=-1.0), [layer.count for layer in layers])
    standing_out = torch.cat([part / part.median().clamp_min(1e-12) for part in parts])
    order = standing_out.argsort(descending=True, stable=True)
    with torch.inference_mode():
        pixels = [stamped(trigger, part).cpu() for part, _ in attacked.batches(batch_size)]
    # Labelled with what the attack wants, the accuracy on them is the attack success rate.
    marked = LabelledImages(torch.cat(pixels), wanted[wanted != SPARED])
    flat = Masks.ones(layers, requires_grad=False).flat
    most = max(1, len(flat) // SHARE)
    listener = Silent() if progress is None else progress
    listener.start("backdoor units", 2 * most.bit_length())

    def silenced(count: int) -> bool:
        flat.fill_(1)
        flat[order[:count]] = 0
        success = evaluate(network, marked, convention, batch_size=batch_size).acc.value
        listener.advance(pruned=count, success=success)
        return success <= SILENCED

    with masked(network, layers, flat, shift=True):
        works, enough = 0, 1
        while not silenced(enough):
            if enough == most:
                return None
            works, enough = enough, min(2 * enough, most)
        while enough - works > 1:
            middle = (works + enough) // 2
            if silenced(middle):
                enough = middle
            else:
                works = middle
    return tuple(order[:enough].tolist())


@dataclass(frozen=True)
class Overlap:
    """How well the units that a repair pruned are those that the trigger uses.

    Attributes
    ----------
    precision
        Share of the pruned units that the trigger uses.
    recall
        Share of the units that the trigger uses that were pruned.
    """

    precision: Proportion
    recall: Proportion


def overlap(pruned: Iterable[UnitOrIndex], used: Iterable[UnitOrIndex]) -> Overlap:
    """Compare pruned units with those that the trigger uses: both as units, or both as positions.

    Order and repetition do not matter.

    Raises
    ------
    ValueError
        Some are units and some are positions, which never match.
    """
    chosen, needed = set(pruned), set(used)
    if len({isinstance(unit, Unit) for unit in chosen | needed}) > 1:
        raise ValueError("units and positions cannot be compared: give both sides as one of them")
    both = len(chosen & needed)
    return Overlap(Proportion(both, len(chosen)), Proportion(both, len(needed)))


def _record(network: nn.Module, layer: UnitLayer, runs: list[Tensor]) -> Callable[[], None]:
    """Append a copy of what holds the layer's units to `runs` at every run; what is returned stops it."""
    # A copy, because an activation may work in place on what a module returned.
    if layer.kind == "heads":
        projection = network.get_submodule(layer.scale[0].parameter.rpartition(".")[0])
        before = projection.register_forward_pre_hook(lambda _module, inputs: runs.append(inputs[0].clone()))
        return before.remove
    module = network.get_submodule(layer.name)
    return module.register_forward_hook(lambda _module, _inputs, output: runs.append(output.clone())).remove


def _norms(layer: UnitLayer, run: Tensor, images: int) -> Tensor:
    """Return the norm of each unit's part of a run, summed over images, ``(count,)``."""
    if len(run) % images:
        raise ArchitectureError(
            f"{layer.name}: the first axis of {tuple(run.shape)} does not belong to the {images} images"
        )
    if layer.kind in ("norm", "conv"):
        run = run.movedim(1, -1)
    parts = run.reshape(images, -1, layer.count, run.shape[-1] // layer.count)
    norms: Tensor = torch.linalg.vector_norm(parts, dim=(1, 3))
    return norms.sum(0).double().cpu()
