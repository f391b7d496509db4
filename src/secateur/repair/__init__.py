"""Repairs: a network and clean data in, a repaired network with evidence out."""

from secateur.repair.onp import ONP
from secateur.repair.polishing import Polishing
from secateur.repair.recovering import MaskPath, Recovering
from secateur.repair.registry import RepairMethod, create, methods, register
from secateur.repair.result import CurvePoint, Outcome, Repair
from secateur.repair.rnp import RNP
from secateur.repair.unlearn_trigger import UnlearnTrigger

__all__ = [
    "ONP",
    "RNP",
    "CurvePoint",
    "MaskPath",
    "Outcome",
    "Polishing",
    "Recovering",
    "Repair",
    "RepairMethod",
    "UnlearnTrigger",
    "create",
    "methods",
    "register",
]
