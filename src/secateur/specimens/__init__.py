"""Networks that are backdoored on purpose, each with a card that says how, and how well it worked."""

from secateur.specimens.making import (
    CARD,
    TRIGGER,
    UNFINISHED,
    Data,
    finished,
    make_specimen,
    open_data,
)
from secateur.specimens.recipe import NO_ATTACK, WEIGHTS, SpecimenRecipe, read_list
from secateur.specimens.training import Training, train

__all__ = [
    "CARD",
    "NO_ATTACK",
    "TRIGGER",
    "UNFINISHED",
    "WEIGHTS",
    "Data",
    "SpecimenRecipe",
    "Training",
    "finished",
    "make_specimen",
    "open_data",
    "read_list",
    "train",
]
