"""Learning solves a planted problem, gives the same for the same seed, and touches no global generator."""

import random
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from torch import nn
from torch_geometric.data import Data

from planted import BACKDOOR, CLASSES, CLEAN, CONVENTION, Planted, corner, found_units
from secateur.data import example_input
from secateur.errors import MethodError
from secateur.progress import Silent
from secateur.repair.activity import activity
from secateur.repair.onp.environment import EXPECTING, Observation, Pruning, worth
from secateur.repair.onp.features import features
from secateur.repair.onp.graph import build_graph
from secateur.repair.onp.learning import Learned, learn, learner_of
from secateur.repair.onp.settings import Agent, Graphing
from secateur.repair.trials import Trials
from secateur.units import connect

TOTAL = 9
SINGLE = [[unit] for unit in range(TOTAL)]
QUICK = Agent(hidden=8, evaluations=200, patience=120, rollout=32, batch_size=16, steps=6, candidates=TOTAL)


class Counting(Silent):
    """Counts steps."""

    def __init__(self) -> None:
        self.steps, self.facts = 0, dict[str, float]()

    def advance(self, **facts: float) -> None:
        self.steps, self.facts = self.steps + 1, facts


@cache
def trials() -> Trials:
    network = Planted().eval().requires_grad_(False)
    layers = found_units(network)[0].layers
    return Trials(network, layers, CLEAN, [corner()], group=1, shift=True, temperature=2.0)


def ring() -> Data:
    nodes = torch.arange(TOTAL)
    return Data(
        x=torch.eye(TOTAL)[:, :4],
        edge_index=torch.stack([nodes, nodes.roll(1)]),
        edge_attr=torch.ones(TOTAL, 1),
        edge_type=torch.zeros(TOTAL, dtype=torch.long),
    )


def learned(agent: Agent = QUICK, seed: int = 0, start: tuple[int, ...] = (), **options: Any) -> Learned:
    return learn(
        agent,
        trials(),
        ring(),
        start,
        **{
            "groups": SINGLE,
            "most": TOTAL,
            "suspicion": torch.zeros(TOTAL),
            "progress": Silent(),
            **options,
        },
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("convolution", ["sage", "none"])
def test_the_units_of_a_backdoor_are_found(convolution: Any) -> None:
    found = learned(replace(QUICK, convolution=convolution))
    assert found.states[-1].pruned == BACKDOOR
    assert found.states[-1].measured.success == 0
    assert found.evaluations <= 200 + 1 + EXPECTING
    worths = [worth for _, worth in found.curve]
    assert worths == sorted(worths)
    assert worths[-1] == found.states[-1].worth == max(state.worth for state in found.states)


def test_units_of_a_group_are_pruned_together() -> None:
    groups = [[0, 8], sorted(BACKDOOR), *([unit] for unit in (1, 2, 3, 4, 7))]
    found = learned(groups=groups)
    assert found.states[-1].pruned == BACKDOOR
    for state in found.states:
        assert all(set(group) <= state.pruned or not set(group) & state.pruned for group in groups)
    # One unit of a group that is pruned already brings the others with it where that is better, and where
    # it is not, the group is left out.
    assert [state.pruned for state in learned(groups=groups, start=(min(BACKDOOR),)).states] == [
        set(),
        BACKDOOR,
    ]
    found = learned(replace(QUICK, evaluations=2), groups=groups, start=(8,))
    assert not any(8 in state.pruned for state in found.states)


@pytest.mark.parametrize("most", [TOTAL, 4])
def test_whole_groups_that_are_too_much_do_not_keep_the_search_from_others(most: int) -> None:
    first, second = sorted(BACKDOOR)
    groups = [[first], [second], [0, 7], [1, 8], [2], [3], [4]]
    # Of two groups a spare unit is pruned, that of a row would come with it.
    found = learned(groups=groups, start=(first, 7, 8), most=most)
    assert found.states[0].pruned == {first}
    assert found.states[-1].pruned == BACKDOOR


class OneBad(gymnasium.Env[Observation, np.int64]):
    """Each episode is one proposal, from nothing pruned; nothing tells the actions apart but the graph."""

    def __init__(self, network: nn.Module) -> None:
        layers = found_units(network)[0].layers
        tried = Trials(network, layers, CLEAN, [corner()], group=1, shift=True, temperature=2.0)
        total, self.worths = layers[0].count, list[float]()
        for unit in range(total):
            masks = torch.ones(total)
            masks[unit] = 0
            tried.settle(masks)
            self.worths.append(worth(tried.now, 1.0, 1, 0.0005))
        self.action_space = spaces.Discrete(total)
        shapes = {"pruned": (total,), "seen": (total, 6), "progress": (4,)}
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-1.0, 1.0, shape, np.float32) for name, shape in shapes.items()}
        )
        self.nothing = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.nothing, {}

    def step(self, action: np.int64) -> Any:
        return self.nothing, self.worths[int(action)], True, False, {}

    def action_masks(self) -> Any:
        return np.ones(len(self.worths), bool)


def one_bad(bad: int) -> nn.Module:
    """Return a network of which one unit, `bad`, carries the backdoor."""
    network = Planted().eval().requires_grad_(False)
    order = torch.arange(TOTAL)
    (other,) = BACKDOOR - {CLASSES}
    network.hidden.weight[other] = 0.0
    order[[bad, CLASSES]] = order[[CLASSES, bad]]
    network.hidden.weight.copy_(network.hidden.weight[order])
    network.hidden.bias.copy_(network.hidden.bias[order])
    network.answer.weight.copy_(network.answer.weight[:, order])
    return network


def graph_of(network: nn.Module) -> Data:
    discovery, example = found_units(network)[0], example_input(CONVENTION)
    connections = connect(network, discovery, example)
    passed = activity(
        network,
        discovery.layers,
        [CLEAN.learn.images],
        [corner().trigger.stamp(CLEAN.learn.images)],
    )
    known = features(network, discovery.layers, example, connections, passed, unlearned=None, masks=None)
    graph = build_graph(Graphing(), discovery.layers, connections, known)
    graph.action = torch.arange(TOTAL)
    return graph


@pytest.mark.parametrize("seed", range(3))
def test_one_bad_unit_is_learned_within_400_episodes_and_known_in_another_network(seed: int) -> None:
    environment = OneBad(one_bad(CLASSES))
    assert max(environment.worths) == environment.worths[CLASSES]
    agent = Agent(hidden=16, rollout=40, batch_size=40, rate=0.01)

    def surest(learner: MaskablePPO) -> tuple[int, float]:
        known = {name: torch.from_numpy(value)[None] for name, value in environment.nothing.items()}
        chances = learner.policy.get_distribution(known).distribution.probs[0]
        return int(chances.argmax()), float(chances.detach().max())

    learner = learner_of(agent, environment, graph_of(one_bad(CLASSES)), seed)
    assert surest(learner)[1] == pytest.approx(1 / TOTAL)
    learner.learn(400)
    unit, chance = surest(learner)
    assert unit == CLASSES
    assert chance > 0.5
    # It goes by what a unit does, not by its place.
    other = learner_of(agent, OneBad(one_bad(2)), graph_of(one_bad(2)), seed)
    other.policy.load_state_dict(learner.policy.state_dict())
    assert surest(other)[0] == 2


def test_the_learner_has_the_settings_of_the_agent() -> None:
    agent = Agent(rollout=32, discount=0.7, smoothing=0.6, entropy=0.05, rate=0.02, epochs=3, batch_size=8)
    network = one_bad(CLASSES)
    learner = learner_of(agent, OneBad(network), graph_of(network), 0)
    buffer = learner.rollout_buffer
    assert isinstance(buffer, MaskableDictRolloutBuffer)
    assert (buffer.gamma, buffer.gae_lambda, buffer.buffer_size) == (0.7, 0.6, 32)
    assert (learner.ent_coef, learner.n_epochs, learner.batch_size) == (0.05, 3, 8)
    assert learner.policy.optimizer.param_groups[0]["lr"] == 0.02


def test_learning_moves_the_weights() -> None:
    first = learned(replace(QUICK, evaluations=2)).policy
    moved = learned(QUICK).policy
    assert any(not torch.equal(value, first[name]) for name, value in moved.items())
    still = learned(replace(QUICK, rate=1e-30)).policy
    assert all(torch.allclose(value, first[name], atol=1e-20) for name, value in still.items())


def test_the_same_seed_learns_the_same_and_no_global_generator_moves() -> None:
    trials()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first, second = learned(seed=1), learned(seed=1)
    assert (first.states, first.curve) == (second.states, second.curve)
    assert all(torch.equal(value, second.policy[name]) for name, value in first.policy.items())
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_what_is_known_is_never_lost() -> None:
    found = learned(replace(QUICK, evaluations=40), start=tuple(BACKDOOR))
    assert found.states[-1].pruned == BACKDOOR
    assert found.curve[0][1] == found.states[-1].worth


def test_it_ends_when_nothing_gets_better() -> None:
    counting = Counting()
    found = learned(replace(QUICK, patience=20), start=tuple(BACKDOOR), progress=counting)
    assert found.evaluations <= 2 + 20 + 1 + EXPECTING
    assert counting.steps == found.evaluations
    assert counting.facts["pruned"] == len(BACKDOOR)


def test_a_policy_can_go_on_elsewhere() -> None:
    known = learned(replace(QUICK, evaluations=60))
    agent = replace(QUICK, evaluations=3, rollout=64)
    # No update happens before three states are measured, so that the weights are those given.
    assert all(
        torch.equal(value, known.policy[name])
        for name, value in learned(agent, policy=known.policy).policy.items()
    )


def test_candidates_are_the_start_and_the_most_suspected() -> None:
    found = learned(replace(QUICK, candidates=1, evaluations=10), start=(0, 3))
    assert all(state.pruned <= {0, 3} for state in found.states)
    suspicion = torch.zeros(TOTAL)
    suspicion[sorted(BACKDOOR)] = torch.tensor([0.1, 0.2])
    found = learned(replace(QUICK, candidates=3), start=(0,), suspicion=suspicion)
    assert found.states[-1].pruned == BACKDOOR
    # With the order the other way round there is nothing to find.
    found = learned(replace(QUICK, candidates=3, evaluations=30), suspicion=-suspicion)
    assert all(not state.pruned & BACKDOOR for state in found.states)


def test_advantages_are_those_of_the_paper() -> None:
    environment = Pruning(
        trials(),
        [[unit] for unit in range(TOTAL)],
        TOTAL,
        Agent(price=2.5, thrift=0.0, steps=6, tolerated=0.0),
        most=TOTAL,
        generator=torch.Generator().manual_seed(0),
    )
    buffer = MaskableDictRolloutBuffer(
        3, environment.observation_space, environment.action_space, gae_lambda=0.5, gamma=0.9
    )
    observation, _ = environment.reset(seed=0)
    batch = {name: value[None] for name, value in observation.items()}
    for reward, value, begins in ((1.0, 0.5, 1.0), (0.0, 0.2, 0.0), (2.0, 1.0, 1.0)):
        buffer.add(
            batch,
            np.array([[0]]),
            np.array([reward]),
            np.array([begins]),
            torch.tensor([value]),
            torch.zeros(1),
            action_masks=environment.action_masks()[None],
        )
    buffer.compute_returns_and_advantage(torch.tensor([0.4]), np.array([0.0]))
    # Equation 16 of arXiv 1506.02438: the second step ends an episode, the last goes on.
    third = 2.0 + 0.9 * 0.4 - 1.0
    second = 0.0 - 0.2
    first = (1.0 + 0.9 * 0.2 - 0.5) + 0.9 * 0.5 * second
    assert buffer.advantages.flatten().tolist() == pytest.approx([first, second, third])


class Recorded(Pruning):
    """Remembers what steps earned, and what was allowed before each."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.earned, self.allowed = list[float](), list[Any]()

    def action_masks(self) -> Any:
        self.allowed.append(super().action_masks())
        return self.allowed[-1]

    def step(self, action: np.int64) -> Any:
        result = super().step(action)
        self.earned.append(result[1])
        return result


def test_what_is_learned_from_is_what_steps_earned_and_nothing_is_expected_after_an_episode() -> None:
    environment = Recorded(
        trials(), SINGLE, TOTAL, QUICK, most=TOTAL, generator=torch.Generator().manual_seed(0)
    )
    graph = ring()
    graph.action = torch.arange(TOTAL)
    learner = learner_of(QUICK, environment, graph, 0)
    learner.learn(QUICK.rollout)
    buffer = learner.rollout_buffer
    assert buffer.rewards.flatten().tolist() == pytest.approx(environment.earned)
    allowed = np.stack(environment.allowed)
    assert np.array_equal(buffer.action_masks.reshape(QUICK.rollout, TOTAL), allowed)
    assert not allowed.all()
    assert allowed[np.arange(QUICK.rollout), buffer.actions.flatten().astype(int)].all()
    starts, values = buffer.episode_starts.flatten(), buffer.values.flatten()
    assert starts.nonzero()[0].tolist() == list(range(0, QUICK.rollout, QUICK.steps))
    advantage = buffer.advantages.flatten()
    for step in range(QUICK.rollout - 1):
        later = 0.0 if starts[step + 1] else 1.0
        expected = buffer.rewards.flatten()[step] - values[step]
        expected += later * QUICK.discount * (values[step + 1] + QUICK.smoothing * advantage[step + 1])
        assert advantage[step] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"evaluations": 0},
        {"price": 0.0},
        {"tolerated": -0.1},
        {"trust": -1.0},
        {"trust": float("inf")},
        {"convolution": "cnn"},
        {"rollout": 1},
        {"batch_size": 1},
        {"rollout": 65},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        Agent(**wrong)


def test_nothing_is_left_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    learned(replace(QUICK, evaluations=40))
    assert not [found.name for found in tmp_path.iterdir() if found.name.startswith("SB3")]
