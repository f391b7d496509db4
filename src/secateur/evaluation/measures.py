"""What is measured of a network, with its definitions."""

from dataclasses import dataclass

from secateur.errors import InputError
from secateur.statistics import LEVEL, Proportion


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
        label that the attack wants for their class. None if no trigger was given.
    ra
        Robust accuracy: the share of the same triggered images that are answered with their true label.
        ``asr.value + ra.value`` never exceeds 1. None if no trigger was given.
    per_class
        Clean accuracy of each class, in label order; its totals add up to that of `acc`.
    asr_per_class
        Attack success rate of each true class, in label order; its totals add up to that of `asr`, that of a
        class that is not attacked is 0. None if no trigger was given.
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
    attack_before, attack_after = _attacks(before, after)
    return _rating(attack_before.value, attack_after.value, before.acc.value, after.acc.value)


def defence_effectiveness_interval(
    before: Evaluation, after: Evaluation, level: float = LEVEL
) -> tuple[float, float]:
    """Return a conservative interval of `defence_effectiveness`.

    The rating rises or falls with each of its four proportions, so its extremes lie at the ends of their
    intervals. Each is taken at the level ``1 - (1 - level) / 4``: by Bonferroni's inequality all four hold at
    once with probability `level`, however they depend on each other (they come from the same images).

    Raises
    ------
    InputError
        The attack success rate of either was not measured, or rests on no images.
    """
    each = 1 - (1 - level) / 4
    ends = [share.interval(each) for share in (*_attacks(before, after), before.acc, after.acc)]
    worst = _rating(ends[0][0], ends[1][1], ends[2][1], ends[3][0])
    best = _rating(ends[0][1], ends[1][0], ends[2][0], ends[3][1])
    return worst, best


def _attacks(before: Evaluation, after: Evaluation) -> tuple[Proportion, Proportion]:
    if not (before.asr and after.asr and before.asr.total and after.asr.total):
        raise InputError("DER needs the attack success rate before and after: evaluate both with a trigger")
    return before.asr, after.asr


def _rating(attack_before: float, attack_after: float, acc_before: float, acc_after: float) -> float:
    return (max(0.0, attack_before - attack_after) - max(0.0, acc_before - acc_after) + 1) / 2
