"""What the findings of an exposure amount to."""

from dataclasses import dataclass
from typing import Literal, get_args

from secateur.expose.searching import Findings, Kind, Reason
from secateur.expose.triggers import Found, strengths

Conclusion = Literal["evidence", "no evidence", "inconclusive"]

OPERATING_POINT = 1.0
"""Strength beyond which a trigger is evidence; how often clean networks exceed it is in docs/scan.md."""
FEW = 4
"""Labels that must have a trigger, or nothing tells what is small."""


@dataclass(frozen=True)
class Check:
    """One search for a trigger, or why there was none.

    Attributes
    ----------
    kind
        Of trigger.
    strength
        Of the smallest one, see `strengths`; None if the check was not run or tells nothing.
    trigger
        The smallest one that converged.
    triggers
        All that it was compared with, itself included.
    reason
        Why `strength` is None.
    """

    kind: Kind
    strength: float | None
    trigger: Found | None
    triggers: tuple[Found, ...] = ()
    reason: Reason | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a network shows evidence of a backdoor.

    Attributes
    ----------
    conclusion
        ``evidence``: a trigger is anomalously small. ``no evidence``: none of those searched is, which is no
        statement that the network is clean. ``inconclusive``: no check could decide.
    strength
        The largest of the checks; None if none decided.
    trigger
        The trigger that is the evidence.
    checks
        One for each kind of trigger.
    """

    conclusion: Conclusion
    strength: float | None
    trigger: Found | None
    checks: tuple[Check, ...]

    @property
    def label(self) -> int | None:
        """The target label; None without evidence, or if the trigger changes any answer."""
        return None if self.trigger is None else self.trigger.label


def judge(findings: Findings, *, point: float = OPERATING_POINT) -> Verdict:
    """Return the verdict on a network from the triggers that were inverted from it.

    Parameters
    ----------
    findings
        Of a `Search`.
    point
        Strength beyond which a trigger is evidence.
    """
    checks = tuple(_check(findings, kind) for kind in get_args(Kind))
    decided = [check for check in checks if check.strength is not None]
    if not decided:
        return Verdict("inconclusive", None, None, checks)
    strongest = max(decided, key=lambda check: check.strength or 0.0)
    if (strongest.strength or 0.0) > point:
        return Verdict("evidence", strongest.strength, strongest.trigger, checks)
    return Verdict("no evidence", strongest.strength, None, checks)


def _check(findings: Findings, kind: Kind) -> Check:
    triggers = findings.looks.get(kind)
    if triggers is None:
        return Check(kind, None, None, reason=findings.skipped.get(kind, "left out"))
    found = list(zip(strengths(triggers), triggers, strict=True))
    converged = sum(trigger.converged for trigger in triggers)
    # A patch without a label is judged by those for labels.
    mine = found[-1:] if kind == "change" else found
    if converged < FEW or not any(trigger.converged for _, trigger in mine):
        return Check(kind, None, None, triggers, "not converged")
    strength, trigger = max(mine, key=lambda pair: pair[0])
    return Check(kind, strength, trigger, triggers)
