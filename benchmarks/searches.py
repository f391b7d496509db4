"""The searches that the study compares: ONP, parts of it, and simpler ones, for the same reward."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from problems import Problem
from torch import Tensor

from secateur.progress import Silent
from secateur.repair.onp.environment import EXPECTING, Pruning, State
from secateur.repair.onp.learning import Learned, learn, spread
from secateur.repair.trials import Trials

NEVER = 1e-30
"""A learning rate with which nothing is learned."""
DOUBTING = {"trust": 0.0, "rate": 0.01}
"""Settings with which what is expected of proposals does not decide, and learning is fast."""
TRIES = 10
"""Changes for each evaluation, at most: around a best choice that stays, local search soon knows all."""


def along(given: Problem, order: Tensor) -> tuple[list[State], list[Any]]:
    """Prune the first units of an order, one more each time."""
    environment = given.environment()
    units = order.tolist()
    curve = Curve(environment)
    for count in range(1, min(given.most, given.agent.evaluations) + 1):
        environment.visit(frozenset(units[:count]))
        curve.look()
    return spread(environment.path), curve.points


class Curve:
    """The best worth over evaluations."""

    def __init__(self, environment: Pruning) -> None:
        self._environment = environment
        self.points: list[tuple[int, float]] = []
        self.look()

    def look(self, free: int = 0) -> None:
        """Note an improvement; some evaluations may be free."""
        best = self._environment.best.worth
        if not self.points or best > self.points[-1][1]:
            self.points.append((self._environment.evaluations - free, best))


def wandering(given: Problem, seed: int) -> tuple[list[State], list[Any]]:
    """Follow random policies from RNP's choice: any proposal is as likely as another."""
    environment = given.environment(given.start)
    curve = Curve(environment)
    source = random.Random(seed)
    environment.reset(seed=seed)
    # What is expected of changes is not told, and does not count.
    free = EXPECTING
    while environment.evaluations - free < given.agent.evaluations:
        actions = environment.action_masks().nonzero()[0]
        _, _, terminated, truncated, _ = environment.step(source.choice(actions))
        curve.look(free)
        if terminated or truncated:
            begun = environment.evaluations
            environment.reset()
            free += environment.evaluations - begun
    return spread(environment.path), curve.points


def staying(given: Problem, seed: int) -> tuple[list[State], list[Any]]:
    """Stay with RNP's choice."""
    environment = given.environment(given.start)
    return [environment.best], Curve(environment).points


def local(given: Problem, seed: int) -> tuple[list[State], list[Any]]:
    """Change one or two units of the best choice, and keep what is better; from RNP's choice."""
    environment = given.environment(given.start)
    curve = Curve(environment)
    source = random.Random(seed)
    suspects = given.carried.argsort(descending=True, stable=True)[: given.agent.candidates].tolist()
    for _ in range(TRIES * given.agent.evaluations):
        if environment.evaluations >= given.agent.evaluations:
            break
        best = environment.best.pruned
        several = source.sample([*suspects, *best], source.choice((1, 1, 2)))
        changed = best ^ frozenset(several)
        if len(changed) <= given.most:
            environment.visit(changed)
        curve.look()
    return spread(environment.path), curve.points


def searched(
    given: Problem,
    seed: int,
    *,
    trials: Trials | None = None,
    started: bool = True,
    grouped: bool = False,
    policy: dict[str, Tensor] | None = None,
    **changes: Any,
) -> Learned:
    """Learn, from RNP's choice or from nothing."""
    return learn(
        replace(given.agent, patience=given.agent.evaluations, **changes),
        trials or given.trials,
        given.searching.graph(given.carried),
        sorted(given.start) if started else (),
        groups=given.searching.grouped() if grouped else given.searching.groups,
        suspicion=given.carried if trials is None else 1 - given.searching.masks,
        most=given.most,
        policy=policy,
        generator=torch.Generator().manual_seed(seed),
        progress=Silent(),
    )


def learning(given: Problem, seed: int, **settings: Any) -> tuple[list[State], list[Any]]:
    """Return states and curve of a search that learns."""
    learned = searched(given, seed, **settings)
    return list(learned.states), list(learned.curve)


def in_groups(given: Problem, seed: int) -> tuple[list[State], list[Any]]:
    """Learn with units that meet at an addition together; RNP's choice, which may split them, comes first."""
    if len(given.searching.grouped()) == given.total:
        return [], []
    states, curve = learning(given, seed, grouped=True)
    return [given.environment(given.start).best, *states], curve


Search = Callable[[Problem, int], tuple[list[State], list[Any]]]
SEARCHES: dict[str, tuple[str, Search]] = {
    "onp": ("ONP", learning),
    "taught": (
        "ONP, taught on other networks",
        lambda given, seed: learning(given, seed, policy=given.taught) if given.taught else ([], []),
    ),
    "alone": ("ONP from nothing", partial(learning, started=False)),
    "gcn": ("ONP, GCN", partial(learning, convolution="gcn")),
    "gat": ("ONP, GAT", partial(learning, convolution="gat")),
    "mlp": ("ONP without messages", partial(learning, convolution="none")),
    "grouped": ("ONP, residual groups", in_groups),
    "still": ("ONP that never learns", partial(learning, rate=NEVER)),
    "alone-still": ("ONP from nothing that never learns", partial(learning, started=False, rate=NEVER)),
    "doubting": ("ONP from nothing, no trust", partial(learning, started=False, **DOUBTING)),
    "doubting-still": (
        "ONP from nothing, no trust, that never learns",
        partial(learning, started=False, **(DOUBTING | {"rate": NEVER})),
    ),
    "pointed": (
        "ONP from nothing, without triggers",
        lambda given, seed: (
            learning(given, seed, trials=given.pointed, started=False) if given.pointed else ([], [])
        ),
    ),
    "rnp": ("RNP's choice", staying),
    "local": ("local search", local),
    "mask": (
        "greedy by mask",
        lambda given, seed: (
            ([], [])
            if given.searching.masks is None
            else along(given, given.searching.masks.argsort(stable=True))
        ),
    ),
    "change": (
        "greedy by change",
        lambda given, seed: along(
            given, given.searching.activity.change.argsort(descending=True, stable=True)
        ),
    ),
    "random": ("random policies", wandering),
}
