"""A successor takes less than triggers for other labels do on the same network, or it is none."""

from typing import Any

import pytest
import torch
from torch import nn

from planted import BACKDOOR, CLASSES, PLANTED, SIZE, TARGET, Normed, Planted, case_of, corner, found_units
from secateur.errors import MethodError
from secateur.expose import (
    Found,
    Inversion,
    InvertedTrigger,
    LatentInversion,
    LatentTrigger,
    Succeeding,
    Successors,
)
from secateur.progress import Silent
from secateur.units import prune

OTHERS = tuple(
    InvertedTrigger(k, corner().trigger, 10.0 + k, 1.0, True) for k in range(CLASSES) if k != TARGET
)


class Blind(Inversion):
    """Never converges."""

    def __call__(self, *args: Any, labels: Any, **kwargs: Any) -> tuple[InvertedTrigger, ...]:
        return tuple(InvertedTrigger(label, corner().trigger, 1.0, 0.0, False) for label in labels)


class Counting(Silent):
    """Counts inversions."""

    def __init__(self) -> None:
        self.inversions = 0

    def start(self, stage: str, total: int) -> None:
        self.inversions += stage == "inverting"


def successors(
    network: nn.Module,
    found: Found | None = None,
    *,
    shift: bool = True,
    progress: Silent | None = None,
    **settings: Any,
) -> Successors:
    network.eval().requires_grad_(False)
    found = found or corner()
    settings = {"starts": 2, "compared": 3, **settings}
    return Successors(
        Succeeding(**settings), case_of(network, progress), found, [found, *OTHERS], shift=shift
    )


def test_a_backdoor_that_is_still_there_is_cheap() -> None:
    found = successors(Planted())
    assert {trigger.label for trigger in found.cheap(Planted().requires_grad_(False), pruned=0)} == {TARGET}
    assert found.looks[0].smallest.norm < 2


def test_what_is_no_evidence_may_be_doubtful() -> None:
    network = Planted()
    look = successors(network, cheap=1e-6, doubtful=1.0)
    assert look.cheap(network, pruned=0) == []
    assert {trigger.label for trigger in look.doubtful} == {TARGET}


def test_once_it_is_pruned_nothing_is_cheap() -> None:
    network = Planted().requires_grad_(False)
    discovery, units = found_units(network)
    look = successors(network)
    assert look.cheap(prune(network, discovery.layers, [units[k] for k in BACKDOOR]), pruned=2) == []
    # The label is now as hard to reach as it is without a backdoor.
    (seen,) = look.looks
    assert seen.smallest.norm > 4
    assert (seen.pruned, seen.polished, seen.cheap) == (2, False, False)
    assert seen.smallest.norm > 0.75 * seen.typical


def test_where_every_label_takes_less_none_is_cheap() -> None:
    look, network = successors(Planted(backdoor=False)), Planted(backdoor=False)
    with torch.no_grad():
        rows = network.hidden.weight.view(-1, SIZE, SIZE)
        for label in range(CLASSES):
            rows[label, label + 1, :2] = 20.0
    network.eval().requires_grad_(False)
    assert look.cheap(Planted(backdoor=False).requires_grad_(False), pruned=0) == []
    cheap = look.cheap(network, pruned=0)
    assert {trigger.label for trigger in cheap} == {TARGET}
    assert look.cheap_on(network, cheap) == []
    backdoored = Planted().requires_grad_(False)
    assert look.cheap_on(backdoored, look.cheap(backdoored, pruned=0))


def test_what_patches_miss_is_looked_for_among_shifts() -> None:
    network = Normed()
    look = successors(network, inversion=Blind())
    cheap = look.cheap(network, pruned=0)
    assert cheap
    for trigger in cheap:
        assert isinstance(trigger, LatentTrigger)
        (shift,) = trigger.shifts.values()
        assert int(shift.abs().argmax()) == PLANTED
    assert [isinstance(trigger, LatentTrigger) for trigger in (one.smallest for one in look.looks)] == [
        False,
        True,
    ]
    assert successors(network, inversion=Blind(), shift=False).cheap(network, pruned=0) == []


def test_the_kind_of_the_trigger_found_comes_first() -> None:
    network = Normed()
    look = successors(network, LatentTrigger(TARGET, {}, 1.0, 1.0, True))
    assert all(isinstance(trigger, LatentTrigger) for trigger in look.cheap(network, pruned=0))
    assert len(look.looks) == 1


def test_without_the_backdoor_no_kind_is_cheap() -> None:
    network = Normed(strength=0.0)
    assert successors(network, latent=LatentInversion(precision="float32")).cheap(network, pruned=0) == []


class Known(Inversion):
    """Finds patches of ten pixels and one more for each label, and of nine for any answer."""

    def __call__(self, *args: Any, labels: Any, **kwargs: Any) -> tuple[InvertedTrigger, ...]:
        norms = (9.0 if label is None else 10.0 + label for label in labels)
        return tuple(InvertedTrigger(None, corner().trigger, norm, 1.0, True) for norm in norms)


def test_what_changes_any_answer_is_compared_with_the_easiest_labels() -> None:
    found = InvertedTrigger(None, corner().trigger, 5.0, 1.0, True)
    network = Planted().requires_grad_(False)
    # The least of the other labels takes 10 pixels, the median of the three smallest 11 or more.
    for doubtful, taken in ((0.89, 0), (0.91, 2)):
        look = successors(
            network, found, shift=False, inversion=Known(), changing=Known(), cheap=0.5, doubtful=doubtful
        )
        assert look.cheap(network, pruned=0) == []
        assert len(look.doubtful) == taken


def test_other_labels_are_compared_with_once() -> None:
    network, progress = Planted(), Counting()
    look = successors(network, progress=progress)
    look.cheap(network, pruned=0)
    # The other labels all at once.
    assert progress.inversions == 2 + 1
    look.cheap(network, pruned=0)
    assert progress.inversions == 2 + 1 + 2


def test_the_trigger_found_comes_with_others_of_its_kind() -> None:
    network = Planted()
    look = successors(network)
    found, other = look.beside(network)
    assert found.norm == 1
    assert other.label == TARGET
    assert look.looks == []


@pytest.mark.parametrize("wrong", [{"starts": 0}, {"compared": 0}, {"cheap": 0.0}, {"doubtful": 1.1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        Succeeding(**wrong)
