"""Erasing takes out the units that carry a trigger, and those only, until no other is cheap."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from planted import BACKDOOR, CLASSES, CLEAN, CONVENTION, SPARE, TARGET, Planted, case_of, corner, found_units
from secateur.data import example_input
from secateur.errors import MethodError
from secateur.expose import Exposed, Findings, Inversion, InvertedTrigger, LabelScores, Succeeding, success_of
from secateur.repair.dominance import Dominance
from secateur.repair.erased import Erased, Improving
from secateur.repair.erasing import IMPROVEMENTS, Erasing
from secateur.repair.trials import Trials
from secateur.units import prune


def erase(
    network: nn.Module,
    budget: float = 0.02,
    pointed: Dominance | None = None,
    improve: Improving | None = None,
    **settings: object,
) -> Erased:
    found, case, erasing = corner(), case_of(network), Erasing(**settings)  # type: ignore[arg-type]
    others = [replace(found, label=label, norm=10.0) for label in range(CLASSES) if label != TARGET]
    erased = erasing(case, found, triggers=[found, *others], budget=budget, shift=True, pointed=pointed)
    return erasing.improved(case, erased, improve, budget=budget, shift=True) if improve else erased


def test_the_units_of_the_trigger_are_taken_and_the_clean_task_stays() -> None:
    network = Planted()
    discovery, units = found_units(network)
    erased = erase(network, share=0.5)
    assert set(erased.choice.pruned) == BACKDOOR
    assert erased.scores[list(BACKDOOR)].max() < 0.6
    assert 0 <= erased.scores.min() <= erased.scores.max() <= 1
    pruned = prune(network, discovery.layers, [units[k] for k in erased.choice.pruned])
    assert success_of(network, corner().trigger, TARGET, CLEAN.choose, CONVENTION) == 1
    assert success_of(pruned, corner().trigger, TARGET, CLEAN.choose, CONVENTION) == 0
    assert erased.choice.curve[erased.choice.chosen].loss.value == 0


def test_it_ends_when_another_inversion_finds_nothing_cheap() -> None:
    erased = erase(Planted(), share=0.5)
    first, *again = erased.triggers
    assert first.norm == 1
    assert erased.defeated[0] is first
    assert not {id(trigger) for trigger in (*erased.defeated, *erased.doubtful)} & {
        id(trigger) for trigger in again
    }
    assert not again[-1].converged or again[-1].norm > 4
    assert erased.settled


def leaning() -> Planted:
    """Return a network whose label takes a little less than others also without the backdoor."""
    network = Planted()
    network.answer.bias.data[TARGET] = 0.8
    return network


def test_one_trigger_is_followed_by_others_while_they_are_cheap() -> None:
    # Without a limit on what is cheap, whatever turns the images to the label is erased as well.
    scattered = Inversion(steps=400, rate=0.2, batch_size=16)
    succeeding = Succeeding(cheap=1.0, doubtful=1.0, inversion=scattered)
    erased = erase(leaning(), share=0.5, succeeding=succeeding, budget=1.0)
    assert len(erased.triggers) > 2
    assert id(erased.triggers[1]) in {id(trigger) for trigger in erased.defeated}


def test_for_what_is_doubtful_no_unit_is_taken_out() -> None:
    scattered = Inversion(steps=400, rate=0.2, batch_size=16)
    succeeding = Succeeding(doubtful=1.0, inversion=scattered)
    erased = erase(leaning(), share=0.5, succeeding=succeeding, budget=1.0)
    assert set(erased.choice.pruned) == BACKDOOR
    assert id(erased.triggers[1]) in {id(trigger) for trigger in erased.doubtful}
    assert erased.settled


def test_it_is_not_settled_before_others_were_looked_for() -> None:
    assert not erase(Planted(), share=0.5, rounds=1).settled


class Naive:
    """Proposes the same choices every time."""

    def __init__(self, *choices: set[int]) -> None:
        self.choices, self.begun = [sorted(choice) for choice in choices], list[set[int]]()

    def __call__(
        self, trials: Trials, held: Callable[[], Trials], kept: Sequence[int], carried: Tensor, *, most: int
    ) -> list[list[int]]:
        self.begun.append(set(kept))
        return self.choices


def test_a_choice_is_taken_if_no_trigger_is_cheap_without_it() -> None:
    choice = BACKDOOR | {len(found_units(Planted())[1]) - SPARE}
    improve = Naive(choice)
    erased = erase(Planted(), share=0.5, rounds=1, improve=improve)
    assert improve.begun == [BACKDOOR]
    assert set(erased.choice.kept) == choice
    assert erased.settled
    assert len(erased.triggers) > 1


def test_what_lets_a_trigger_through_is_not_taken_and_the_search_is_told() -> None:
    improve = Naive({min(BACKDOOR)})
    erased = erase(Planted(), share=0.5, improve=improve)
    assert improve.begun == [BACKDOOR] * IMPROVEMENTS
    assert set(erased.choice.kept) == BACKDOOR
    assert len(erased.defeated) > 1
    # The last look was at another network.
    assert not erased.settled


def test_of_better_choices_the_first_that_can_be_paid_is_taken() -> None:
    spare = len(found_units(Planted())[1]) - SPARE
    # Without the units of two classes two fifths of the images are lost.
    dear = BACKDOOR | {0, 1}
    erased = erase(Planted(), share=0.5, rounds=1, improve=Naive(dear, BACKDOOR | {spare}))
    assert set(erased.choice.pruned) == set(erased.choice.kept) == BACKDOOR | {spare}
    assert erased.settled
    # What was taken out before stays where nothing better can be paid.
    erased = erase(Planted(), share=0.5, improve=Naive(dear))
    assert set(erased.choice.pruned) == BACKDOOR
    assert erased.settled


def improved(found: InvertedTrigger, kept: Sequence[int], improve: Improving) -> Erased:
    others = [replace(found, label=label, norm=10.0) for label in range(CLASSES) if label != TARGET]
    case, erasing = case_of(Planted()), Erasing(share=0.25)
    begun = erasing.taken_over(case, found, kept, triggers=[found, *others], budget=0.02, shift=True)
    return erasing.improved(case, begun, improve, budget=0.02, shift=True)


def test_it_goes_on_from_units_taken_out_in_another_way() -> None:
    kept = [min(BACKDOOR), len(found_units(Planted())[1]) - SPARE]
    found, improve = corner(), Naive(BACKDOOR)
    erased = improved(found, kept, improve)
    assert improve.begun == [set(kept)]
    assert set(erased.choice.pruned) == BACKDOOR
    assert erased.settled
    assert erased.defeated == (found,)
    assert erased.scores[list(BACKDOOR)].max() < 0.6


def test_it_goes_on_from_what_can_be_paid() -> None:
    # Without the units of two classes two fifths of the images are lost.
    dear = [*sorted(BACKDOOR), 0, 1]
    better = BACKDOOR | {len(found_units(Planted())[1]) - SPARE}
    improve = Naive(better)
    erased = improved(corner(), dear, improve)
    assert improve.begun == [BACKDOOR]
    assert set(erased.choice.pruned) == better
    # What could not be paid is still told where nothing better is found.
    erased = improved(corner(), dear, Naive(BACKDOOR))
    assert set(erased.choice.pruned) == BACKDOOR
    assert set(erased.choice.kept) == set(dear)


def test_units_that_the_trigger_does_not_need_come_back() -> None:
    # With both neurons of the backdoor goes the label's own, which lowers its margin as well.
    erased = erase(Planted(), share=0.5, taken=3, rounds=1)
    assert erased.scores[TARGET] < 1
    assert set(erased.choice.kept) == BACKDOOR
    assert [point.pruned for point in erased.choice.curve] == [0, 2]


def test_scores_are_the_shares_of_the_margin_by_hand() -> None:
    # The corner raises both neurons of the backdoor from 0 to 19; without them images are as clean ones.
    scores = erase(Planted(), share=0.5, succeeding=Succeeding(starts=1)).scores
    assert scores[CLASSES].item() == pytest.approx(1 - 19 / 38, abs=0.01)
    assert scores[CLASSES] == scores[CLASSES + 1]
    assert scores[-SPARE:].tolist() == [1.0] * SPARE


def test_what_only_the_unlearned_network_shows_is_taken_as_well() -> None:
    network = Planted()
    dormant = network.hidden.out_features - 1
    with torch.no_grad():
        network.answer.weight[TARGET, dormant] = 1.0
    unlearned = deepcopy(network).requires_grad_(False)
    unlearned.hidden.bias[dormant] = 20.0
    shown = Dominance(TARGET, unlearned)
    assert dormant not in erase(network, share=0.5).choice.pruned
    assert set(erase(network, share=0.5, pointed=shown).choice.pruned) == {*BACKDOOR, dormant}


def test_the_unlearned_network_shows_the_label_that_gains_most() -> None:
    def exposed(unlearned: nn.Module | None, gained: float = 0.9) -> Exposed:
        scores = LabelScores(tuple(gained if k == 2 else 0.0 for k in range(CLASSES)), None)
        return Exposed(None, unlearned, Findings(None, ()), {}, (), scores)

    network = nn.Sequential(Planted(), nn.Softmax(1))
    example = example_input(CONVENTION)
    with Dominance.of(exposed(network), example) as found:
        assert found is not None
        assert (found.label, found.unlearned, found.share) == (2, network, 0.5)
        assert torch.equal(network(example), network[0](example))
    assert float(network(example).sum()) == pytest.approx(1)
    with Dominance.of(exposed(network, 0.25), example) as found:
        assert found is not None
        assert found.share == pytest.approx(0.125)
    for nothing in (exposed(None), replace(exposed(network), labels=None)):
        with Dominance.of(nothing, example) as found:
            assert found is None


def test_no_more_than_the_share_is_taken() -> None:
    assert erase(Planted(), share=0.1).choice.pruned == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"share": 0.0},
        {"success": 1.0},
        {"price": -1.0},
        {"rounds": 0},
        {"taken": 3, "candidates": 2},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        Erasing(**wrong)
