"""A trigger that stands out is unlearned; without one nothing changes."""

from dataclasses import replace

import torch

from planted import CLEAN, CONVENTION, TARGET, Planted
from secateur.expose import LabelScores, Scan, Search, success_of
from secateur.repair import UnlearnTrigger


def repaired(network: Planted, **settings: object):  # type: ignore[no-untyped-def]
    method = UnlearnTrigger(**{"passes": 40, "rate": 0.02, **settings})
    return method(network, CLEAN, generator=torch.Generator().manual_seed(0))


def test_the_inverted_trigger_stops_working_and_no_unit_is_pruned() -> None:
    network = Planted()
    result = repaired(network)
    assert (result.outcome, result.recipe.units) == ("repaired", ())
    # The planted one, which is stronger than it need be, survives: only what was inverted is unlearned.
    found = result.trigger.trigger
    assert success_of(network, found, TARGET, CLEAN.choose, CONVENTION) > 0.9
    assert success_of(result.network, found, TARGET, CLEAN.choose, CONVENTION) < 0.2
    assert result.tuned is not None
    answers = result.network(CLEAN.choose.images).argmax(1)
    assert result.tuned.accuracy.hits == int((answers == CLEAN.choose.labels).sum())
    state = result.state(network.state_dict())
    assert all(torch.equal(state[name], value) for name, value in result.network.state_dict().items())


def test_without_a_trigger_the_weights_stay() -> None:
    network = Planted(backdoor=False)
    result = repaired(network, search=Search())
    # Of a network without normalisation patches alone are no answer.
    assert (result.outcome, result.tuned) == ("inconclusive", None)
    state = result.state(network.state_dict())
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_what_a_scan_exposed_is_taken_instead_of_looking_again() -> None:
    network = Planted()
    _, exposed = Scan()(network, CLEAN, generator=torch.Generator().manual_seed(0))
    # Without normalisation there is no unlearning that could score labels.
    exposed = replace(exposed, labels=LabelScores((0.6, -0.2, -0.2, -0.2), None))
    result = UnlearnTrigger(passes=1)(network, CLEAN, exposed=exposed)
    assert result.outcome == "repaired"
    assert result.findings is exposed.findings
    assert result.labels is exposed.labels
    assert result.seconds["inverting"] == exposed.seconds["inverting"]
