"""The environment: what a step is worth, by hand, and the rules of the game."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from planted import BACKDOOR, CLEAN, Planted, corner, found_units
from secateur.repair.onp.environment import SENSITIVE, Pruning, worth
from secateur.repair.trials import Measured, Trials

TOTAL = 9
FIRST, SECOND = sorted(BACKDOOR)


def pruning(groups: Sequence[Sequence[int]] | None = None, *, steps: int = 6, most: int = TOTAL) -> Pruning:
    network = Planted().eval().requires_grad_(False)
    layers = found_units(network)[0].layers
    trials = Trials(
        network, layers, CLEAN, [corner()], torch.ones(TOTAL), group=1, shift=True, temperature=2.0
    )
    groups = groups or [[unit] for unit in range(TOTAL)]
    return Pruning(trials, groups, TOTAL, price=2.0, steps=steps, undone=0.5, most=most)


def test_worth_is_what_is_gone_less_what_it_costs() -> None:
    before = Measured(cost=0.0, strength=1.0, depth=1.0, success=1.0)
    half = Measured(cost=0.1, strength=0.5, depth=0.5, success=0.9)
    assert worth(before, before, 2.0) == 0
    assert worth(half, before, 2.0) == pytest.approx(1 - (0.5 + 0.9) / 2 - 0.2)
    assert worth(Measured(0.0, 0.0, -9.0, 0.0), before, 2.0) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_an_environment() -> None:
    check_env(pruning(), skip_render_check=True)


def test_rewards_sum_to_what_the_episode_changed() -> None:
    environment = pruning()
    environment.reset(seed=0)
    rewards = [environment.step(np.int64(action))[1] for action in (0, FIRST, SECOND, 0)]
    assert rewards[0] < 0 < rewards[3]
    assert rewards[3] == pytest.approx(-rewards[0], abs=0.2)
    assert sum(rewards) == pytest.approx(environment.best[0].worth)
    assert environment.best[0].pruned == BACKDOOR
    assert environment.best[0].measured.success == 0


def test_what_is_known_of_each_action_is_told() -> None:
    environment = pruning()
    nothing = environment.reset(seed=0)[0]["seen"]
    assert not nothing.any()
    observation, reward, *_ = environment.step(np.int64(FIRST))
    seen = observation["seen"]
    # Restoring leads back to a state that was measured, and takes back what the step gave.
    assert seen[FIRST, 0] == 1
    assert seen[FIRST, 1] == pytest.approx(np.tanh(-SENSITIVE * reward), abs=1e-5)
    taken, price = (np.arctanh(seen[FIRST, column]) / SENSITIVE for column in (2, 3))
    assert taken - price == pytest.approx(-reward, abs=1e-3)
    assert not np.delete(seen, FIRST, axis=0).any()
    # From elsewhere the state is another, but the effect is remembered.
    environment.step(np.int64(0))
    seen = environment.step(np.int64(FIRST))[0]["seen"]
    assert seen[FIRST, 2] > 0
    assert environment.step(np.int64(2))[0]["seen"][FIRST, 2] == pytest.approx(seen[FIRST, 2])


def test_a_state_is_measured_once() -> None:
    environment = pruning()
    environment.reset(seed=0)
    for action in (FIRST, SECOND, SECOND, FIRST, FIRST):
        environment.step(np.int64(action))
    assert environment.evaluations == 3  # nothing, one, both: restoring goes back


def test_the_last_action_stops_and_steps_are_limited() -> None:
    environment = pruning(steps=2)
    environment.reset(seed=0)
    assert not environment.action_masks()[-1]
    _, _, terminated, truncated, _ = environment.step(np.int64(0))
    assert (terminated, truncated) == (False, False)
    assert environment.action_masks()[-1]
    assert environment.step(np.int64(1))[2:4] == (False, True)
    environment.reset(seed=0)
    environment.step(np.int64(0))
    _, reward, terminated, _, _ = environment.step(np.int64(TOTAL))
    assert (reward, terminated) == (0, True)


def test_no_more_than_allowed_is_pruned_but_all_may_be_restored() -> None:
    environment = pruning([[0, 1], [2], [3]], most=2)
    environment.reset(seed=0)
    environment.step(np.int64(0))
    assert environment.action_masks().tolist() == [True, False, False, True]


def test_where_no_group_fits_nothing_is_left_but_to_stop() -> None:
    environment = pruning([[0, 1], [2, 3]], most=1)
    environment.reset(seed=0)
    assert environment.action_masks().tolist() == [False, False, True]
    # What prunes too much is measured, but never the best.
    assert environment.visit(frozenset({1})).pruned == {1}
    assert [state.pruned for state in environment.best] == [frozenset()]


def test_a_group_is_pruned_together() -> None:
    environment = pruning([[0], [FIRST, SECOND]])
    environment.reset(seed=0)
    observation, reward, *_ = environment.step(np.int64(1))
    assert reward == pytest.approx(1.0, abs=1e-3)
    assert observation["pruned"].tolist() == [0, 1]
    assert environment.mask(frozenset({1})).tolist() == [float(unit not in BACKDOOR) for unit in range(TOTAL)]


def test_episodes_begin_near_the_best_state() -> None:
    environment = pruning()
    environment.visit(frozenset(BACKDOOR))
    begun = {tuple(environment.reset(seed=seed)[0]["pruned"].nonzero()[0].tolist()) for seed in range(30)}
    assert begun <= {(), (FIRST,), (SECOND,), (FIRST, SECOND)}
    assert len(begun) >= 3
