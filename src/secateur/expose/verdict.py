"""What the findings of an exposure amount to."""

from dataclasses import dataclass
from typing import Literal, get_args

from secateur.expose.searching import WITNESSED, Findings, Kind, Reason
from secateur.expose.triggers import FEWEST, Found, strengths

Conclusion = Literal["evidence", "no evidence", "inconclusive"]


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
    witnessed
        Whether its strength was doubled because unlearning points to the same label.
    """

    kind: Kind
    strength: float | None
    trigger: Found | None
    triggers: tuple[Found, ...] = ()
    reason: Reason | None = None
    witnessed: bool = False

    def stands_out(self, point: float) -> bool:
        """Say whether the trigger is stronger than `point`, which makes it evidence."""
        return self.strength is not None and self.strength > point


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
    point
        Strength beyond which a trigger is evidence.
    trigger
        The trigger that is the evidence.
    checks
        One for each kind of trigger.
    """

    conclusion: Conclusion
    strength: float | None
    point: float
    trigger: Found | None
    checks: tuple[Check, ...]

    @property
    def label(self) -> int | None:
        """The target label; None without evidence, or if the trigger changes any answer."""
        return None if self.trigger is None else self.trigger.label


def judge(findings: Findings) -> Verdict:
    """Return the verdict on a network from the triggers that were inverted from it.

    If triggers of several kinds stand out, that of the first kind is the evidence: what gives one label also
    changes answers, and says less.
    """
    checks = tuple(_check(findings, kind) for kind in get_args(Kind))
    decided = [check.strength for check in checks if check.strength is not None]
    evidence = [check.trigger for check in checks if check.stands_out(findings.point)]
    conclusion: Conclusion = "evidence" if evidence else "no evidence" if decided else "inconclusive"
    trigger = evidence[0] if evidence else None
    return Verdict(conclusion, max(decided, default=None), findings.point, trigger, checks)


def _check(findings: Findings, kind: Kind) -> Check:
    triggers = findings.looks.get(kind)
    if triggers is None:
        return Check(kind, None, None, reason=findings.skipped.get(kind, "left out"))
    if sum(trigger.converged for trigger in triggers) < FEWEST:
        return Check(kind, None, None, triggers, "not converged")
    known = dict(zip(strengths(triggers), triggers, strict=True))
    strength = max(known)
    if findings.witnessed and findings.triggers is triggers:
        strength = next(value for value, trigger in known.items() if trigger is findings.found)
        return Check(kind, WITNESSED * strength, findings.found, triggers)
    return Check(kind, strength, known[strength], triggers)
