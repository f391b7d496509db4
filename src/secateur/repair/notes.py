"""What a repair tells the user of the triggers that it found, as sentences."""

from collections.abc import Mapping, Sequence

from secateur.expose import Found, FoundForm, typical_norm
from secateur.repair.choosing import Choice

UNITS: Mapping[FoundForm, str] = {
    "patch": "pixels",
    "additive": "(Euclidean norm)",
    "shift": "standard deviations of early channels",
    "outlasting": "times as much once the network forgot the class",
}
"""What norms of triggers are measured in."""


def found_note(triggers: Sequence[Found], found: Found, done: str) -> str:
    """Say which trigger stood out, how far, and what was `done` about it."""
    named = "that changes any answer" if found.label is None else f"for label {found.label}"
    return (
        f"Triggers were inverted for all labels searched. The one {named} takes {sizes_of([found])} and "
        f"turned {100 * found.success:.0f} % of held-out images; typical others take "
        f"{typical_norm(triggers, found):.1f}. {done}"
    )


def again_notes(triggers: Sequence[Found]) -> list[str]:
    """Say what triggers took that were inverted again on pruned networks, if any was."""
    again = [trigger for trigger in triggers[1:] if trigger.converged]
    return [f"Triggers inverted again on pruned networks take {sizes_of(again)}."] if again else []


def stopped_notes(choice: Choice, budget: float) -> list[str]:
    """Say why no unit was pruned, or not all that carry the triggers."""
    if not choice.kept:
        return ["No unit that may be pruned weakens the trigger."]
    if not choice.pruned:
        return ["No unit could be taken out within the budget."]
    if len(choice.pruned) < len(choice.kept):
        return [
            f"The budget allowed {len(choice.pruned)} of {len(choice.kept)} units that carry the triggers: "
            "what is left of the backdoor may still work."
        ]
    if choice.curve[choice.chosen].loss.low > budget:
        return ["All units that carry the triggers were pruned, although that exceeds the budget."]
    return []


def sizes_of(triggers: Sequence[Found]) -> str:
    """Return the norms of triggers, those of each form apart."""
    sizes: dict[FoundForm, list[str]] = {}
    for trigger in triggers:
        sizes.setdefault(trigger.form, []).append(f"{trigger.norm:.{1 + (trigger.form == 'outlasting')}f}")
    return " and ".join(f"{', '.join(norms)} {UNITS[form]}" for form, norms in sizes.items())


def nothing_small(triggers: Sequence[Found]) -> str:
    """Say that no trigger stood out."""
    converged = sum(trigger.converged for trigger in triggers)
    return (
        f"Of {len(triggers)} triggers inverted, for all labels searched, {converged} converged, and none was "
        "anomalously small."
    )
