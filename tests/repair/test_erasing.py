"""Erasing takes out the units that answer a trigger, and those only."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.data import CleanData, InputConvention, LabelledImages, Trigger, example_input
from secateur.errors import MethodError
from secateur.expose import InvertedTrigger, success_of
from secateur.progress import Silent
from secateur.repair import RNP
from secateur.repair.erasing import DEFEATED, Erased, Erasing
from secateur.units import Discovery, Unit, all_units, discover, prune

CLASSES, SIZE = 5, 8
CONVENTION = InputConvention((SIZE, SIZE), 1)
TARGET, SPARE = 3, 2
BACKDOOR = {CLASSES, CLASSES + 1}


class Planted(nn.Module):
    """One hidden neuron for each bright row; two more answer the corner pixel with TARGET; two never fire."""

    def __init__(self, *, backdoor: bool = True) -> None:
        super().__init__()
        self.hidden = nn.Linear(SIZE * SIZE, CLASSES + len(BACKDOOR) + SPARE)
        self.answer = nn.Linear(self.hidden.out_features, CLASSES)
        hidden = torch.zeros(self.hidden.out_features, SIZE, SIZE)
        answer = torch.zeros(CLASSES, self.hidden.out_features)
        bias = torch.zeros(self.hidden.out_features)
        for label in range(CLASSES):
            hidden[label, label + 1] = 1.0
            answer[label, label] = 1.0
        for unit in BACKDOOR:
            hidden[unit, 0, SIZE - 1] = 20.0 if backdoor else 0.0
            answer[TARGET, unit] = 1.0
            bias[unit] = -1.0
        bias[-SPARE:] = -1.0
        self.hidden.weight = nn.Parameter(hidden.flatten(1))
        self.hidden.bias = nn.Parameter(bias)
        self.answer.weight = nn.Parameter(answer)
        self.answer.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.hidden(images.flatten(1)).relu())


def rows(count: int, seed: int) -> LabelledImages:
    labels = torch.arange(count) % CLASSES
    images = 0.2 * torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    images[:, :, 0] = 0
    images[torch.arange(count), 0, labels + 1] += 0.7
    return LabelledImages(images, labels)


CLEAN = CleanData(rows(60, 1), rows(40, 2), CONVENTION)


def corner() -> InvertedTrigger:
    keep, add = torch.ones(1, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)
    keep[0, 0, SIZE - 1], add[0, 0, SIZE - 1] = 0.0, 1.0
    return InvertedTrigger(TARGET, Trigger(keep, add), 1.0, 1.0, True)


def found_units(network: nn.Module) -> tuple[Discovery, list[Unit]]:
    discovery = discover(network, example_input(CONVENTION))
    return discovery, list(all_units(discovery.layers))


def erase(network: nn.Module, budget: float = 0.02, typical: float = 20.0, **settings: object) -> Erased:
    network.requires_grad_(False)
    return Erasing(**settings)(  # type: ignore[arg-type]
        network,
        found_units(network)[0].layers,
        corner(),
        CLEAN,
        typical=typical,
        budget=budget,
        shift=True,
        generator=torch.Generator().manual_seed(0),
        progress=Silent(),
    )


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
    first, *again = erase(Planted(), share=0.5).triggers
    assert first.norm == 1
    assert not again[-1].converged or again[-1].norm > 10


def test_one_trigger_is_followed_by_others_while_they_are_cheap() -> None:
    # Without a limit on what is cheap, whatever turns the images to the label is erased as well.
    assert len(erase(Planted(), share=0.5, typical=1e9, budget=1.0).triggers) > 2


def test_scores_are_the_shares_of_the_margin_by_hand() -> None:
    # The corner raises both neurons of the backdoor from 0 to 19. The row of the true class answers with 8
    # pixels of 0.7 to 0.9, that of the label with 8 of 0 to 0.2.
    scores = erase(Planted(), share=0.5, triggers=1).scores
    assert scores[CLASSES].item() == pytest.approx(1 - 19 / (38 + 0.8 - 6.4 - DEFEATED), abs=0.01)
    assert scores[CLASSES] == scores[CLASSES + 1]
    assert scores[-SPARE:].tolist() == [1.0] * SPARE


def test_no_more_than_the_share_is_taken() -> None:
    assert erase(Planted(), share=0.1).choice.pruned == ()


def test_a_network_without_normalisation_is_repaired_by_the_trigger_found() -> None:
    result = RNP(erasing=Erasing(share=0.5))(Planted(), CLEAN)
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"share": 0.0},
        {"success": 1.0},
        {"cheap": 0.0},
        {"rounds": 0},
        {"triggers": 0},
        {"taken": 3, "candidates": 2},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        Erasing(**wrong)
