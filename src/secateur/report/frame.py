"""What every report says, as plain values: where things came from, and with what software."""

import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from secateur._version import __version__
from secateur.data import CleanData
from secateur.files import encodable
from secateur.models import LoadedModel
from secateur.report import wording
from secateur.statistics import LEVEL, PairedLoss, Proportion

FORMAT = "secateur-report"
FORMAT_VERSION = 1
ON_GIVEN = "on the clean images, as the network came; Wilson score interval"

Evidence = dict[str, Any]
"""The content of ``report.json``, as ``report.schema.json`` describes it: JSON types only, no NaN."""


def frame(
    model: LoadedModel,
    clean: CleanData,
    *,
    inputs: Mapping[str, object],
    outputs: Mapping[str, str],
    clean_accuracy: Proportion,
    command: Sequence[str],
    device: str,
    method: tuple[str, Mapping[str, object]],
    seconds: Mapping[str, float],
    notes: Sequence[str],
) -> Evidence:
    """Return what a report of any work on a network says; what the work came to is for others to fill in.

    Parameters
    ----------
    model, clean
        Which network, with which images.
    inputs
        Where the images came from: source, split, samples, seed; any plain values, shown in this order.
    outputs
        Name of each file written to its SHA-256.
    clean_accuracy
        Of the network as it came, on the clean images.
    command
        The command line that repeats the work, as separate arguments.
    device
        Where the network ran.
    method
        Its name and settings.
    seconds
        Time of each stage.
    notes
        Sentences for the reader.
    """
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "outcome": None,
        "statement": None,
        "software": {
            "secateur": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": device,
            "threads": torch.get_num_threads(),
        },
        "command": shlex.join(command) if command else None,
        "inputs": {
            "checkpoint": {
                "file": model.checkpoint.path.name,
                "sha256": model.checkpoint.sha256,
                "state_key": model.checkpoint.state_key,
            },
            "architecture": model.architecture,
            "classes": model.num_classes,
            "class_names": clean.class_names,
            "convention": model.convention.describe(),
            "data": inputs,
            "images": {"learn": len(clean.learn), "choose": len(clean.choose)},
        },
        "method": {"name": method[0], "hyperparameters": method[1]},
        "accuracy": {
            "given": {**proportion(clean_accuracy), "how": ON_GIVEN},
            "before": None,
            "after": None,
        },
        "loss": None,
        "curve": None,
        "units": None,
        "looks": [],
        "learning": None,
        "verdict": None,
        "trigger": None,
        "exposure": None,
        "evaluation": None,
        "checks": [],
        "seconds": seconds,
        "notes": notes,
        "limits": [],
        "references": wording.REFERENCES,
        "weights": None,
        "outputs": outputs,
    }


def proportion(measured: Proportion) -> dict[str, float | int]:
    """Return a proportion with its interval."""
    low, high = measured.interval(LEVEL)
    return {
        "value": measured.value,
        "low": low,
        "high": high,
        "level": LEVEL,
        "hits": measured.hits,
        "n": measured.total,
    }


def difference(loss: PairedLoss) -> dict[str, float]:
    """Return a loss with its interval."""
    return {"value": loss.value, "low": loss.low, "high": loss.high, "level": LEVEL}


def plain(value: object) -> Any:
    """Return `value` made of JSON types only.

    What is not finite becomes None, tuples become lists, text that is not Unicode is escaped, and
    anything unknown becomes its text.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return encodable(str(value))
