"""Attacks by name: ours, and those of other packages."""

from secateur.attacks.attack import Attack
from secateur.registry import Registry

ATTACKS: Registry[Attack] = Registry("attack", "secateur.attacks")
register, attacks, create = ATTACKS.register, ATTACKS.entries, ATTACKS.create
