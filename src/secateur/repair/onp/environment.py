"""The search for a mask as an environment: each step proposes to prune or to restore a group of units.

A proposal that makes the choice worse is taken back, so that the agent learns what to propose, not how to
find its way back; one that is hardly worse is kept for the episode: two changes may gain what neither does.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from secateur.repair.measured import Measured
from secateur.repair.onp.settings import Agent
from secateur.repair.trials import Trials

Observation = dict[str, NDArray[np.float32]]
SLACK = 0.005
"""Of the triggers, so much more may be left than by the first choice, less than one image that yields; and so
many nats more may be paid."""
CHANCE = 0.05
"""Probability, at most, that of choices that are no better than the first any is taken for better."""
SENSITIVE = 20.0
"""Differences in worth are told to the policy by the hyperbolic tangent of so many times as much."""
OPEN = 1e-3
"""Mask of a pruned unit for what restoring it would do: at 0, no gradient passes a rectifier."""
EXPECTING = 8
"""Evaluations that what is expected counts for: passes forward and several back, none of them re-used.

What it takes is measured in ``docs/onp.md``.
"""


@dataclass(frozen=True)
class State:
    """What is pruned, and what that is worth.

    Attributes
    ----------
    pruned
        Actions whose units are pruned.
    worth
        1 with every trigger defeated at no cost, 0 with nothing pruned.
    measured
        Of the network without them.
    """

    pruned: frozenset[int]
    worth: float
    measured: Measured


def worth(measured: Measured, price: float, pruned: int, thrift: float) -> float:
    """Return what of the triggers is gone, less the price of the divergence and that of each unit."""
    return 1 - measured.left - price * measured.cost - thrift * pruned


def no_worse(measured: Measured, firsts: Sequence[Measured]) -> bool:
    """Say whether a choice is as good as the worst of others in both, triggers left and cost.

    It may be worse by `SLACK`. Where there is no other, any is as good.
    """
    return not firsts or (
        measured.left <= max(first.left for first in firsts) + SLACK
        and measured.cost <= max(first.cost for first in firsts) + SLACK
    )


def without(flat: Tensor, units: Collection[int]) -> Tensor:
    """Return masks, ``(total,)``, with those of `units` 0 and the others as in `flat`."""
    masks = flat.clone()
    masks[list(units)] = 0
    return masks


def ranked_elsewhere(
    trials: Trials, choices: Sequence[Collection[int]], flat: Tensor, price: float
) -> list[tuple[Collection[int], float]]:
    """Return choices, that worth most first, and their worth on images that they were not fitted to.

    Units are free. The first choice is the last: others are left out unless they are shown to be worth more
    than it is. Like a search, it passes over those that are worse than the first in one respect, unless that
    prunes nothing.

    Parameters
    ----------
    trials
        Measures choices.
    choices
        Positions of the units that are pruned, at least one choice.
    flat
        Masks of the network as it came, ``(total,)``, ones.
    price
        Of a nat.
    """
    trials.settle(without(flat, choices[0]))
    start, better = trials.now, list[tuple[Collection[int], float]]()
    others = [choice for choice in choices[1:] if set(choice) != set(choices[0])]
    # Each is tested, and one that passes by chance is enough (Bonferroni).
    shown = NormalDist().inv_cdf(1 - CHANCE / max(1, len(others)))
    for choice in others:
        other = trials.compare(without(flat, choice), price)
        if other.gain > shown * other.error and no_worse(other.measured, [start] if choices[0] else []):
            better.append((choice, worth(other.measured, price, 0, 0.0)))
    better.sort(key=lambda pair: pair[1], reverse=True)
    return [*better, (choices[0], worth(start, price, 0, 0.0))]


class Pruning(gymnasium.Env[Observation, np.int64]):
    """Propose to prune a group of units, or to restore it if it is pruned.

    The worth of a state is what of the triggers is gone, less a price for each nat by which clean answers
    diverge from those of the network as it came, and a small one for each unit: what gains less is as likely
    to fit the images that states are measured on. An episode begins at the best state found so far. What
    proposals lead to is measured, several at once as long as that gains: twice as many after each gain, half
    as many after each failure. It is kept unless it falls short of the best state by more than is
    tolerated, or prunes too much, or is worse than the first in one respect (see `no_worse`): triggers are
    likenesses of the planted one, which may be at work where they hardly are, and accuracy that is paid for
    what is left of a likeness may be paid for nothing. The reward is what a step adds to the state's worth,
    so that an episode's rewards sum to what it has changed. All of it is seen by a defender.

    An observation holds, of every action, whether its units are pruned or proposed to be (``pruned``,
    ``(A,)``) and what is known of it (``seen``, ``(A, 6)``, see `SENSITIVE`): whether the state it leads to
    was measured, and by how much that is better; what of the triggers it took away and what that cost when it
    was last proposed alone, in any state; and both as expected of it (see `Trials.expect`) at the state in
    which the episode began. ``progress`` are success, worth, the share of the episode's steps, and that of
    the proposals that wait to be measured.

    Parameters
    ----------
    trials
        Measures states.
    groups
        Units of each action, positions among `total`.
    total
        Units of the network.
    agent
        Its price, thrift, steps, reach and what it tolerates.
    most
        Units that may be pruned at once.
    start
        Actions whose units are pruned in the first state.
    first
        Units, positions among `total`, of the choice that the first state came from; by default those of
        `start`. Where actions are of several units the first state cannot have them all: then a state may be
        as bad, in each respect, as the worse of both, or a search could not come from one to the other step
        by step.
    generator
        Draws what the cost's curvature is estimated with.

    Attributes
    ----------
    path
        The first state, and others that were better than all before; the best is the last.
    evaluations
        One for each state measured so far, and `EXPECTING` for each from which it was computed what changes
        would do; what is known is not measured again.
    """

    def __init__(
        self,
        trials: Trials,
        groups: Sequence[Sequence[int]],
        total: int,
        agent: Agent,
        *,
        most: int,
        start: Collection[int] = (),
        first: Collection[int] | None = None,
        generator: torch.Generator,
    ) -> None:
        self._generator = generator
        self._trials, self._groups = trials, [list(group) for group in groups]
        self._ones = torch.ones(total, device=trials.device)
        self._agent, self._most = agent, most
        count = len(self._groups)
        self.action_space = spaces.Discrete(count)
        self.observation_space: spaces.Space[Observation] = spaces.Dict(  # type: ignore[assignment]
            {
                "pruned": spaces.Box(0.0, 1.0, (count,), np.float32),
                "seen": spaces.Box(-1.0, 1.0, (count, 6), np.float32),
                "progress": spaces.Box(-np.inf, np.inf, (4,), np.float32),
            }
        )
        # What restoring the units of each action changes: what is left of the triggers, and the price of it.
        self._effects, self._expected = np.zeros((count, 2)), np.zeros((count, 2))
        self._curvature = np.zeros(count)
        self._looked_from: frozenset[int] | None = None
        self._known: dict[frozenset[int], State] = {}
        self.evaluations, self._step, self._reach = 0, 0, 1
        self._pending: frozenset[int] = frozenset()
        self.path: list[State] = []
        self._firsts: list[Measured] = []
        self._now = self.visit(frozenset(start))
        begun = self._units(start)
        if first is not None and set(first) != begun:
            self._firsts = [trials.measure(without(self._ones, first)), self._now.measured]
            self.evaluations += 1
        elif begun:
            self._firsts = [self._now.measured]

    def visit(self, pruned: frozenset[int]) -> State:
        """Measure a state, and remember it if it is the best so far and allowed."""
        if pruned not in self._known:
            measured = self._trials.measure(self.mask(pruned))
            value = worth(measured, self._agent.price, self.count(pruned), self._agent.thrift)
            self._known[pruned] = state = State(pruned, value, measured)
            self.evaluations += 1
            if not self.path or (value > self.best.worth and self._keeps(state)):
                self.path.append(state)
            if self._keeps(state):
                # The next state will differ from this one: the layers before the first change are known.
                self._trials.accept()
        return self._known[pruned]

    @property
    def best(self) -> State:
        """The best state so far."""
        return self.path[-1]

    def count(self, pruned: Collection[int]) -> int:
        """Return how many units some actions prune."""
        return sum(len(self._groups[action]) for action in pruned)

    def mask(self, pruned: frozenset[int]) -> Tensor:
        """Return masks of all units, ``(total,)``."""
        return without(self._ones, self._units(pruned))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin at the best state, and look at what changes of it would do unless that is known."""
        super().reset(seed=seed, options=options)
        self._now, self._step, self._pending = self.best, 0, frozenset()
        if self._looked_from != self._now.pruned:
            self._looked_from = self._now.pruned
            expected = self._trials.expect(self.mask(self._now.pruned).clamp_min(OPEN), self._generator)
            # A unit that is restored costs nothing any more.
            each = torch.stack([expected.left, self._agent.price * expected.cost - self._agent.thrift], 1)
            each, curvature = each.cpu(), self._agent.price * expected.curvature.cpu()
            self._expected = np.array([each[group].sum(0).tolist() for group in self._groups])
            self._curvature = np.array([float(curvature[group].sum()) for group in self._groups])
            self.evaluations += EXPECTING
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Propose; once enough wait, measure what they lead to, and go there unless it is much worse."""
        self._step += 1
        self._pending ^= {int(action)}
        before, last = self._now, self._step >= self._agent.steps
        if last or len(self._pending) >= self._reach:
            proposed = self.visit(self._proposed)
            if len(self._pending) == 1:
                (only,) = self._pending
                added = proposed.measured.left - before.measured.left
                cost = before.worth - proposed.worth - added
                self._effects[only] = np.array([added, cost]) * (1 if only in before.pruned else -1)
            if self._keeps(proposed):
                self._now = proposed
            gained = self._now.worth > before.worth
            self._reach = min(2 * self._reach, self._agent.reach) if gained else max(1, self._reach // 2)
            self._pending = frozenset()
        return (
            self._observation(),
            self._now.worth - before.worth,
            last,
            False,
            {"success": self._now.measured.success, "cost": self._now.measured.cost},
        )

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which proposals make sense: they prune no more than allowed and are not known to be worse.

        Where every one is known to be worse, all that are allowed; where none is, those that wait or would
        prune too much: a step must propose something, which is then withdrawn or taken back.
        """
        pruned = self._proposed
        full = self.count(pruned)
        allowed = np.array(
            [
                action not in self._pending and (action in pruned or full + len(group) <= self._most)
                for action, group in enumerate(self._groups)
            ]
        )
        worse = np.array([known is not None and not self._keeps(known) for known in self._around()])
        return next(mask for mask in (allowed & ~worse, allowed, ~allowed) if mask.any())

    def _units(self, actions: Collection[int]) -> set[int]:
        return {unit for action in actions for unit in self._groups[action]}

    @property
    def _proposed(self) -> frozenset[int]:
        return self._now.pruned ^ self._pending

    def _keeps(self, state: State) -> bool:
        return (
            state.worth >= self.best.worth - self._agent.tolerated
            and no_worse(state.measured, self._firsts)
            and self.count(state.pruned) <= self._most
        )

    def _around(self) -> list[State | None]:
        """Return the state that each action leads to, None where it is not known."""
        return [self._known.get(self._proposed ^ {action}) for action in range(len(self._groups))]

    def _observation(self) -> Observation:
        pruned = np.zeros(len(self._groups), np.float32)
        pruned[list(self._proposed)] = 1.0
        seen = np.zeros((len(pruned), 6), np.float32)
        for action, known in enumerate(self._around()):
            if known is not None:
                seen[action, :2] = 1.0, np.tanh(SENSITIVE * (known.worth - self._now.worth))
        changes = np.concatenate([self._effects, self._expected], 1) * (2 * pruned - 1)[:, None]
        changes[:, 3] += self._curvature / 2
        # What is left falls by what is taken.
        seen[:, 2:] = np.tanh(SENSITIVE * changes * np.array([-1, 1, -1, 1]))
        waiting = len(self._pending) / self._reach
        progress = [self._now.measured.success, self._now.worth, self._step / self._agent.steps, waiting]
        return {"pruned": pruned, "seen": seen, "progress": np.array(progress, np.float32)}
