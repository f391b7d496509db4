"""Repair methods by name: ours, and those of other packages."""

from typing import Protocol

import torch
from torch import nn

from secateur.data import CleanData
from secateur.progress import Progress
from secateur.registry import Registry
from secateur.repair.result import Repair


class RepairMethod(Protocol):
    """What a method is once its hyperparameters are chosen."""

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        *,
        generator: torch.Generator | None = None,
        progress: Progress = ...,
    ) -> Repair:
        """Return the repair of `network`, which is not changed."""


REPAIRS: Registry[RepairMethod] = Registry("repair method", "secateur.repairs")
register, methods, create = REPAIRS.register, REPAIRS.entries, REPAIRS.create
