"""What is written down about a specimen."""

import platform
from typing import Any, Literal

import torch

from secateur import __version__
from secateur.evaluation import Evaluation
from secateur.models import uses_bfloat16
from secateur.specimens.training import Training
from secateur.statistics import Proportion

Verdict = Literal["works", "the attack did not take", "the model is ruined"]
TAKES = 0.8
"""Least attack success rate of a backdoor that took."""
MOST_LOST = 0.05
"""Clean accuracy that a specimen may lack of the clean network's."""


def judge(measured: Evaluation, clean_accuracy: float | None) -> Verdict:
    """Say whether a specimen is one to measure repairs with.

    Parameters
    ----------
    clean_accuracy
        Of a clean network of the same architecture; without one, three times chance is asked for,
        or half the way from chance to no error.
    """
    chance = 1 / len(measured.per_class)
    least = min(3 * chance, (1 + chance) / 2) if clean_accuracy is None else clean_accuracy - MOST_LOST
    if measured.acc.value < min(least, 0.95):
        return "the model is ruined"
    if measured.asr is not None and not measured.asr.value >= TAKES:
        return "the attack did not take"
    return "works"


def numbers(measured: Evaluation) -> dict[str, Any]:
    """Return the measures as plain values, each with its interval."""
    named = {"acc": measured.acc, "asr": measured.asr, "ra": measured.ra}
    plain: dict[str, Any] = {name: described(share) for name, share in named.items() if share is not None}
    plain["per_class_acc"] = [round(share.value, 4) if share.total else None for share in measured.per_class]
    return plain


def described(share: Proportion) -> dict[str, float | None]:
    """Return a proportion as plain values; None for those of no images."""
    if not share.total:
        return {"value": None, "low": None, "high": None, "hits": 0, "n": 0}
    low, high = share.interval()
    return {
        "value": round(share.value, 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "hits": share.hits,
        "n": share.total,
    }


def versions() -> dict[str, str]:
    """Return the versions that can change a specimen."""
    return {
        "secateur": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def circumstances(training: Training, device: str, seconds: float) -> dict[str, Any]:
    """Return on what and for how long a specimen was trained; after a restart only the last part counts."""
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "bfloat16": uses_bfloat16(training.precision, torch.device(device)),
        "seconds": round(seconds, 1),
    }
