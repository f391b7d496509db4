"""Attacks, to make the backdoors that a repair must survive; no repair may import this.

They exist so that defenders can measure repairs: every specimen keeps its trigger beside it.
"""

import importlib
import pkgutil

from secateur.attacks.attack import Attack, Control, Poisoned, Surrogate
from secateur.attacks.goal import Goal
from secateur.attacks.registry import attacks, create, register
from secateur.attacks.trigger_file import read_any_trigger, write_any_trigger

# Each attack registers itself when its file is imported.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Attack",
    "Control",
    "Goal",
    "Poisoned",
    "Surrogate",
    "attacks",
    "create",
    "read_any_trigger",
    "register",
    "write_any_trigger",
]
