"""What a report says of an exposure: the label that unlearning reveals, triggers, and every check."""

from collections.abc import Sequence

from secateur.expose import Check, Exposure, Found, InvertedTrigger, LabelScores, Verdict
from secateur.report import wording
from secateur.report.frame import Evidence, proportion
from secateur.report.pictures import embedded
from secateur.statistics import Proportion

ON_LEARN = "on the clean images that the method learned from; Wilson score interval"


def trigger_section(
    trigger: Found | None, class_names: Sequence[str] | None, *, drawn: InvertedTrigger | None = None
) -> Evidence | None:
    """Return what an inverted trigger is; None if there is none. `drawn` are pixels that do the same."""
    if trigger is None:
        return None
    facts = _facts(trigger, class_names)
    statement = wording.trigger_statement(facts)
    if drawn is not None:
        statement += f" In pixels: {wording.trigger_statement(_facts(drawn, class_names))}"
    pixels = trigger if isinstance(trigger, InvertedTrigger) else drawn
    return facts | {"picture": pixels and embedded(pixels.trigger), "statement": statement}


def exposure_section(
    exposure: Exposure | None,
    labels: LabelScores | None,
    trigger: Found | None,
    class_names: Sequence[str] | None,
) -> Evidence | None:
    """Return what unlearning revealed; None if it was not done or diverged."""
    if exposure is None or not exposure.finite:
        return None
    images = sum(exposure.answers)
    found: Evidence = {
        "reached": exposure.reached,
        "labels": _scores(labels, class_names),
        "answers": [
            {"label": label, "name": name_of(label, class_names), "answers": answers, "images": occurs}
            for label, (answers, occurs) in enumerate(zip(exposure.answers, exposure.labels, strict=True))
        ],
        "path": {
            "how": ON_LEARN,
            "accuracies": [
                proportion(Proportion(round(accuracy * images), images)) for accuracy in exposure.accuracies
            ],
        },
    }
    dominant = None if labels is None else labels.label
    confirmed = None if trigger is None or dominant is None else trigger.label == dominant
    return found | {"statement": wording.exposure_statement(found, confirmed=confirmed)}


def checks_section(
    exposure: Exposure | None,
    labels: LabelScores | None,
    verdict: Verdict | None,
    class_names: Sequence[str] | None,
) -> list[Evidence]:
    """Return every check for a backdoor: what it found, or why it was not run."""
    scores = _scores(labels, class_names)
    searches, point = ((), 1.0) if verdict is None else (verdict.checks, verdict.point)
    return [
        {
            "check": wording.UNLEARNING,
            "ran": scores is not None,
            "strength": scores and scores["strength"],
            "statement": wording.unlearning_check(
                scores,
                unlearned=exposure is not None,
                diverged=exposure is not None and not exposure.finite,
            ),
            **wording.EMPTY,
        },
        *(
            {
                "check": wording.SEARCHES[check.kind],
                "ran": check.strength is not None,
                "strength": check.strength,
                "statement": wording.search_check(
                    check, None if check.trigger is None else _facts(check.trigger, class_names), point
                ),
                "support": check.support,
                "stands_out": check.stands_out(point),
                "sizes": _sizes(check, class_names),
            }
            for check in searches
        ),
    ]


def name_of(label: int, class_names: Sequence[str] | None) -> str | None:
    """Return the name of a class, where it is known and says more than its number."""
    if not class_names or label >= len(class_names) or class_names[label] == str(label):
        return None
    return class_names[label]


def _scores(labels: LabelScores | None, class_names: Sequence[str] | None) -> Evidence | None:
    """Return what unlearning says of each class; None if it says nothing."""
    if labels is None:
        return None
    found: Evidence = {
        "label": labels.label,
        "name": None if labels.label is None else name_of(labels.label, class_names),
        "score": labels.score,
        "strength": labels.strength,
        "seconded": labels.seconded,
        "gained": labels.gained,
        "moved": labels.moved,
    }
    return found | {"statement": wording.label_statement(found)}


def _facts(trigger: Found, class_names: Sequence[str] | None) -> Evidence:
    """Return what can be said of a trigger without drawing it."""
    return {
        "kind": trigger.form,
        "label": trigger.label,
        "name": None if trigger.label is None else name_of(trigger.label, class_names),
        "norm": trigger.norm,
        "success": trigger.success,
    }


def _sizes(check: Check, class_names: Sequence[str] | None) -> Evidence | None:
    """Return the size of every trigger that was compared; None where none was inverted."""
    if not check.triggers:
        return None
    return {
        "unit": wording.SIZES[check.kind],
        "triggers": [
            {
                "label": trigger.label,
                "name": None if trigger.label is None else name_of(trigger.label, class_names),
                "norm": trigger.norm,
                "success": trigger.success,
                "converged": trigger.converged,
                "smallest": trigger is check.trigger,
            }
            for trigger in check.triggers
        ],
    }
