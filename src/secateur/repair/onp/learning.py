"""The agent at work: proximal policy optimisation over the graph, from the best choice known."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor
from torch_geometric.data import Data

from secateur.progress import Progress
from secateur.repair.choosing import evenly
from secateur.repair.onp.environment import Observation, Pruning, State
from secateur.repair.onp.policy import GraphPolicy, Heads
from secateur.repair.onp.settings import Agent
from secateur.repair.trials import Trials

KEPT = 16
"""States that are returned."""


@dataclass(frozen=True)
class Learned:
    """What an agent found.

    Attributes
    ----------
    states
        The first, the best, and others on the way, evenly, ``pruned`` being units here: the best may fit the
        images that they were measured on, and others worse.
    curve
        Evaluations so far and the worth of the best state, whenever it became better.
    evaluations
        How many were made; a look at what changes would do counts for several, see `Pruning`.
    policy
        Weights of the policy as it was at the end, by name; none belongs to a node.
    """

    states: tuple[State, ...]
    curve: tuple[tuple[int, float], ...]
    evaluations: int
    policy: dict[str, Tensor]


def learn(
    agent: Agent,
    trials: Trials,
    graph: Data,
    start: Sequence[int],
    *,
    groups: Sequence[Sequence[int]],
    suspicion: Tensor,
    most: int,
    policy: dict[str, Tensor] | None = None,
    generator: torch.Generator,
    progress: Progress,
) -> Learned:
    """Search from `start`.

    Parameters
    ----------
    agent
        How.
    trials
        Measures states.
    graph
        Of the network, see `secateur.repair.onp.graph.build_graph`.
    start
        Units that are pruned in the best state known, positions. The search begins with the groups that lie
        within them, or with all that they touch if that is better.
    groups
        Units that are pruned together.
    suspicion
        ``(N,)``, how much each unit is suspected, any scale: which are candidates.
    most
        Units that may be pruned.
    policy
        Weights to begin with, as of another network; none by default.
    generator
        Decides everything random.
    progress
        Told about every step.
    """
    suspected = torch.stack([suspicion[list(group)].mean() for group in groups])
    begun = set(start)
    chosen = _candidates(groups, suspected, begun, agent.candidates)
    within = [k for k, place in enumerate(chosen) if begun.issuperset(groups[place])]
    touched = [k for k, place in enumerate(chosen) if begun.intersection(groups[place])]
    environment = Pruning(
        trials,
        [groups[place] for place in chosen],
        len(graph.x),
        agent,
        most=most,
        start=within,
        first=start,
        generator=generator,
    )
    environment.visit(frozenset(touched))
    seed = int(torch.randint(2**31, (), generator=generator))
    progress.start("learning", agent.evaluations)
    watch = Watch(environment, agent, progress)
    with own_randomness():
        learner = learner_of(agent, environment, _known(graph, groups, chosen), seed)
        if policy:
            learner.policy.load_state_dict(policy)
        learner.learn(10**9, callback=watch)
    states = [
        State(
            frozenset(unit for k in state.pruned for unit in groups[chosen[k]]),
            state.worth,
            state.measured,
        )
        for state in spread(environment.path)
    ]
    weights = {name: value.detach().clone() for name, value in learner.policy.state_dict().items()}
    return Learned(tuple(states), tuple(watch.curve), environment.evaluations, weights)


def learner_of(
    agent: Agent, environment: gymnasium.Env[Observation, np.int64], graph: Data, seed: int
) -> MaskablePPO:
    """Return what learns to act in an environment, on a graph with the action of each node."""
    learner = MaskablePPO(
        GraphPolicy,
        environment,
        learning_rate=agent.rate,
        n_steps=agent.rollout,
        batch_size=agent.batch_size,
        n_epochs=agent.epochs,
        gamma=agent.discount,
        gae_lambda=agent.smoothing,
        ent_coef=agent.entropy,
        seed=seed,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": Heads,
            "features_extractor_kwargs": {
                "graph": graph,
                "hidden": agent.hidden,
                "layers": agent.layers,
                "convolution": agent.convolution,
                "trust": agent.trust,
            },
        },
    )
    # Left alone it makes a folder for its own figures; those worth keeping go to the progress.
    learner.set_logger(Logger(None, []))
    return learner


def spread(path: Sequence[State]) -> list[State]:
    """Return at most `KEPT` states of a path, evenly, with both ends."""
    return evenly(path, KEPT)


class Watch(BaseCallback):
    """Follows the best state, and ends learning."""

    def __init__(self, environment: Pruning, agent: Agent, progress: Progress) -> None:
        super().__init__()
        self._environment, self._agent, self._progress = environment, agent, progress
        self.curve = [(environment.evaluations, environment.best.worth)]
        self._told = self._idle = self._episodes = 0

    def _on_step(self) -> bool:
        self._episodes += int(self.locals["dones"].sum())
        known, best = self._environment.evaluations, self._environment.best
        if best.worth > self.curve[-1][1]:
            self.curve.append((known, best.worth))
        # A look at what changes would do counts for several evaluations, and may be the last.
        for _ in range(self._told, min(known, self._agent.evaluations)):
            self._progress.advance(
                episode=self._episodes,
                worth=best.worth,
                agreement=best.measured.agreement,
                trigger=best.measured.success,
                pruned=self._environment.count(best.pruned),
            )
        # A policy that only visits what it knows measures nothing.
        self._idle = 0 if known > self._told else self._idle + 1
        self._told = known
        agent = self._agent
        return (
            known < agent.evaluations
            and known - self.curve[-1][0] < agent.patience
            and self._idle < agent.rollout
        )


@contextmanager
def own_randomness() -> Iterator[None]:
    """Give the block global generators of its own: the library seeds them."""
    # The library draws from numpy's global generator.
    numbers, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    # Not to wake up devices that nothing else uses.
    awake = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if awake else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(numbers)
            np.random.set_state(arrays)  # noqa: NPY002


def _known(graph: Data, groups: Sequence[Sequence[int]], chosen: Sequence[int]) -> Data:
    """Return the graph with the action of each node."""
    known = copy(graph)
    known.action = torch.full((len(graph.x),), -1)
    for number, place in enumerate(chosen):
        known.action[list(groups[place])] = number
    return known


def _candidates(groups: Sequence[Sequence[int]], suspected: Tensor, start: set[int], count: int) -> list[int]:
    """Return the groups to choose among: those of the start, and the most suspected."""
    first = {place for place, group in enumerate(groups) if start & set(group)}
    order = suspected.argsort(descending=True, stable=True).tolist()
    others = [place for place in order if place not in first]
    return sorted([*first, *others[: max(0, count - len(first))]])
