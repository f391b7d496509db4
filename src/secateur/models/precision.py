"""In which precision forward passes run."""

from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch

from secateur.errors import MethodError

Precision = Literal["auto", "float32", "bfloat16"]
"""``auto`` takes bfloat16 where the processor computes with it."""


def check_precision(precision: str) -> None:
    """Refuse a name that is none.

    Raises
    ------
    MethodError
        It is not one of `Precision`.
    """
    if precision not in get_args(Precision):
        raise MethodError(f"precision {precision!r} must be auto, float32 or bfloat16")


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Return whether forward passes on `device` run in bfloat16."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which forward passes run; parameters and what follows stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(precision, device))
