"""A verdict follows from the triggers that were inverted, and from nothing else."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from secateur.data import Trigger
from secateur.expose import Findings, InvertedTrigger, judge, strengths, suspect
from secateur.expose.triggers import ANOMALOUS, CONSISTENT, SMALL

BLANK = Trigger(torch.ones(1, 2, 2), torch.zeros(1, 2, 2))
# Logarithms 0, 1, 2, 3, 4: the median is 2, the median deviation 1.
EVEN = [math.exp(k) for k in range(5)]


def triggers(norms: list[float], *, converged: bool = True) -> tuple[InvertedTrigger, ...]:
    return tuple(InvertedTrigger(k, BLANK, norm, 1.0, converged) for k, norm in enumerate(norms))


def test_strength_is_the_smaller_of_anomaly_and_smallness() -> None:
    found = strengths(triggers(EVEN))
    anomaly = 2 / CONSISTENT / ANOMALOUS
    smallness = 2 / -math.log(SMALL["patch"])
    assert found[0] == pytest.approx(min(anomaly, smallness))
    assert found[2] == 0
    assert found[4] < 0
    # Tight norms: a far outlier in deviations, but hardly smaller than the rest.
    tight = strengths(triggers([0.9, 1.0, 1.001, 1.002, 1.003]))
    assert tight[0] == pytest.approx(math.log(0.9 / 1.001) / math.log(SMALL["patch"]))


@given(st.lists(st.floats(0.1, 100), min_size=4, max_size=12))
@example([1.0, 1.0, 1.0, 0.1 + 2**-56, 0.1])
def test_a_suspect_is_the_smallest_and_stronger_than_one(norms: list[float]) -> None:
    found = suspect(triggers(norms))
    strongest = max(strengths(triggers(norms)))
    assert (found is not None) == (strongest > 1)
    if found is not None:
        # Norms that differ by rounding may be as strong as each other.
        assert found.norm == pytest.approx(min(norms), rel=1e-12)


def test_one_small_trigger_is_evidence_with_its_label() -> None:
    patches = triggers([30.0, 31.0, 5.0, 32.0, 29.0])
    findings = Findings(
        patches[2], patches, {"patch": patches}, dict.fromkeys(("change", "shift"), "found before")
    )
    verdict = judge(findings)
    assert (verdict.conclusion, verdict.label, verdict.trigger) == ("evidence", 2, patches[2])
    assert verdict.strength == pytest.approx(max(strengths(patches)))
    assert [check.reason for check in verdict.checks] == [None, "found before", "found before", "left out"]
    # The threshold is the search's.
    patient = judge(Findings(None, patches, {"patch": patches}, point=verdict.strength + 1))
    assert patient.conclusion == "no evidence"


def test_without_a_small_trigger_there_is_no_evidence_and_no_label() -> None:
    patches = triggers([30.0, 31.0, 28.0, 32.0, 29.0])
    changed = (*patches, InvertedTrigger(None, BLANK, 27.0, 1.0, True))
    verdict = judge(
        Findings(None, changed, {"patch": patches, "change": changed}, {"shift": "no normalisation"})
    )
    assert (verdict.conclusion, verdict.label, verdict.trigger) == ("no evidence", None, None)
    patch, change, shift, _ = verdict.checks
    assert (patch.triggers, patch.trigger) == (patches, patches[2])
    assert (change.triggers, change.trigger) == (changed, changed[-1])
    assert (shift.strength, shift.reason) == (None, "no normalisation")


def test_a_trigger_that_changes_any_answer_is_evidence_without_a_label() -> None:
    patches = triggers([30.0, 31.0, 28.0, 32.0, 29.0])
    changed = (*patches, InvertedTrigger(None, BLANK, 4.0, 1.0, True))
    verdict = judge(Findings(changed[-1], changed, {"patch": patches, "change": changed}))
    assert (verdict.conclusion, verdict.label) == ("evidence", None)


@pytest.mark.parametrize(
    "findings",
    [
        Findings.none("too many classes"),
        Findings(None, triggers(EVEN, converged=False), {"patch": triggers(EVEN, converged=False)}),
        Findings(None, triggers([1.0, 50.0]), {"patch": triggers([1.0, 50.0])}),
    ],
    ids=["nothing searched", "nothing converged", "two classes"],
)
def test_where_no_check_can_decide_the_verdict_is_inconclusive(findings: Findings) -> None:
    verdict = judge(findings)
    assert (verdict.conclusion, verdict.strength, verdict.label) == ("inconclusive", None, None)
    assert all(check.reason for check in verdict.checks)


def test_a_label_comes_before_a_change_of_any_answer() -> None:
    patches = triggers([30.0, 31.0, 5.0, 32.0, 29.0, 30.5, 28.5])
    changed = (*patches, InvertedTrigger(None, BLANK, 3.0, 1.0, True))
    verdict = judge(Findings(patches[2], patches, {"patch": patches, "change": changed}))
    assert (verdict.conclusion, verdict.label) == ("evidence", 2)
    assert verdict.strength == pytest.approx(max(strengths(changed)))
