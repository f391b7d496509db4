"""The search for a mask as an environment: what is pruned, one more or one less, and what that is worth.

An episode begins at the best state found so far with some of its prunings undone, so that the agent learns
to finish what is nearly right instead of finding the first units anew in every episode.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from secateur.repair.trials import FREE, Measured, Trials

Observation = dict[str, NDArray[np.float32]]
SENSITIVE = 20.0
"""Differences in worth are told to the policy by the hyperbolic tangent of so many times as much."""
KEPT = 16
"""States that are remembered: the best may cost more held-out accuracy than allowed."""


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


def worth(now: Measured, before: Measured, price: float) -> float:
    """Return what of the triggers is gone, strength and success alike, less the price of the divergence.

    The strength falls with every unit that matters, long before any image is safe; once it is low, what is
    left of it says less of the backdoor than the images on which a trigger still succeeds.
    """
    return 1 - left(now, before) - price * now.cost


def left(now: Measured, before: Measured) -> float:
    """Return what of the triggers is left, 1 with nothing pruned."""
    return (now.strength + now.success / max(before.success, FREE)) / 2


def worths(trials: Trials, choices: Iterable[Collection[int]], flat: Tensor, price: float) -> list[float]:
    """Return what each choice of units is worth, as on images that it was not fitted to.

    Parameters
    ----------
    trials
        Measures choices.
    choices
        Positions of the units that are pruned.
    flat
        Masks of the network as it came, ``(total,)``, ones.
    price
        Of a nat.
    """
    trials.settle(flat)
    before, found = trials.now, []
    for pruned in choices:
        masks = flat.clone()
        masks[sorted(pruned)] = 0
        trials.settle(masks)
        found.append(worth(trials.now, before, price))
    return found


class Pruning(gymnasium.Env[Observation, np.int64]):
    """Prune or restore a group of units at each step, or stop.

    The worth of a state is what of the triggers is gone, less a price for each nat by which clean answers
    diverge from those of the network as it came. The reward is what a step adds to it, so that an episode's
    rewards sum to what it has changed. All of it is seen by a defender.

    An observation holds, of every action, whether its units are pruned (``pruned``, ``(A,)``) and what is
    known of it (``seen``, ``(A, 4)``, see `SENSITIVE`): whether the state it leads to was measured, and by
    how much that is better; what of the triggers it took away and what it cost when it was last taken, from
    any state. ``progress`` are success, worth, and the share of the episode's steps.

    Parameters
    ----------
    trials
        Measures states.
    groups
        Units of each action, positions among `total`.
    total
        Units of the network.
    price
        Of a nat, above 0.
    steps
        Of an episode, at most.
    undone
        Share of the best state's prunings that an episode begins without, on average, in ``[0, 1]``.
    most
        Units that may be pruned at once.

    Attributes
    ----------
    best
        The best states so far, best first.
    evaluations
        States measured so far; those seen before are not measured again.
    """

    def __init__(
        self,
        trials: Trials,
        groups: Sequence[Sequence[int]],
        total: int,
        *,
        price: float,
        steps: int,
        undone: float,
        most: int,
    ) -> None:
        self._trials, self._groups = trials, [list(group) for group in groups]
        self._ones = torch.ones(total)
        self._price, self._steps, self._undone, self._most = price, steps, undone, most
        count = len(self._groups)
        self.action_space = spaces.Discrete(count + 1)
        self.observation_space: spaces.Space[Observation] = spaces.Dict(  # type: ignore[assignment]
            {
                "pruned": spaces.Box(0.0, 1.0, (count,), np.float32),
                "seen": spaces.Box(-1.0, 1.0, (count, 4), np.float32),
                "progress": spaces.Box(-np.inf, np.inf, (3,), np.float32),
            }
        )
        self._effects = np.zeros((count, 2), np.float32)
        self._known: dict[frozenset[int], Measured] = {}
        trials.settle(self._ones)
        self._before = self._known[frozenset()] = trials.now
        self.evaluations, self._step = 1, 0
        self.best: list[State] = []
        self._pruned: frozenset[int] = frozenset()
        self._now = self.visit(self._pruned)

    def visit(self, pruned: frozenset[int]) -> State:
        """Measure a state, and remember it if it is among the best and prunes no more than allowed."""
        if pruned not in self._known:
            self._trials.settle(self.mask(pruned))
            self._known[pruned] = self._trials.now
            self.evaluations += 1
        measured = self._known[pruned]
        state = State(pruned, worth(measured, self._before, self._price), measured)
        allowed = self._count(pruned) <= self._most
        if allowed and all(known.pruned != pruned for known in self.best):
            self.best = sorted([*self.best, state], key=lambda one: (-one.worth, len(one.pruned)))[:KEPT]
        return state

    def mask(self, pruned: frozenset[int]) -> Tensor:
        """Return masks of all units, ``(total,)``."""
        flat = self._ones.clone()
        for action in pruned:
            flat[self._groups[action]] = 0
        return flat

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin near the best state, or at the start if nothing is better."""
        super().reset(seed=seed, options=options)
        share = self.np_random.uniform(0, 2 * self._undone)
        pruned = sorted(self.best[0].pruned)
        stays = self.np_random.random(len(pruned)) >= share
        self._pruned = frozenset(action for action, stay in zip(pruned, stays, strict=True) if stay)
        self._now, self._step = self.visit(self._pruned), 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Prune the action's units or, if they are pruned, restore them; the last action stops."""
        self._step += 1
        if int(action) == len(self._groups):
            return self._observation(), 0.0, True, False, {}
        before = self._now
        self._pruned = self._pruned ^ {int(action)}
        self._now = self.visit(self._pruned)
        self._effects[action] = self._effect(before.measured, self._now.measured)
        if action not in self._pruned:
            self._effects[action] *= -1
        return (
            self._observation(),
            self._now.worth - before.worth,
            False,
            self._step >= self._steps,
            {"success": self._now.measured.success, "cost": self._now.measured.cost},
        )

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions make sense: prune no more than allowed, and do not stop at once if one can."""
        full = self._count(self._pruned)
        allowed = [
            action in self._pruned or full + len(group) <= self._most
            for action, group in enumerate(self._groups)
        ]
        return np.array([*allowed, self._step > 0 or not any(allowed)], dtype=np.bool_)

    def _count(self, pruned: Collection[int]) -> int:
        return sum(len(self._groups[action]) for action in pruned)

    def _effect(self, before: Measured, after: Measured) -> NDArray[np.float32]:
        """Return what a step took away of the triggers and what it cost, on the scale of observations."""
        taken = left(before, self._before) - left(after, self._before)
        cost = self._price * (after.cost - before.cost)
        told: NDArray[np.float32] = np.tanh(np.array([taken, cost], np.float32) * SENSITIVE)
        return told

    def _observation(self) -> Observation:
        pruned = np.zeros(len(self._groups), np.float32)
        pruned[list(self._pruned)] = 1.0
        seen = np.zeros((len(pruned), 4), np.float32)
        for action in range(len(pruned)):
            measured = self._known.get(self._pruned ^ {action})
            if measured is not None:
                gained = worth(measured, self._before, self._price) - self._now.worth
                seen[action, :2] = 1.0, np.tanh(SENSITIVE * gained)
        seen[:, 2:] = self._effects * (1 - 2 * pruned)[:, None]
        now = self._now.measured
        progress = [now.success, self._now.worth, self._step / self._steps]
        return {"pruned": pruned, "seen": seen, "progress": np.array(progress, np.float32)}
