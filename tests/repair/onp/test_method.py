"""ONP as a repair: what is pruned where a trigger stands out, where none does, and without the extra."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn

from planted import (
    BACKDOOR,
    CLASSES,
    CLEAN,
    CONVENTION,
    PLANTED,
    TARGET,
    Normed,
    Planted,
    Rotated,
    corner,
    found_units,
)
from secateur.data import example_input
from secateur.expose import (
    Case,
    Exposed,
    Exposing,
    Findings,
    Inversion,
    LatentInversion,
    Search,
    Succeeding,
    flushed_denormals,
    success_of,
)
from secateur.progress import Logging, Silent
from secateur.repair import ONP, RNP, Repair
from secateur.repair.chosen import Chosen
from secateur.repair.erasing import Erasing
from secateur.repair.onp import Agent, Graphing
from secateur.repair.onp.graph import build_graph
from secateur.repair.silencing import Silencing
from secateur.units import all_units, connect

QUICK = Agent(hidden=8, evaluations=60, patience=40, rollout=16, batch_size=16, steps=6)
SUCCEEDING = Succeeding(
    Inversion(steps=50), Inversion(steps=100, rate=0.2), latent=LatentInversion(steps=30), starts=1
)


def method(**settings: object) -> ONP:
    return ONP(erasing=Erasing(SUCCEEDING), polishing=None, agent=QUICK, **settings)


@cache
def repaired() -> Repair:
    return method()(Normed(), CLEAN, generator=torch.Generator().manual_seed(3))


def test_the_backdoor_is_pruned() -> None:
    result, network = repaired(), Normed()
    units = list(all_units(found_units(network)[0].layers))
    pruned = {units.index(scored.unit) for scored in result.recipe.units}
    assert result.method == "onp"
    assert result.outcome == "repaired"
    assert pruned & {unit for unit in range(len(units)) if units[unit].index == PLANTED}
    assert result.trigger is not None
    assert result.trigger.label == TARGET
    trigger = result.trigger.trigger
    assert success_of(result.network, trigger, TARGET, CLEAN.choose, CLEAN.convention) < 0.1
    assert {"building the graph", "erasing"} <= set(result.seconds)


def test_what_the_graph_joins_with_pruned_units_is_told() -> None:
    result = repaired()
    pruned = {scored.unit for scored in result.recipe.units}
    assert result.joined
    assert all(set(pair) & pruned for pair in result.joined)
    # Both kinds of edges: from one layer to the other, and within one.
    network = Normed()
    discovery = found_units(network)[0]
    connections = connect(network, discovery, example_input(CONVENTION))
    graph = build_graph(Graphing(), discovery.layers, connections, torch.zeros(discovery.total, 1))
    units = list(all_units(discovery.layers))
    expected = {frozenset((units[a], units[b])) for a, b in graph.edge_index.T.tolist()}
    assert {frozenset(pair) for pair in result.joined} == {pair for pair in expected if pair & pruned}


def test_looks_for_triggers_are_told_to_the_last_network() -> None:
    result = repaired()
    assert [look.cheap for look in result.looks][-1] is False
    assert result.looks[-1].pruned == len(result.recipe.units)
    assert not any(look.polished for look in result.looks)


def test_figures_of_the_search_go_to_a_log() -> None:
    class Heard:
        def __init__(self) -> None:
            self.figures: dict[str, list[float]] = {}

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.figures.setdefault(tag, []).append(scalar_value)

    heard = Heard()
    result = method()(
        Normed(), CLEAN, generator=torch.Generator().manual_seed(3), progress=Logging(Silent(), heard)
    )
    learned = {tag for tag in heard.figures if tag.startswith("learning/")}
    assert learned == {f"learning/{name}" for name in ("episode", "worth", "agreement", "trigger", "pruned")}
    evaluations = sum(min(one.evaluations, QUICK.evaluations) for one in result.learning)
    assert {len(heard.figures[tag]) for tag in learned} == {evaluations}
    assert all(0 <= value <= 1 for value in heard.figures["learning/agreement"])


def test_the_same_seed_prunes_the_same() -> None:
    again = method()(Normed(), CLEAN, generator=torch.Generator().manual_seed(3))
    assert again.recipe == repaired().recipe
    assert all(
        torch.equal(value, again.network.state_dict()[name])
        for name, value in repaired().network.state_dict().items()
    )


def test_the_agent_goes_on_from_silencing_where_no_layer_is_a_norm() -> None:
    result = method(silencing=Silencing(share=0.5))(Planted(), CLEAN)
    assert len(result.learning) == 1
    assert {scored.unit.index for scored in result.recipe.units} <= BACKDOOR
    assert result.trigger is not None
    assert success_of(result.network, result.trigger.trigger, TARGET, CLEAN.choose, CLEAN.convention) < 0.1


def test_the_agent_goes_on_from_masks_where_only_unlearning_points_to_a_label() -> None:
    greedy = {"search": None, "threshold": 1.0, "spare": None, "share": 0.5, "budget": 1.0}
    masks, result = (
        how(polishing=None, **greedy, **more)(Normed(), CLEAN, generator=torch.Generator().manual_seed(0))
        for how, more in ((RNP, {}), (ONP, {"agent": QUICK}))
    )
    first, chosen = ({scored.unit for scored in one.recipe.units} for one in (masks, result))
    assert any(unit.index == PLANTED for unit in chosen)
    # Units that the clean task needs and the label does not come back.
    assert chosen < first
    assert any("An agent went on from the units that masks chose" in note for note in result.notes)
    (learning,) = result.learning
    assert learning.curve[-1][1] > learning.curve[0][1]


class Ruinous:
    """Finds a choice that takes out all units, the best by what it measures."""

    def __call__(self, _trials: object, _held: object, kept: Sequence[int], carried: Any, **_: Any) -> Any:
        return [list(range(len(carried))), list(kept)]

    def told(self, chosen: Chosen) -> Chosen:
        return chosen


@dataclass(frozen=True)
class Overspending(ONP):
    def _searching(self, *_: Any) -> Any:
        return Ruinous()


def test_of_a_choice_beyond_the_budget_no_part_is_taken() -> None:
    masks = {"search": None, "threshold": 1.0, "spare": None, "share": 0.5, "polishing": None}
    rnp, onp = (
        how(**masks)(Normed(), CLEAN, generator=torch.Generator().manual_seed(0))
        for how in (RNP, Overspending)
    )
    assert rnp.recipe.units
    assert [scored.unit for scored in onp.recipe.units] == [scored.unit for scored in rnp.recipe.units]


def test_without_trigger_and_label_nothing_is_pruned() -> None:
    result = method()(Normed(strength=0.0), CLEAN, generator=torch.Generator().manual_seed(0))
    assert not result.recipe.units
    assert any("Nothing was pruned" in note for note in result.notes)


def test_without_the_extra_an_error_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "for name in ('torch_geometric', 'sb3_contrib'): sys.modules[name] = None\n"
        "from secateur.repair import create, methods\n"
        "assert methods()['onp'].settings['grouped'] is False\n"
        "from secateur.errors import MissingExtraError\n"
        "try: create('onp', 'default')\n"
        "except MissingExtraError as error: print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == (
        "ONP needs sb3_contrib, torch_geometric: install them with `pip install 'secateur[onp]'`\n"
    )


class Added(nn.Module):
    """Two channels, to which two others are added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, 2, 3, padding=1) for channels in (1, 2))
        self.one, self.other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.answer = nn.Linear(2, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        early = self.one(self.first(images))
        late = self.other(self.second(early.relu()))
        return self.answer((early + late).relu().mean((2, 3)))


def test_units_that_meet_at_an_addition_are_proposed_together() -> None:
    case = Case.of(Added(), CLEAN, None, None)
    exposed = Exposed(None, None, Findings(None, (), {}), {}, ())
    groups = [method(grouped=grouped)._searching(case, exposed, corner()).groups for grouped in (True, False)]
    assert groups == [[[0, 2], [1, 3]], [[0], [1], [2], [3]]]


def test_what_rnp_chose_stays_as_it_is_where_its_groups_are_not_whole() -> None:
    network, onp = Normed(), method(grouped=True)
    with flushed_denormals():
        case = Case.of(network, CLEAN, torch.Generator().manual_seed(3), None)
        exposed = Exposing(onp.unlearning, onp.search, onp.shift)(case)
        searching = onp._searching(case, exposed, exposed.findings.found)
    total = case.discovery.total
    # Every other unit goes with all of its neighbours, which would be too many.
    searching.groups = [list(range(total // 2)), *([unit] for unit in range(total // 2, total))]
    tried_on = partial(
        onp.erasing.trials, case.network, case.discovery.layers, triggers=[exposed.findings.found], shift=True
    )
    choices = searching(
        tried_on(clean=case.clean), partial(tried_on, clean=case.clean), [0], torch.zeros(total), most=3
    )
    assert choices[-1] == [0]
    assert all(len(choice) <= 3 for choice in choices)


@pytest.mark.parametrize("network", [Normed, Rotated])
def test_shifts_and_triggers_without_a_label_are_improved_on(network: type[nn.Module]) -> None:
    blind = Inversion(steps=1)
    search = Search(patches=blind, changing=blind) if network is Normed else Search()
    result = method(search=search)(network(), CLEAN, generator=torch.Generator().manual_seed(3))
    assert result.trigger is not None
    assert (result.trigger.form, result.trigger.label) == (
        ("shift", TARGET) if network is Normed else ("patch", None)
    )
    # No unit of the other one weakens its trigger.
    curve = result.learning[-1].curve
    assert (curve[-1][1] > curve[0][1]) == (network is Normed)
    assert bool(result.recipe.units) == (network is Normed)


def test_it_goes_on_from_what_rnp_chose_and_leaves_that_as_it_is() -> None:
    network, onp = Normed(), method()
    rnp = RNP(erasing=onp.erasing, polishing=None)

    def begun() -> tuple[Case, Exposed]:
        case = Case.of(network, CLEAN, torch.Generator().manual_seed(3), None)
        return case, Exposing(onp.unlearning, onp.search, onp.shift)(case)

    with flushed_denormals():
        case, exposed = begun()
        chosen, apart = rnp.choose(case, exposed), case.apart()
        better = onp.finish(network, apart, exposed, onp.improve(apart, exposed, chosen))
        plain = rnp.finish(network, case, exposed, chosen)
        case, exposed = begun()
        alone = rnp.finish(network, case, exposed, rnp.choose(case, exposed))
    assert better.recipe == repaired().recipe
    assert better.notes == repaired().notes
    assert [(look.pruned, look.cheap) for look in better.looks] == [
        (look.pruned, look.cheap) for look in repaired().looks
    ]
    assert plain.recipe == alone.recipe
    assert plain.notes == alone.notes
    assert not plain.learning
