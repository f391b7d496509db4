"""Silencing takes out the units that answer a trigger, and those only."""

import pytest
import torch

from planted import BACKDOOR, CLEAN, CONVENTION, TARGET, Planted, case_of, corner, found_units
from secateur.errors import MethodError
from secateur.expose import success_of
from secateur.repair import RNP
from secateur.repair.silencing import Silencing
from secateur.units import prune


def test_the_units_of_the_trigger_are_taken_and_the_clean_task_stays() -> None:
    network = Planted()
    discovery, units = found_units(network)
    choice, scores = Silencing(share=0.5)(case_of(network), corner(), budget=0.02, shift=True)
    assert set(choice.pruned) == BACKDOOR
    assert set(scores.argsort()[: len(BACKDOOR)].tolist()) == BACKDOOR
    assert 0 <= scores.min() <= scores.max() <= 1
    pruned = prune(network, discovery.layers, [units[k] for k in choice.pruned])
    assert success_of(network, corner().trigger, TARGET, CLEAN.choose, CONVENTION) == 1
    assert success_of(pruned, corner().trigger, TARGET, CLEAN.choose, CONVENTION) == 0
    assert choice.curve[choice.chosen].loss.value == 0


def test_no_more_than_the_share_is_taken() -> None:
    network = Planted()
    choice, _ = Silencing(share=0.1)(case_of(network), corner(), budget=0.02, shift=True)
    assert choice.pruned == ()


def test_a_share_of_a_single_unit_is_taken_and_never_one_that_gains_nothing() -> None:
    network = Planted()
    first, second = sorted(BACKDOOR)
    with torch.no_grad():
        network.answer.weight[TARGET, second] = 0.0
    for share in (0.2, 0.5):
        choice, _ = Silencing(share=share)(case_of(network), corner(), budget=0.02, shift=True)
        assert choice.kept == (first,)


def test_a_network_without_normalisation_is_repaired_by_the_trigger_found() -> None:
    result = RNP(silencing=Silencing(share=0.5))(Planted(), CLEAN)
    assert result.outcome == "repaired"
    assert result.exposure is None
    assert result.trigger is not None
    assert result.trigger.label == TARGET
    assert {scored.unit.index for scored in result.recipe.units} <= BACKDOOR
    assert success_of(result.network, corner().trigger, TARGET, CLEAN.choose, CONVENTION) < 0.1


def test_without_a_trigger_that_stands_out_nothing_is_pruned_and_the_note_says_why() -> None:
    network = Planted(backdoor=False)
    result = RNP()(network, CLEAN)
    assert result.outcome == "inconclusive"
    assert result.trigger is None
    assert result.recipe.units == ()
    assert "anomalously small" in result.notes[0]
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), result.network.parameters(), strict=True)
    )


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"temperature": 0.0}, {"share": 0.0}, {"success": 1.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MethodError):
        Silencing(**wrong)
