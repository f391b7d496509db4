"""What is measured of a network, with its definitions."""

from dataclasses import dataclass

from secateur.errors import InputError
from secateur.statistics import Proportion


@dataclass(frozen=True)
class Evaluation:
    """How a network answers clean and triggered images.

    An answer is the class with the largest output; an output that holds NaN is no answer and never right.

    Attributes
    ----------
    acc
        Clean accuracy: the share of clean images answered with their true label.
    asr
        Attack success rate: the share of triggered images of attacked classes that are answered with the
        label that the attack wants for them; all classes but the target are attacked unless the attack says
        otherwise. None if no trigger was given.
    ra
        Robust accuracy: the share of the same triggered images that are answered with their true label.
        ``asr.value + ra.value`` never exceeds 1. None if no trigger was given.
    per_class
        Clean accuracy of each class, in label order; its totals add up to that of `acc`.
    asr_per_class
        Attack success rate of each true class; its totals add up to that of `asr`, and classes that are not
        attacked have none. None if no trigger was given.
    """

    acc: Proportion
    asr: Proportion | None
    ra: Proportion | None
    per_class: tuple[Proportion, ...]
    asr_per_class: tuple[Proportion, ...] | None = None


def defence_effectiveness(before: Evaluation, after: Evaluation) -> float:
    """Return the defence effectiveness rating (DER) of a repair.

    ``DER = (max(0, ASR drop) - max(0, ACC drop) + 1) / 2``, in ``[0, 1]``: 1 for a backdoor that always fired
    and is gone at no cost, 0.5 for a repair that changed nothing. BackdoorBench's
    comparisons use it.

    Raises
    ------
    InputError
        The attack success rate of either was not measured, or rests on no images.
    """
    if not (before.asr and after.asr and before.asr.total and after.asr.total):
        raise InputError("DER needs the attack success rate before and after: evaluate both with a trigger")
    fewer_attacks = max(0.0, before.asr.value - after.asr.value)
    less_accuracy = max(0.0, before.acc.value - after.acc.value)
    return (fewer_attacks - less_accuracy + 1) / 2
