"""Masks decide: those that fall while the clean task is recovered belong to suspects."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.expose import Case
from secateur.models import duplicate
from secateur.repair.choosing import Choice
from secateur.repair.recovering import Recovering
from secateur.repair.walking import Limits, Walk

LOSS_PER_POINT = 5.0
"""Nats of learning loss that may be lost for each unit of the accuracy budget."""


def recovered_masks(
    case: Case,
    recovering: Recovering,
    parts: Sequence[tuple[float, nn.Module, str]],
    *,
    trajectory: bool,
) -> Tensor:
    """Return masks recovered on several networks, as one weighted sum, ``(total,)``.

    Parameters
    ----------
    case
        The network as it came, its clean images and its layers.
    recovering
        How masks are learned.
    parts
        Weight, network and stage of each recovery; one without weight is left out. The networks are not
        changed.
    trajectory
        Whether a mask counts by its mean over all steps; otherwise by the last.
    """
    masks = torch.zeros(case.discovery.total)
    for weight, network, stage in parts:
        if not weight:
            continue
        start = duplicate(network)
        with case.stage(stage, start):
            path = recovering(
                start,
                case.discovery.layers,
                case.clean.learn,
                case.clean.convention,
                generator=case.generator,
                progress=case.progress,
                stage=stage,
            )
        masks += weight * (path.mean if trajectory else path.last)
    return masks


def choose_by_masks(
    case: Case,
    masks: Tensor,
    *,
    threshold: float,
    spare: float | None,
    share: float,
    budget: float | None,
    shift: bool,
) -> Choice:
    """Walk along the units whose masks are at most `threshold`, the lowest first; see `RNP` for the settings.

    Parameters
    ----------
    case
        The network as it came, its clean images and its layers.
    masks
        ``(total,)`` in ``[0, 1]``.
    """
    order = masks.argsort(stable=True)
    suspects = order[masks[order] <= threshold].tolist()
    suspicion = 1 - masks
    tolerances = None
    if spare is not None:
        tolerances = spare * suspicion / suspicion.max().clamp_min(torch.finfo(masks.dtype).tiny)
    limits = Limits()
    if budget is not None:
        limits = Limits(budget, LOSS_PER_POINT * budget, math.ceil(share * case.discovery.total))
    walk = Walk(case.network, case.discovery.layers, case.clean, shift=shift)
    return walk.along(suspects, tolerances, limits, case.progress)
