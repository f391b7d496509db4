"""The sentences of a report: what its numbers mean, and what they do not."""

from collections.abc import Mapping
from typing import Any

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

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
    "How far to prune was chosen on the same images as the accuracy after the repair, which flatters it a "
    "little. The intervals cover chance in drawing the images, not this choice.",
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
    return {"repaired": "Repaired", "nothing found": "Nothing found to repair"}.get(outcome, "Inconclusive")


def outcome_statement(outcome: str, pruned: int, total: int) -> str:
    """Return what the outcome says, and what it does not."""
    if outcome == "repaired":
        return (
            f"{pruned:,} of {total:,} units were pruned. This report is the evidence for that choice; "
            "it neither proves that the network had a backdoor nor that it has none now."
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
    what = (
        f"A patch of {trigger['norm']:.1f} pixels"
        if trigger["kind"] == "patch"
        else f"A shift of early channels by {trigger['norm']:.1f} of their standard deviations"
    )
    does = "changes the answer to" if trigger["label"] is None else f"gives class {_class(trigger)} to"
    return f"{what} {does} {percent(trigger['success'])} of other images, held out from its making."


def exposure_statement(exposure: Mapping[str, Any], *, confirmed: bool | None) -> str:
    """Return how strong the revealed label is, in plain words.

    `confirmed` says whether the trigger that was inverted is for the same label; None if there is none.
    """
    share, runner_up = exposure["share"], exposure["runner_up"]
    sentences = [
        f"After unlearning, the network answers class {_class(exposure)} for {percent(share['value'])} of "
        f"{share['n']:,} clean images ({interval(share)}).",
    ]
    if runner_up is not None:
        clear = share["low"] > runner_up["high"]
        sentences.append(
            f"The next class takes {percent(runner_up['value'])}; "
            + (
                "the two intervals are apart."
                if clear
                else "the two intervals overlap, so the label is not reliable."
            )
        )
    if not exposure["reached"]:
        sentences.append(
            "Unlearning ended before the accuracy fell to the level asked for, which makes the label weaker."
        )
    sentences.append(
        "The label alone is no verdict: a clean network that is made to forget its task also collapses to "
        "some class. "
        + {
            None: "It says which class to suspect if there is a backdoor.",
            True: "The trigger that was inverted is for the same class.",
            False: "The trigger that was inverted does not point to this class, and decided what to prune.",
        }[confirmed]
    )
    return " ".join(sentences)


def not_run(*, unlearned: bool, diverged: bool, inverted: bool, evaluated: bool) -> list[dict[str, str]]:
    """Return the checks that a reader may expect, and why they were not made."""
    checks = []
    if not evaluated:
        checks += [
            {"check": "Attack success rate (ASR) before and after", "reason": TRIGGER_NEEDED},
            {"check": "Accuracy on triggered images (RA)", "reason": TRIGGER_NEEDED},
            {
                "check": "Accuracy on images that the network never saw",
                "reason": "Only the clean images given were available, and they may be training images.",
            },
        ]
    if not unlearned:
        checks.append(
            {"check": "Exposure of the target label", "reason": "This repair did not unlearn the network."}
        )
    if diverged:
        checks.append(
            {
                "check": "Exposure of the target label",
                "reason": "Unlearning diverged, so what the network answers means nothing.",
            }
        )
    if not inverted:
        checks.append(
            {
                "check": "Trigger inversion (reconstructing the trigger from the network)",
                "reason": "This repair did not invert triggers.",
            }
        )
    checks += [
        {
            "check": "Comparison with networks known to be clean",
            "reason": "None were given; without them, how unusual the revealed label is remains unknown.",
        },
        {
            "check": "Inspection of the architecture's code and graph for added branches",
            "reason": NOT_IMPLEMENTED + " Read the architecture's source before trusting it.",
        },
    ]
    return checks
