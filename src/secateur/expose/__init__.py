"""What a network reveals when it is made to forget its clean task."""

from secateur.expose.case import Case, flushed_denormals
from secateur.expose.descending import answers_without, margins_of, of_others, wanted_classes
from secateur.expose.exposing import GENTLE, Exposed, Exposing
from secateur.expose.forgetting import Forgetting, Outlasting
from secateur.expose.forms import FormName
from secateur.expose.labels import DOMINANT, LabelScores, score_labels
from secateur.expose.latent import LatentInversion, LatentTrigger
from secateur.expose.scanning import OPERATING_POINT, Scan
from secateur.expose.searching import CHANGING, Findings, Kind, Reason, Search
from secateur.expose.strengthening import Strengthening
from secateur.expose.succeeding import Look, Succeeding, Successors
from secateur.expose.triggers import (
    Found,
    FoundForm,
    Inversion,
    InvertedTrigger,
    anomalies,
    images_of_others,
    strengths,
    success_of,
    suspect,
    typical_norm,
)
from secateur.expose.unlearning import (
    Exposure,
    Unlearning,
    batch_statistics,
    dropout_seed,
    even_batches,
    predict,
)
from secateur.expose.verdict import Check, Conclusion, Verdict, judge

__all__ = [
    "CHANGING",
    "DOMINANT",
    "GENTLE",
    "OPERATING_POINT",
    "Case",
    "Check",
    "Conclusion",
    "Exposed",
    "Exposing",
    "Exposure",
    "Findings",
    "Forgetting",
    "FormName",
    "Found",
    "FoundForm",
    "Inversion",
    "InvertedTrigger",
    "Kind",
    "LabelScores",
    "LatentInversion",
    "LatentTrigger",
    "Look",
    "Outlasting",
    "Reason",
    "Scan",
    "Search",
    "Strengthening",
    "Succeeding",
    "Successors",
    "Unlearning",
    "Verdict",
    "anomalies",
    "answers_without",
    "batch_statistics",
    "dropout_seed",
    "even_batches",
    "flushed_denormals",
    "images_of_others",
    "judge",
    "margins_of",
    "of_others",
    "predict",
    "score_labels",
    "strengths",
    "success_of",
    "suspect",
    "typical_norm",
    "wanted_classes",
]
