"""What can be pruned in a network, how to try it out, and how to write it down."""

from secateur.units.connections import Connections, connect
from secateur.units.discovery import discover
from secateur.units.layers import Discovery, Slices, Unit, UnitLayer, all_units
from secateur.units.masks import Masks, masked
from secateur.units.pruning import prune
from secateur.units.recipe import Recipe, ScoredUnit
from secateur.units.replay import Replay
from secateur.units.sites import Block, Wiring
from secateur.units.state import state_sha256

__all__ = [
    "Block",
    "Connections",
    "Discovery",
    "Masks",
    "Recipe",
    "Replay",
    "ScoredUnit",
    "Slices",
    "Unit",
    "UnitLayer",
    "Wiring",
    "all_units",
    "connect",
    "discover",
    "masked",
    "prune",
    "state_sha256",
]
