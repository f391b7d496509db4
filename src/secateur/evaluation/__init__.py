"""ACC, ASR, RA and DER, with written definitions and intervals; and which units a trigger uses."""

from secateur.evaluation.activation import (
    ActivationChange,
    Overlap,
    backdoor_units,
    overlap,
    trigger_activated_change,
)
from secateur.evaluation.measures import Evaluation, defence_effectiveness
from secateur.evaluation.measuring import evaluate

__all__ = [
    "ActivationChange",
    "Evaluation",
    "Overlap",
    "backdoor_units",
    "defence_effectiveness",
    "evaluate",
    "overlap",
    "trigger_activated_change",
]
