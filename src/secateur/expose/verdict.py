"""What the findings of an exposure amount to."""

from dataclasses import dataclass
from typing import Literal, get_args

from secateur.expose.searching import Findings, Kind, Reason
from secateur.expose.triggers import Found, InvertedTrigger, enough

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
    support
        What its strength owes to unlearning as a factor, from 1 to 2: see `LabelScores.support`.
    """

    kind: Kind
    strength: float | None
    trigger: Found | None
    triggers: tuple[Found, ...] = ()
    reason: Reason | None = None
    support: float = 1.0

    def stands_out(self, point: float) -> bool:
        """Say whether the trigger is stronger than `point`, which makes it evidence."""
        return self.strength is not None and self.strength > point

    def stands_out_alone(self, point: float) -> bool:
        """Say whether it would be evidence without what unlearning says."""
        return self.strength is not None and self.strength / self.support > point


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
    drawn
        Pixels that do the same where the trigger is a shift of channels, if they were inverted and converged.
    """

    conclusion: Conclusion
    strength: float | None
    point: float
    trigger: Found | None
    checks: tuple[Check, ...]
    drawn: InvertedTrigger | None = None

    @property
    def pixels(self) -> InvertedTrigger | None:
        """The trigger as images carry it, if one was inverted."""
        return self.trigger if isinstance(self.trigger, InvertedTrigger) else self.drawn

    @property
    def label(self) -> int | None:
        """The target label; None without evidence, or if the trigger changes any answer."""
        return None if self.trigger is None else self.trigger.label


def judge(findings: Findings) -> Verdict:
    """Return the verdict on a network from the triggers that were inverted from it."""
    checks = tuple(_check(findings, kind) for kind in get_args(Kind))
    decided = [check.strength for check in checks if check.strength is not None]
    conclusion: Conclusion = "evidence" if findings.found else "no evidence" if decided else "inconclusive"
    return Verdict(conclusion, max(decided, default=None), findings.point, findings.found, checks)


def _check(findings: Findings, kind: Kind) -> Check:
    triggers = findings.looks.get(kind)
    if triggers is None:
        return Check(kind, None, None, reason=findings.skipped.get(kind, "left out"))
    if not enough(triggers):
        return Check(kind, None, None, triggers, "not converged")
    strength, support, trigger = findings.strongest(kind)
    return Check(kind, strength, trigger, triggers, support=support)
