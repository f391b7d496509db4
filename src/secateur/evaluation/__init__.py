"""ACC, ASR, RA and DER, with written definitions and intervals, and the units that a trigger really uses."""

from secateur.evaluation.activation import (
    ActivationChange,
    Overlap,
    backdoor_units,
    overlap,
    trigger_activated_change,
)
from secateur.evaluation.detection import Separation, mask_overlap, separation
from secateur.evaluation.measures import (
    Evaluation,
    defence_effectiveness,
    defence_effectiveness_interval,
)
from secateur.evaluation.measuring import evaluate

__all__ = [
    "ActivationChange",
    "Evaluation",
    "Overlap",
    "Separation",
    "backdoor_units",
    "defence_effectiveness",
    "defence_effectiveness_interval",
    "evaluate",
    "mask_overlap",
    "overlap",
    "separation",
    "trigger_activated_change",
]
