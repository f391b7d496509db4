"""The sentences of a report: what its numbers mean, and what they do not."""

from collections.abc import Mapping
from typing import Any

from secateur.expose import DOMINANT, Check, Kind, Reason, Verdict

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

SCAN_LIMITS = (
    "No evidence is not the same as clean. A backdoor that these searches do not expose leaves no trace.",
    "Evidence is not proof. It is a comparison of how small triggers for different classes can be made, and "
    "some clean networks exceed the threshold as well; how many did is in the documentation of the scan.",
    "Only the kinds of trigger that are listed were searched for. A trigger that shows in one class of "
    "images alone, one that differs from image to image, or a natural object need not leave a trace in them.",
    "The clean images are trusted. If some of them carry the trigger or wrong labels, all that follows is "
    "undermined.",
)
LIMITS = (
    "No evidence is not the same as clean. A backdoor that this method does not expose leaves no trace here, "
    "and a repair that changes nothing says nothing about the network.",
    "Units were pruned because a score singled them out. That is no proof that they carried a backdoor, nor "
    "that a backdoor, if there was one, is gone. Only a measurement with the trigger can show that.",
    "Pruning removes what single units carry. It does not repair a backdoor in the network's code or graph "
    "(an added branch, a changed operation, a custom layer), in units that the clean task needs as well, or "
    "one that was made with this kind of pruning in mind.",
    "The clean images are trusted. If some of them carry the trigger or wrong labels, all that follows is "
    "undermined.",
    "Accuracies were measured on a few hundred images that the network may have been trained on. That "
    "flatters them, and it can hide part of what pruning costs on new images.",
    "How far to prune, and whether a polish is kept, was chosen on the same images as the accuracy after the "
    "repair, which flatters it a little. The intervals cover chance in drawing the images, not this choice.",
)

REFERENCES = (
    {
        "id": "AML.T0018",
        "source": "MITRE ATLAS",
        "title": "Backdoor ML Model (in newer releases: Manipulate AI Model)",
    },
    {"id": "AML.T0020", "source": "MITRE ATLAS", "title": "Poison Training Data"},
    {
        "id": "MEASURE 2.7",
        "source": "NIST AI RMF 1.0",
        "title": "Security and resilience are evaluated and documented",
    },
)

TRIGGER_NEEDED = (
    "It needs the trigger, which a repair never sees. If you know it, measure with: "
    "secateur evaluate MODEL --trigger T.safetensors --target K"
)
UNCHANGED = "Nothing was pruned, so the clean accuracy is what it was."
NOT_IMPLEMENTED = "This version does not do it."


def percent(value: float | None) -> str:
    """Return a share as a percentage with one decimal; a dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.1f}{SPACE}%"


def points(value: float) -> str:
    """Return a difference of shares in percentage points; never a minus before a zero."""
    text = f"{abs(100 * value):.1f}"
    return f"{MINUS if value < 0 and float(text) else ''}{text}"


def interval(number: Mapping[str, Any]) -> str:
    """Return the interval of a share in words: ``95 % interval 79.2 to 86.1 %``."""
    return f"{100 * number['level']:.0f}{SPACE}% interval {span(number)}"


def span(number: Mapping[str, Any]) -> str:
    """Return the ends of an interval: ``79.2 to 86.1 %``."""
    return f"{100 * number['low']:.1f} to {percent(number['high'])}"


def outcome_title(outcome: str) -> str:
    """Return the outcome as a heading."""
    return {
        "repaired": "Repaired",
        "nothing found": "Nothing found to repair",
        "evidence": "Evidence of a backdoor",
        "no evidence": "No evidence found",
    }.get(outcome, "Inconclusive")


def outcome_statement(outcome: str, pruned: int, total: int, *, tuned: bool) -> str:
    """Return what the outcome says, and what it does not."""
    if outcome == "repaired":
        fitted = " The weights were then fitted to clean images." if tuned else ""
        return (
            f"{pruned:,} of {total:,} units were pruned.{fitted} This report is the evidence for that "
            "choice; it neither proves that the network had a backdoor nor that it has none now."
        )
    if outcome == "nothing found":
        return (
            "No unit was pruned and the weights are as they came. This is not a statement that the network "
            "is clean: a backdoor that this method does not expose looks the same."
        )
    return (
        "No unit was pruned and the weights are as they came, because the evidence did not allow a decision. "
        "The notes say why. Treat the network as you did before."
    )


def verdict_statement(verdict: Verdict, trigger: Mapping[str, Any] | None) -> str:
    """Return what a verdict says, and what it does not."""
    if trigger is not None:
        caused = "any change of answer" if trigger["label"] is None else f"class {_class(trigger)}"
        alone = any(check.stands_out_alone(verdict.point) for check in verdict.checks)
        smaller = (
            "far smaller than such triggers are for other classes"
            if alone
            else "smaller than such triggers are for other classes, and unlearning points to the same label"
        )
        return (
            f"A trigger that causes {caused} is {smaller}. A planted backdoor looks like that; so does a "
            f"class that the network tells by a small mark. {trigger['statement']}"
        )
    if verdict.conclusion == "no evidence":
        return (
            "No trigger that was searched for is anomalously small. This is not a statement that the network "
            "is clean: a backdoor that no check here exposes looks the same."
        )
    return "No check could decide; each says why. Treat the network as you did before."


def loss_statement(loss: Mapping[str, Any]) -> str:
    """Return how the loss of accuracy compares with the budget."""
    if loss["value"] is None:
        return "No image was left to measure the loss of clean accuracy."
    measured = (
        f"Clean accuracy fell by {points(loss['value'])} points "
        f"({100 * loss['level']:.0f}{SPACE}% interval {points(loss['low'])} to {points(loss['high'])}); "
    )
    if loss["budget"] >= 1:
        return f"{measured}no budget limited the pruning."
    measured += f"the budget is {points(loss['budget'])} points."
    if loss["value"] > loss["budget"]:
        if loss["low"] > loss["budget"]:
            return f"{measured} The loss exceeds the budget."
        return (
            f"{measured} The measured loss exceeds the budget, though by no more than chance can explain on "
            f"{loss['n']:,} images: the lower end of the interval, which limits the pruning, is within it."
        )
    if loss["upper_end_exceeds_budget"]:
        return (
            f"{measured} The upper end of the interval exceeds the budget: on {loss['n']:,} images "
            "a loss above the budget cannot be ruled out."
        )
    return f"{measured} The whole interval is within the budget."


def _class(found: Mapping[str, Any]) -> str:
    """Return a label with its name, if it has one."""
    return f"{found['label']}" if found["name"] is None else f"{found['label']} ({found['name']})"


def trigger_statement(trigger: Mapping[str, Any]) -> str:
    """Return what the inverted trigger is, in plain words."""
    what = {
        "patch": f"A patch of {trigger['norm']:.1f} pixels",
        "additive": f"A pattern of Euclidean norm {trigger['norm']:.1f} that is added to all pixels",
        "shift": f"A shift of early channels by {trigger['norm']:.1f} of their standard deviations",
        "outlasting": "A pattern that is added to all pixels, and that had to grow only "
        f"{trigger['norm']:.2f} times once the network forgot the class,",
    }[trigger["kind"]]
    does = "changes the answer to" if trigger["label"] is None else f"gives class {_class(trigger)} to"
    return f"{what} {does} {percent(trigger['success'])} of other images, held out from its making."


def label_statement(labels: Mapping[str, Any]) -> str:
    """Return which label unlearning reveals, how clearly, and whether the last layer says the same."""
    part = f"{percent(labels['score'])} of the answers that became wrong while forgetting"
    if labels["label"] is None:
        return f"No dominant label: no class got more than {part}."
    rows = {
        True: "the last layer's weights point to the same class",
        False: "the last layer's weights do not point to the same class",
        None: "whether the last layer's weights point to the same class is not known: there are too few "
        "classes, or not one row of weights for each",
    }[labels["seconded"]]
    return f"{part} went to class {_class(labels)}; {rows}."


def exposure_statement(exposure: Mapping[str, Any], *, confirmed: bool | None) -> str:
    """Return what the revealed label means, in plain words.

    `confirmed` says whether the trigger that was inverted is for the dominant label; None if one of them is
    missing.
    """
    labels = exposure["labels"]
    if labels is None:
        return f"{NOTHING_LOST} Nothing can be said of any label."
    sentences = [
        labels["statement"],
        "Counted is what a class gains beyond the answers that it loses itself, over the whole of "
        f"unlearning: nothing if errors are spread evenly. A label dominates beyond {percent(DOMINANT)}.",
    ]
    if not exposure["reached"]:
        sentences.append(
            "Unlearning ended before the accuracy fell to the level asked for: fewer answers became wrong."
        )
    if labels["label"] is None:
        sentences.append(
            "Networks without a backdoor mostly have no dominant label; backdoors that send each class "
            "elsewhere, or that act only on images of some classes, may have none either."
        )
    else:
        sentences.append(
            "The label alone is no verdict: a clean network may have a dominant label too. "
            + {
                None: "It says which class to suspect if there is a backdoor.",
                True: "The trigger that was inverted is for the same class.",
                False: "The trigger that was inverted does not point to this class, and says more.",
            }[confirmed]
        )
    return " ".join(sentences)


UNLEARNING = "Unlearning: the class to which the answers go that become wrong"
NOTHING_LOST = "The network lost no answer while it was made to forget its task."
SEARCHES: Mapping[Kind, str] = {
    "patch": "Trigger inversion: a patch for every label",
    "change": "Trigger inversion: a patch that changes any answer",
    "shift": "Trigger inversion: a shift of early channels for every label",
    "outlasting": "Forgetting: how much a pattern for every label must grow once its class is forgotten",
}
REASONS: Mapping[Reason, str] = {
    "no normalisation": "It is only tried on networks with normalisation layers, and this one has none.",
    "too many classes": "The network has too many classes to invert a trigger for each.",
    "found before": "A trigger of another kind had stood out already.",
    "one label": "Unlearning points to one label, and a trigger for that changes any answer, too.",
    "left out": "The settings of this method leave it out.",
    "not converged": "Too few triggers converged (there must be three) to tell which of them is small.",
}
EMPTY: Mapping[str, Any] = {"support": 1.0, "stands_out": False, "sizes": None}
NEVER_RUN: Mapping[str, Any] = {
    "check": "Inspection of the architecture's code and graph for added branches",
    "ran": False,
    "strength": None,
    "statement": NOT_IMPLEMENTED + " Read the architecture's source before trusting it.",
    **EMPTY,
}


def unlearning_check(labels: Mapping[str, Any] | None, *, unlearned: bool, diverged: bool) -> str:
    """Return what unlearning came to."""
    if not unlearned:
        return "This work did not unlearn the network, or its kind reveals nothing reliable that way."
    if diverged:
        return "Unlearning diverged, so what the network answers means nothing."
    if labels is None:
        return NOTHING_LOST
    told = (
        "No label dominates: the highest score is"
        if labels["label"] is None
        else f"Label {_class(labels)} dominates: its score is"
    )
    return (
        f"{told} {labels['score']:.2f}, a strength of {labels['strength']:.2f}, and a label dominates beyond "
        "1. This is a hint; only triggers are evidence."
    )


def search_check(check: Check, trigger: Mapping[str, Any] | None, point: float) -> str:
    """Return what one search for triggers found, or why there was none."""
    if check.strength is None or trigger is None:
        return REASONS[check.reason or "not converged"]
    owed = (
        f" ({check.strength / check.support:.2f} times {check.support:.2f}, because unlearning points to the "
        "same label)"
        if check.support > 1
        else ""
    )
    return (
        f"{trigger_statement(trigger)} Its strength is {check.strength:.2f}{owed}; a trigger stands out "
        f"beyond {point:.2f}."
    )


SIZES: Mapping[Kind, str] = {
    "patch": "pixels",
    "change": "pixels",
    "shift": "standard deviations of early channels",
    "outlasting": "multiples of its size before",
}
"""What sizes of triggers are measured in."""


def needs_trigger(*, evaluated: bool) -> list[Mapping[str, Any]]:
    """Return the measurements that only someone who knows the trigger can make, unless they were made."""
    reasons = {
        "Attack success rate (ASR) before and after": TRIGGER_NEEDED,
        "Accuracy on triggered images (RA)": TRIGGER_NEEDED,
        "Accuracy on images that the network never saw": "Only the clean images given were available, and "
        "they may be training images.",
    }
    return [
        {"check": check, "ran": False, "strength": None, "statement": reason, **EMPTY}
        for check, reason in reasons.items()
        if not evaluated
    ]
