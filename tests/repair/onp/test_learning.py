"""Learning solves a planted problem, gives the same for the same seed, and touches no global generator."""

import random
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from torch_geometric.data import Data

from planted import BACKDOOR, CLEAN, Planted, corner, found_units
from secateur.errors import MethodError
from secateur.progress import Silent
from secateur.repair.onp.environment import EXPECTING, Pruning
from secateur.repair.onp.learning import Learned, learn
from secateur.repair.onp.settings import Agent
from secateur.repair.trials import Trials

TOTAL = 9
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


def learned(agent: Agent = QUICK, seed: int = 0, start: tuple[int, ...] = (), **options: Any) -> Learned:
    nodes = torch.arange(TOTAL)
    graph = Data(x=torch.eye(TOTAL)[:, :4], edge_index=torch.stack([nodes, nodes.roll(1)]))
    return learn(
        agent,
        trials(),
        graph,
        start,
        groups=[[unit] for unit in range(TOTAL)],
        suspicion=torch.zeros(TOTAL),
        **{"most": TOTAL, "progress": Silent(), **options},
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


@pytest.mark.parametrize(
    "wrong", [{"evaluations": 0}, {"price": 0.0}, {"tolerated": -0.1}, {"convolution": "cnn"}, {"rollout": 1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        Agent(**wrong)


def test_nothing_is_left_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    learned(replace(QUICK, evaluations=40))
    assert not [found.name for found in tmp_path.iterdir() if found.name.startswith("SB3")]
