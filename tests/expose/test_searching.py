"""A search goes from patches to shifts, and stops at what it finds."""

from typing import Any

import pytest
import torch
from torch import nn

from planted import CLASSES, CLEAN, CONVENTION, TARGET, Normed, Planted, Rotated
from secateur.data import Trigger, example_input
from secateur.errors import MethodError
from secateur.expose import (
    CHANGING,
    Findings,
    Inversion,
    InvertedTrigger,
    LabelScores,
    LatentTrigger,
    Search,
    judge,
    strengths,
    success_of,
)
from secateur.progress import Silent
from secateur.units import discover

BLIND = Inversion(steps=1)


def search(network: nn.Module, *, shift: bool = True, **settings: Any) -> Findings:
    network.eval().requires_grad_(False)
    gained = settings.pop("gained", None)
    return Search(**settings)(
        network,
        discover(network, example_input(CONVENTION)).layers,
        CLEAN,
        labels=gained and LabelScores(gained, None),
        classes=CLASSES,
        shift=shift,
        generator=torch.Generator().manual_seed(0),
        progress=Silent(),
    )


def test_a_patch_for_a_label_ends_the_search() -> None:
    findings = search(Planted())
    assert isinstance(findings.found, InvertedTrigger)
    assert findings.found.label == TARGET
    assert [trigger.label for trigger in findings.triggers] == list(range(CLASSES))


def test_a_mapping_of_all_classes_is_found_by_what_changes_answers() -> None:
    network = Rotated()
    findings = search(network)
    assert isinstance(findings.found, InvertedTrigger)
    assert findings.found.label is None
    assert findings.found.norm < 2
    assert (1 - findings.found.trigger.keep[0]).argmax() == 0
    assert [trigger.label for trigger in findings.triggers] == [*range(CLASSES), None]
    assert success_of(network, findings.found.trigger, None, CLEAN.choose, CONVENTION) > 0.9


def test_what_patches_do_not_find_shifts_do() -> None:
    findings = search(Normed(), patches=BLIND, changing=BLIND)
    assert isinstance(findings.found, LatentTrigger)
    assert findings.found.label == TARGET
    assert all(isinstance(trigger, LatentTrigger) for trigger in findings.triggers)


def test_without_a_backdoor_all_kinds_are_tried_and_nothing_is_found() -> None:
    findings = search(Normed(strength=0.0))
    assert findings.found is None
    assert len(findings.triggers) == CLASSES + 1 + CLASSES + CLASSES
    assert len(search(Normed(strength=0.0), shift=False, outlasting=None).triggers) == CLASSES + 1


def patch_for(label: int | None, norm: float) -> InvertedTrigger:
    return InvertedTrigger(label, Trigger(torch.ones(1, 2, 2), torch.zeros(1, 2, 2)), norm, 1.0, True)


class Told(Inversion):
    """Finds patches of norms that are told."""

    def __call__(self, *_arguments: Any, labels: Any, **_more: Any) -> tuple[InvertedTrigger, ...]:
        return tuple(patch_for(label, (10.0, 7.0, 9.0, 10.5, 11.0)[label]) for label in labels)


def test_a_patch_that_changes_any_answer_gives_no_other_patch_a_second_chance() -> None:
    """One size more may move the median so far that a label's patch would stand out among them."""
    norms = (30.0, 31.0, 28.0, 23.6, 32.0, 33.0, 30.5, 29.5, 31.5, 30.2)
    patches = tuple(patch_for(label, norm) for label, norm in enumerate(norms))
    looks = {"patch": patches, "change": (*patches, patch_for(None, 29.0))}
    findings = Findings(None, (), looks)
    assert strengths(looks["change"])[3] > max(strengths(patches)[:3])
    strength, _, trigger = findings.strongest("change")
    assert trigger.label is None
    assert strength == strengths(looks["change"])[-1]


def test_a_label_that_gains_from_unlearning_needs_a_weaker_trigger() -> None:
    network = Planted()
    assert 0.5 < max(strengths(Told()(labels=range(CLASSES)))) < 1
    assert search(network, patches=Told()).found is None
    # Too little, and much but for another label.
    for gained in ((-0.2, 0.2, 0.0, 0.0, 0.0), (0.8, -0.3, -0.2, -0.2, -0.1)):
        findings = search(network, patches=Told(), gained=gained)
        assert findings.found is None
        assert judge(findings).conclusion == "no evidence"
    for gained, support in (
        ((-0.3, 0.4, 0.0, 0.0, -0.1), 1 + 0.8**2),
        ((-0.3, 0.8, -0.2, -0.2, -0.1), 2),
    ):
        findings = search(network, patches=Told(), gained=gained)
        assert (findings.found.label, findings.found.norm) == (1, 7.0)
        verdict = judge(findings)
        assert (verdict.conclusion, verdict.label, verdict.trigger) == ("evidence", 1, findings.found)
        assert verdict.checks[0].support == pytest.approx(support)
        assert verdict.strength == pytest.approx(support * strengths(findings.triggers)[1])
        assert verdict.checks[0].stands_out(1.0)
        assert not verdict.checks[0].stands_out_alone(1.0)


def test_what_does_not_stand_out_may_do_so_beyond_a_lower_point() -> None:
    """As if it had been searched with that point, whatever the kind."""
    blind = {"patches": BLIND, "changing": BLIND}
    supported: dict[str, Any] = {"patches": Told(), "gained": (-0.3, 0.8, -0.2, -0.2, -0.1)}
    cases: list[tuple[nn.Module, dict[str, Any]]] = [
        (Planted(), {}),
        (Rotated(), {}),
        (Normed(), blind),
        (Planted(), supported),
        (Normed(strength=0.0), {}),
    ]
    for network, settings in cases:
        patient = search(network, **settings, point=1000.0)
        assert patient.found is None
        again, eager = patient.beyond(1.0), search(network, **settings)
        assert (again.point, again.looks) == (1.0, patient.looks)
        assert [trigger.norm for trigger in again.triggers] == [trigger.norm for trigger in eager.triggers]
        assert (again.found and again.found.norm) == (eager.found and eager.found.norm)


def test_where_one_label_dominates_no_mapping_of_all_classes_is_looked_for() -> None:
    network, gained = Normed(strength=0.0), (-0.3, 0.8, -0.2, -0.2, -0.1)
    findings = search(network, gained=gained, outlasting=None)
    assert findings.skipped["change"] == "one label"
    assert set(findings.looks) == {"patch", "shift"}
    assert "change" in search(network, gained=gained, outlasting=None, thorough=True).looks


def test_networks_without_normalisation_are_searched_for_patches_only() -> None:
    findings = search(Planted(backdoor=False))
    assert findings.found is None
    assert len(findings.triggers) == CLASSES


def test_of_many_labels_those_that_gain_most_from_unlearning_are_searched() -> None:
    gained = (-0.3, -0.1, 0.2, 0.4, 0.1)
    findings = search(Normed(strength=0.0), most=4, proposed=3, gained=gained)
    assert [trigger.label for trigger in findings.looks["patch"]] == [1, 2, 3, 4]
    assert [trigger.label for trigger in findings.looks["shift"]] == [2, 3, 4]
    assert [trigger.label for trigger in findings.looks["outlasting"]] == [2, 3, 4]
    # Nothing is proposed without unlearning, and more labels than `most` take too long.
    assert set(search(Planted(), most=4).skipped.values()) == {"too many classes"}


def test_a_thorough_search_tries_every_kind_and_keeps_what_it_found_first() -> None:
    quick = Inversion(steps=60, batch_size=16)
    short, whole = (search(Rotated(), changing=CHANGING, patches=quick, thorough=t) for t in (False, True))
    assert short.found is not None
    assert (whole.found.label, whole.found.norm) == (short.found.label, short.found.norm)
    assert short.skipped == {"shift": "found before", "outlasting": "found before"}
    assert (set(whole.looks), whole.skipped) == ({"patch", "change", "shift", "outlasting"}, {})
    patches, changed = whole.looks["patch"], whole.looks["change"]
    assert all(one is other for one, other in zip(patches, changed, strict=False))
    assert len(changed) == len(patches) + 1


def test_a_search_needs_labels() -> None:
    with pytest.raises(MethodError):
        Search(proposed=0)


def test_success_without_a_label_counts_changed_answers() -> None:
    network = Rotated().eval()
    (trigger,) = CHANGING(
        network, CLEAN.learn, CLEAN.choose, CONVENTION, generator=torch.Generator(), labels=[None]
    )
    stamped = trigger.trigger.stamp(CLEAN.choose.images)
    with torch.no_grad():
        before, after = (
            network(CONVENTION.normalise(images)).argmax(1) for images in (CLEAN.choose.images, stamped)
        )
    assert trigger.success == float((before != after).double().mean())
    assert trigger.norm < 2
