"""ACC, ASR, RA and DER, with written definitions and intervals."""

from secateur.evaluation.measures import Evaluation, defence_effectiveness
from secateur.evaluation.measuring import evaluate

__all__ = ["Evaluation", "defence_effectiveness", "evaluate"]
