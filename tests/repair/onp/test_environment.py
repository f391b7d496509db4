"""The environment: what a step is worth, by hand, and the rules of the game."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from planted import BACKDOOR, CLEAN, TARGET, Planted, corner, found_units
from secateur.repair.measured import Compared, Measured
from secateur.repair.onp import Agent
from secateur.repair.onp.environment import EXPECTING, OPEN, SENSITIVE, Pruning, ranked_elsewhere, worth
from secateur.repair.trials import Trials

TOTAL = 9
FIRST, SECOND = sorted(BACKDOOR)


def trials() -> Trials:
    network = Planted().eval().requires_grad_(False)
    layers = found_units(network)[0].layers
    return Trials(network, layers, CLEAN, [corner()], group=1, shift=True, temperature=2.0)


def pruning(
    groups: Sequence[Sequence[int]] | None = None,
    *,
    steps: int = 6,
    most: int = TOTAL,
    tolerated: float = 0.0,
    thrift: float = 0.0,
    reach: int = 1,
    start: Collection[int] = (),
    first: Collection[int] | None = None,
) -> Pruning:
    groups = groups or [[unit] for unit in range(TOTAL)]
    generator = torch.Generator().manual_seed(0)
    return Pruning(
        trials(),
        groups,
        TOTAL,
        Agent(reach=reach, price=2.0, thrift=thrift, steps=steps, tolerated=tolerated),
        most=most,
        start=start,
        first=first,
        generator=generator,
    )


def test_worth_is_what_is_gone_less_what_it_costs() -> None:
    whole = Measured(cost=0.0, agreement=1.0, strength=1.0, success=1.0, risk=1.0)
    assert worth(whole, 2.0, 0, 0.01) == 0
    half = replace(whole, cost=0.1, strength=0.5, risk=0.9)
    assert worth(half, 2.0, 3, 0.01) == pytest.approx(1 - (0.5 + 0.9) / 2 - 0.2 - 0.03)
    assert worth(Measured(0.0, 1.0, 0.0, 0.0, 0.0), 2.0, 7, 0.0) == 1


@pytest.mark.filterwarnings("error::UserWarning", "ignore:.*A Box observation space m:UserWarning")
def test_it_is_an_environment() -> None:
    check_env(pruning(), skip_render_check=True)


def test_rewards_sum_to_what_the_episode_changed() -> None:
    environment = pruning(tolerated=1.0)
    environment.reset(seed=0)
    rewards = [environment.step(np.int64(action))[1] for action in (0, FIRST, SECOND, 0)]
    assert rewards[0] < 0 < rewards[3]
    assert rewards[3] == pytest.approx(-rewards[0], abs=0.2)
    assert sum(rewards) == pytest.approx(environment.best.worth)
    assert environment.best.pruned == BACKDOOR
    assert environment.best.measured.success == 0


def test_what_makes_a_choice_worse_is_taken_back_and_not_proposed_again() -> None:
    environment = pruning()
    environment.reset(seed=0)
    observation, reward, *_ = environment.step(np.int64(0))
    assert reward == 0
    assert not observation["pruned"].any()
    assert not environment.action_masks()[0]
    observation, reward, *_ = environment.step(np.int64(FIRST))
    assert reward > 0
    assert observation["pruned"].nonzero()[0].tolist() == [FIRST]
    # Elsewhere the same proposal leads to another state.
    assert environment.action_masks()[0]


def test_what_is_hardly_worse_is_kept_until_the_episode_ends() -> None:
    exact = pruning()
    exact.reset(seed=0)
    loss = exact.best.worth - exact.visit(frozenset({0})).worth
    for share, pruned in ((1.1, [0]), (0.9, [])):
        environment = pruning(tolerated=share * loss)
        environment.reset(seed=0)
        observation, reward, *_ = environment.step(np.int64(0))
        assert observation["pruned"].nonzero()[0].tolist() == pruned
        assert reward == pytest.approx(-loss if pruned else 0)
        assert not environment.reset()[0]["pruned"].any()


def test_where_every_proposal_is_known_to_be_worse_all_are_allowed() -> None:
    environment = pruning([[0], [FIRST, SECOND]])
    environment.reset(seed=0)
    for action in (1, 0, 1):
        environment.step(np.int64(action))
    assert environment.action_masks().tolist() == [True, True]
    assert environment.evaluations == 3 + EXPECTING  # nothing, the backdoor, one more


def test_what_is_known_of_each_action_is_told() -> None:
    environment = pruning(tolerated=2.0)
    seen = environment.reset(seed=0)[0]["seen"]
    assert not seen[:, :4].any()
    observation, reward, *_ = environment.step(np.int64(FIRST))
    seen = observation["seen"]
    # Restoring leads back to a state that was measured, and takes back what the step gave.
    assert seen[FIRST, 0] == 1
    assert seen[FIRST, 1] == pytest.approx(np.tanh(-SENSITIVE * reward), abs=1e-5)
    taken, price = (np.arctanh(seen[FIRST, column]) / SENSITIVE for column in (2, 3))
    assert taken - price == pytest.approx(-reward, abs=1e-3)
    assert not np.delete(seen, FIRST, axis=0)[:, :4].any()
    # From elsewhere the state is another, but the effect is remembered.
    environment.step(np.int64(0))
    seen = environment.step(np.int64(FIRST))[0]["seen"]
    assert seen[FIRST, 2] > 0
    assert environment.step(np.int64(2))[0]["seen"][FIRST, 2] == pytest.approx(seen[FIRST, 2])


def test_what_is_expected_is_told_for_both_directions() -> None:
    environment = pruning()
    for best in (frozenset(), frozenset(BACKDOOR)):
        environment.visit(best)
        seen = environment.reset(seed=0)[0]["seen"]
        near = environment.mask(best).clamp_min(OPEN)
        expected = trials().expect(near, torch.Generator().manual_seed(1))
        sign = torch.tensor([1.0 if unit in best else -1.0 for unit in range(TOTAL)])
        left, cost = -sign * expected.left, 2.0 * (sign * expected.cost + expected.curvature / 2)
        assert seen[:, 4] == pytest.approx(np.tanh(SENSITIVE * left.numpy()), abs=1e-3)
        # The curvature is drawn.
        assert seen[:, 5] == pytest.approx(np.tanh(SENSITIVE * cost.numpy()), abs=0.1)


def test_what_restoring_would_do_is_known_behind_a_rectifier() -> None:
    environment = pruning(start=sorted(BACKDOOR | {TARGET}))
    seen = environment.reset(seed=0)[0]["seen"]
    # What gives exactly nothing would let no gradient through.
    trial = trials()
    assert not trial.expect(environment.mask(environment.best.pruned), torch.Generator()).left[FIRST]
    # Restored, units of the backdoor leave more of the trigger, and the label's own answers its images again.
    assert seen[FIRST, 4] < -0.1
    assert seen[TARGET, 5] < -0.1


def test_a_unit_has_a_price() -> None:
    rewards, told = [], []
    for thrift in (0.0, 0.02):
        environment = pruning(thrift=thrift)
        told.append(np.arctanh(environment.reset(seed=0)[0]["seen"][2, 5]) / SENSITIVE)
        observation, reward, *_ = environment.step(np.int64(FIRST))
        rewards.append(reward)
        told.append(np.arctanh(observation["seen"][FIRST, 3]) / SENSITIVE)
    assert rewards[0] - rewards[1] == pytest.approx(0.02)
    assert told[2] - told[0] == pytest.approx(0.02, abs=1e-3)
    # Restored, it is given back.
    assert told[3] - told[1] == pytest.approx(-0.02, abs=1e-3)


def test_what_is_expected_is_computed_once_for_a_state_and_counts() -> None:
    environment = pruning()
    begun = environment.evaluations
    for _ in range(3):
        environment.reset(seed=0)
    assert environment.evaluations == begun + EXPECTING


def test_a_state_is_measured_once() -> None:
    environment = pruning(tolerated=2.0)
    environment.reset(seed=0)
    for action in (FIRST, SECOND, SECOND, FIRST, FIRST):
        environment.step(np.int64(action))
    assert environment.evaluations == 3 + EXPECTING  # nothing, one, both: restoring goes back


def test_steps_are_limited() -> None:
    environment = pruning(steps=2)
    environment.reset(seed=0)
    assert environment.step(np.int64(0))[2:4] == (False, False)
    assert environment.step(np.int64(1))[2:4] == (True, False)


def test_no_more_than_allowed_is_pruned_but_all_may_be_restored() -> None:
    environment = pruning([[0, 1], [2], [3]], most=2, tolerated=9.0)
    environment.reset(seed=0)
    environment.step(np.int64(0))
    assert environment.action_masks().tolist() == [True, False, False]


def test_what_prunes_too_much_is_never_kept() -> None:
    environment = pruning([[0, FIRST], [SECOND, 2]], most=1, tolerated=9.0)
    environment.reset(seed=0)
    assert environment.visit(frozenset({1})).pruned == {1}
    assert not environment.step(np.int64(0))[0]["pruned"].any()
    assert [state.pruned for state in environment.path] == [frozenset()]


def test_a_group_is_pruned_together() -> None:
    environment = pruning([[0], [FIRST, SECOND]])
    environment.reset(seed=0)
    observation, reward, *_ = environment.step(np.int64(1))
    assert reward == pytest.approx(1.0, abs=5e-3)
    assert observation["pruned"].tolist() == [0, 1]
    assert environment.mask(frozenset({1})).tolist() == [float(unit not in BACKDOOR) for unit in range(TOTAL)]


def test_after_a_gain_proposals_are_measured_together_and_after_a_failure_alone() -> None:
    environment = pruning(reach=2, steps=8)
    environment.reset(seed=0)
    environment.step(np.int64(FIRST))
    begun, worth = environment.evaluations, environment.best.worth
    observation, reward, *_ = environment.step(np.int64(0))
    assert (reward, environment.evaluations) == (0, begun)
    assert observation["pruned"].nonzero()[0].tolist() == [0, FIRST]
    assert observation["progress"][3] == 0.5
    # What waits is not taken back by a second proposal of the same.
    assert not environment.action_masks()[0]
    observation, reward, *_ = environment.step(np.int64(1))
    assert (reward, environment.evaluations) == (0, begun + 1)
    assert observation["pruned"].nonzero()[0].tolist() == [FIRST]
    observation, reward, *_ = environment.step(np.int64(SECOND))
    assert environment.evaluations == begun + 2
    assert reward == pytest.approx(environment.best.worth - worth)
    assert environment.best.pruned == BACKDOOR


def test_what_waits_at_the_end_of_an_episode_is_measured() -> None:
    environment = pruning(reach=8, steps=2)
    environment.reset(seed=0)
    environment.step(np.int64(FIRST))
    assert environment.step(np.int64(SECOND))[1:4] == (pytest.approx(0.5, abs=0.3), True, False)
    assert environment.best.pruned == BACKDOOR


def test_episodes_begin_at_the_best_state() -> None:
    environment = pruning()
    environment.visit(frozenset(BACKDOOR))
    assert environment.reset(seed=0)[0]["pruned"].nonzero()[0].tolist() == sorted(BACKDOOR)


def test_what_leaves_more_of_the_triggers_than_the_first_choice_is_never_kept() -> None:
    environment = pruning(start=[*BACKDOOR, TARGET], tolerated=9.0)
    environment.reset(seed=0)
    # To restore the backdoor's own units brings the trigger back; the label's own gains accuracy.
    observation, reward, *_ = environment.step(np.int64(FIRST))
    assert (reward, observation["pruned"][FIRST]) == (0, 1)
    observation, reward, *_ = environment.step(np.int64(TARGET))
    assert reward > 0.2
    assert reward == pytest.approx(environment.best.worth - environment.path[0].worth)
    assert not observation["pruned"][TARGET]
    assert [state.pruned for state in environment.path] == [{*BACKDOOR, TARGET}, BACKDOOR]


@pytest.mark.parametrize(("first", "kept"), [(None, [1, 1]), ([FIRST, SECOND], [1, 1]), ([FIRST], [0, 1])])
def test_whole_groups_are_held_against_the_choice_that_they_came_from(
    first: list[int] | None, kept: list[int]
) -> None:
    environment = pruning([[FIRST, SECOND], [FIRST]], tolerated=1.0, start=[0], first=first)
    assert environment.evaluations == 1 + (first == [FIRST])
    environment.reset(seed=0)
    environment.step(np.int64(1))
    # Only the first is left, with which the backdoor works half.
    observation, *_ = environment.step(np.int64(0))
    assert observation["pruned"].tolist() == kept


def test_a_start_that_falls_short_of_the_choice_that_it_came_from_can_be_left() -> None:
    environment = pruning([[FIRST], [SECOND, 2], [7]], start=[0], first=[FIRST, SECOND], tolerated=0.01)
    assert environment.path[0].measured.left > 0.3
    environment.reset(seed=0)
    # It still leaves more of the trigger than both units of the backdoor do, but no more than before.
    assert environment.step(np.int64(2))[0]["pruned"].tolist() == [1, 0, 1]
    # This would leave nothing, but costs more than either.
    assert environment.step(np.int64(1))[0]["pruned"].tolist() == [1, 0, 1]


def test_where_no_group_lies_within_the_choice_a_search_can_leave_nothing_step_by_step() -> None:
    environment = pruning([[FIRST], [SECOND], [2]], first=[FIRST, SECOND])
    environment.reset(seed=0)
    assert environment.step(np.int64(0))[0]["pruned"].tolist() == [1, 0, 0]
    assert environment.step(np.int64(1))[0]["pruned"].tolist() == [1, 1, 0]


def test_a_proposal_that_is_withdrawn_leaves_the_effect_to_the_other() -> None:
    environment = pruning([[FIRST], [SECOND], [7], [0], [1]], reach=4, steps=6)
    environment.reset(seed=0)
    # After two gains four proposals would be measured together, but for the end of the episode.
    for action in (0, 1, 2, 3, 4):
        environment.step(np.int64(action))
    known = environment.step(np.int64(3))[0]["seen"][:, 2:4]
    assert known[4, 1] > 0.1
    assert not known[3].any()


def test_what_costs_more_than_the_first_choice_is_never_kept() -> None:
    environment = pruning(start=[FIRST], tolerated=9.0)
    environment.reset(seed=0)
    # Without the label's own unit less is left of the trigger, but its clean images go astray.
    observation, reward, *_ = environment.step(np.int64(TARGET))
    assert (reward, observation["pruned"][TARGET]) == (0, 0)
    observation, reward, *_ = environment.step(np.int64(SECOND))
    assert reward > 0
    assert [state.pruned for state in environment.path] == [{FIRST}, BACKDOOR]


def test_choices_elsewhere_are_ranked_and_none_is_worse_in_triggers_or_cost() -> None:
    flat, tried = torch.ones(TOTAL), trials()
    first = BACKDOOR | {TARGET}
    ranked = ranked_elsewhere(tried, [first, BACKDOOR], flat, 2.0)
    assert [choice for choice, _ in ranked] == [BACKDOOR, first]
    # Nothing pruned is worth more at this price, but leaves everything.
    ((choice, value),) = ranked_elsewhere(tried, [first, frozenset()], flat, 9.0)
    assert choice == first
    assert value < 0
    # A unit that nothing depends on is no gain that could be shown.
    spare = BACKDOOR | {TOTAL - 1}
    assert [choice for choice, _ in ranked_elsewhere(tried, [spare, BACKDOOR], flat, 2.0)] == [spare]
    # It leaves less than one unit does, but for more than that costs.
    assert [choice for choice, _ in ranked_elsewhere(tried, [{FIRST}, first], flat, 0.01)] == [{FIRST}]
    assert ranked_elsewhere(tried, [frozenset(), first], flat, 9.0)[0] == (
        frozenset(),
        pytest.approx(0, abs=1e-6),
    )


class Told:
    """Says of every choice that it gains twice its error."""

    now = Measured(cost=0.1, agreement=1.0, strength=0.1, success=0.1, risk=0.1)

    def settle(self, flat: torch.Tensor) -> None:
        pass

    def compare(self, flat: torch.Tensor, price: float) -> Compared:
        return Compared(self.now, gain=0.02, error=0.01)


def test_of_many_choices_each_must_be_shown_to_be_better_more_clearly() -> None:
    def taken(count: int) -> int:
        others = [{unit} for unit in range(1, 1 + count)]
        ranked = ranked_elsewhere(cast(Trials, Told()), [{0}, {0}, *others], torch.ones(20), 1.0)
        assert ranked[-1][0] == {0}
        return len(ranked) - 1

    # The normal distribution leaves 0.0228 beyond 2: less than 0.05 over one and over two, not over three.
    assert [taken(count) for count in (0, 1, 2, 3, 15)] == [0, 1, 2, 0, 0]
