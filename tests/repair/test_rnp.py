"""RNP on a network with a planted backdoor, and what it promises for any network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from planted import CLEAN, Normed
from secateur.errors import MethodError
from secateur.expose import Inversion, Search
from secateur.repair import RNP, Recovering, Repair, create
from secateur.repair.erasing import Erasing
from secateur.units import Recipe
from tiny import accuracy_and_success, backdoored, clean

SHIFTS = Search(patches=Inversion(steps=1), changing=Inversion(steps=1))
"""Patches are not found, so that shifts are looked for."""


def repair(network: nn.Module, seed: int = 0, preset: str = "default", **settings: object) -> Repair:
    method = create("rnp", preset, **settings)
    return method(network, clean(), generator=torch.Generator().manual_seed(seed))


def test_the_planted_backdoor_is_pruned_and_the_clean_task_stays() -> None:
    network = backdoored()
    accuracy, success = accuracy_and_success(network)
    assert accuracy > 0.95
    assert success > 0.95
    result = repair(network, share=0.4)
    repaired_accuracy, repaired_success = accuracy_and_success(result.network)
    assert result.outcome == "repaired"
    assert repaired_success < success - 0.5
    assert repaired_accuracy > accuracy - 0.1


def test_a_seed_repeats_bit_for_bit() -> None:
    first, again = repair(backdoored(0.2), 3), repair(backdoored(0.2), 3)
    assert torch.equal(first.scores, again.scores)
    assert first.recipe == again.recipe


class Wrapped(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.kind = backdoored(), kind
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.softmax(self.body(x)) if self.kind == "module" else self.body(x).softmax(1)


def test_a_softmax_inside_does_not_hide_the_backdoor() -> None:
    plain = repair(backdoored(), polishing=None)
    inside = repair(Wrapped("module"), polishing=None)
    assert torch.equal(plain.scores, inside.scores)
    function = repair(Wrapped("function"), polishing=None)
    # What is learned on the way amplifies rounding.
    assert torch.corrcoef(torch.stack([plain.scores, function.scores]))[0, 1] > 0.95


class Remembering(nn.Module):
    """Flattens with view, keeps an activation, and knows its norms under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = backdoored()
        self.norms = nn.ModuleList([self.body.bn1, self.body.bn2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        body = self.body
        x = F.max_pool2d(F.relu(body.bn1(body.conv1(x))), 2)
        self.seen = x
        x = F.max_pool2d(F.relu(body.bn2(body.conv2(x))), 2)
        return body.head(x.view(x.size(0), -1))


def test_networks_that_flatten_with_view_or_keep_activations_are_repaired() -> None:
    result = repair(Remembering(), search=SHIFTS)
    assert accuracy_and_success(result.network)[1] < 0.5
    assert repair(Remembering(), search=None).outcome == "repaired"


def test_a_trigger_whose_units_cannot_be_pruned_is_not_nothing() -> None:
    result = RNP(erasing=Erasing(share=1e-6))(Normed(), CLEAN)
    assert result.trigger is not None
    assert not result.recipe.units
    assert result.outcome == "inconclusive"
    assert any("weakens the trigger" in note for note in result.notes)


def test_where_no_label_dominates_masks_prune_only_if_asked_to() -> None:
    network, masks = Normed(strength=0.0), Recovering(passes=2)
    settings = {"search": None, "recovering": masks, "threshold": 1.0, "spare": None}
    left = RNP(**settings)(network, CLEAN)
    assert (left.outcome, left.recipe.units) == ("nothing found", ())
    assert torch.equal(left.scores, torch.ones(left.discovery.total))
    assert any("points to no label" in note for note in left.notes)
    assert RNP(dominant=False, budget=1.0, **settings)(network, CLEAN).recipe.units


def test_the_preset_paper_prunes_the_norm_weights_whose_last_mask_is_low() -> None:
    result = repair(backdoored(), preset="paper", threshold=0.6)
    assert result.recipe.gamma_only
    low = int((result.scores <= 0.6).sum())
    assert len(result.recipe.units) == low > 0
    for scored in result.recipe.units:
        module = result.network.get_submodule(scored.unit.layer)
        assert module.weight[scored.unit.index] == 0
        assert (
            module.bias[scored.unit.index]
            == backdoored().get_submodule(scored.unit.layer).bias[scored.unit.index]
        )


def test_a_network_without_units_is_refused() -> None:
    with pytest.raises(MethodError, match="no unit"):
        repair(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 1.5},
        {"budget": -0.1},
        {"budget": 2.0},
        {"spare": -1.0},
        {"original": 2.0},
        {"share": 1.2},
    ],
)
def test_hyperparameters_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError):
        RNP(**settings)  # type: ignore[arg-type]
    with pytest.raises(MethodError):
        Recovering(rate=0.0)


def test_the_recipe_leads_from_the_original_to_the_repaired_weights() -> None:
    network = backdoored()
    result = repair(network, polishing=None)
    recipe = Recipe.from_json(result.recipe.to_json())
    rebuilt = recipe.apply(network.state_dict())
    repaired = result.network.state_dict()
    assert rebuilt.keys() == repaired.keys()
    assert all(torch.equal(rebuilt[name], repaired[name]) for name in rebuilt)
