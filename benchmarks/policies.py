"""Does the learning earn its keep? ONP against simpler searches, for the same reward and evaluations.

    python benchmarks/policies.py --teach NAME ...
    python benchmarks/policies.py [--only NAME ...] [--seeds 0 1 2] [--evaluations 400] [--searches NAME ...]
    python benchmarks/policies.py --draw

RNP exposes each network and erases what it finds; the triggers of all its rounds make the reward. Then each
search has the same number of evaluations, from RNP's choice or, where its name says so or it has an order of
its own, from nothing. One begins with a policy that was taught on other networks, one after the other, by
``--teach``. What it finds is measured on test images, which no search sees. Results go to
``benchmarks/results/policies.json``; what is there is not measured again.
"""

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from checkpoints import HERE, SHARED
from exposure import Subject
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.expose import Case, Exposed, Found, InvertedTrigger
from secateur.files import atomic_path, write_text
from secateur.progress import Silent
from secateur.repair import RNP
from secateur.repair.chosen import Chosen
from secateur.repair.dominance import Dominance
from secateur.repair.erasing import Improving
from secateur.repair.onp import Agent, Graphing
from secateur.repair.onp.environment import EXPECTING, Pruning, State, ranked_elsewhere, worth
from secateur.repair.onp.learning import Learned, learn, spread
from secateur.repair.onp.search import Searching
from secateur.repair.trials import Trials
from secateur.units import all_units, prune

RESULTS = HERE / "results" / "policies.json"
FIGURE = HERE.parent / "docs" / "images" / "policies.png"
TAUGHT = "taught.safetensors"
"""In the work folder: weights of the policy that was taught."""
MOST = 0.9
"""Share of what a search gains at which it counts as arrived."""
NEVER = 1e-30
"""A learning rate with which nothing is learned."""
TRIES = 10
"""Changes for each evaluation, at most: around a best choice that stays, local search soon knows all."""


@dataclass(frozen=True)
class Problem:
    """What is searched, and what a search may know.

    Attributes
    ----------
    subject, case
        The network; a search sees the case alone.
    trials, held
        Measure choices on learning and on held-out images.
    pointed
        The same on learning images, with what unlearning points to instead of triggers.
    searching
        The graph and what else is known of units.
    carried
        Share of the triggers' margin that each unit carries, ``(total,)``.
    start
        What RNP pruned.
    agent
        With the number of evaluations.
    most
        Units that may be pruned.
    taught
        Weights of a policy that was learned on other networks, if there is one.
    """

    subject: Subject
    case: Case
    trials: Trials
    held: Trials
    pointed: Trials | None
    searching: Searching
    carried: Tensor
    start: frozenset[int]
    agent: Agent
    most: int
    taught: dict[str, Tensor]

    @property
    def total(self) -> int:
        """Number of units."""
        return self.case.discovery.total

    def environment(self, start: Collection[int] = ()) -> Pruning:
        """Return an environment of all units."""
        return Pruning(
            self.trials,
            [[unit] for unit in range(self.total)],
            self.total,
            self.agent,
            most=self.most,
            start=start,
            generator=torch.Generator().manual_seed(0),
        )


class Remembering(RNP):
    """RNP that keeps what it erased or silenced."""

    def _erase(self, case: Case, exposed: Exposed, found: Found, improve: Improving | None = None) -> Chosen:
        return self._remember(super()._erase(case, exposed, found, improve), exposed, found)

    def _silence(self, case: Case, exposed: Exposed, found: InvertedTrigger) -> Chosen:
        return self._remember(super()._silence(case, exposed, found), exposed, found)

    def _remember(self, chosen: Chosen, exposed: Exposed, found: Found) -> Chosen:
        erased = chosen.erased
        REMEMBERED[:] = [
            {
                "exposed": exposed,
                "found": found,
                "known": erased.defeated if erased else [found],
                "start": list(chosen.choice.pruned),
                "share": self.erasing.share if erased else self.silencing.share,
            }
        ]
        return chosen


REMEMBERED: list[dict[str, Any]] = []
METHOD = Remembering(polishing=None)


@contextmanager
def problem(subject: Subject, seed: int, agent: Agent, work: Path) -> Iterator[Problem | None]:
    """Expose and erase, unless that is in `work` already; yield None where no trigger stands out.

    Meanwhile the network answers with logits.
    """
    path = work / f"{subject.name}-{seed}.pt"
    network, clean = subject.model.network, subject.clean(seed)
    if not path.exists():
        REMEMBERED.clear()
        METHOD(network, clean, generator=torch.Generator().manual_seed(seed))
        with atomic_path(path) as temporary:
            torch.save(REMEMBERED[0] if REMEMBERED else None, temporary)
    # What this script wrote itself.
    known = torch.load(path, weights_only=False)
    if known is None:
        yield None
        return
    case = Case.of(network, clean, torch.Generator().manual_seed(seed), Silent())
    case.network.requires_grad_(False)
    exposed, found = known["exposed"], known["found"]
    tried_on = partial(METHOD.erasing.trials, case.network, case.discovery.layers, shift=METHOD.shift)
    with case.stage("searching"), Dominance.of(exposed, case.example) as dominance:
        if dominance and dominance.label != found.label:
            dominance = None
        trials, held = (
            tried_on(images, known["known"], pointed=dominance)
            for images in (case.clean, replace(case.clean, learn=case.clean.choose))
        )
        pointed = tried_on(case.clean, [dominance]) if dominance else None
        yield Problem(
            subject,
            case,
            trials,
            held,
            pointed,
            Searching(
                case,
                exposed,
                found,
                graphing=Graphing(),
                agent=agent,
                recovering=METHOD.recovering,
                grouped=False,
            ),
            trials.slopes(torch.ones(case.discovery.total))[0].clamp(0, 1),
            frozenset(known["start"]),
            agent,
            math.floor(known["share"] * case.discovery.total),
            load_file(work / TAUGHT) if (work / TAUGHT).is_file() else {},
        )


def teach(names: Sequence[str], options: argparse.Namespace) -> None:
    """Learn a policy on one network after the other, with the first seed, and keep it in the work folder."""
    policy: dict[str, Tensor] = {}
    for name in names:
        agent = Agent(evaluations=options.evaluations)
        with problem(Subject(name, options), 0, agent, options.work) as given:
            if given is None:
                print(name, "no trigger stands out", flush=True)
                continue
            learned = searched(given, 0, policy=policy)
        policy = learned.policy
        (_, first), (_, last) = learned.curve[0], learned.curve[-1]
        print(name, learned.evaluations, round(first, 4), round(last, 4), flush=True)
        with atomic_path(options.work / TAUGHT) as temporary:
            save_file(policy, temporary)


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

    def look(self) -> None:
        """Note an improvement."""
        best = self._environment.best.worth
        if not self.points or best > self.points[-1][1]:
            self.points.append((self._environment.evaluations, best))


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
        curve.look()
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
    policy: dict[str, Tensor] | None = None,
    **changes: Any,
) -> Learned:
    """Learn, from RNP's choice or from nothing."""
    return learn(
        replace(given.agent, patience=given.agent.evaluations, **changes),
        trials or given.trials,
        given.searching.graph(given.carried),
        sorted(given.start) if started else (),
        groups=given.searching.groups,
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
    "still": ("ONP that never learns", partial(learning, rate=NEVER)),
    "pointed": (
        "ONP without triggers",
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


def measured(given: Problem, states: Sequence[State], curve: Sequence[Any], seconds: float) -> dict[str, Any]:
    """Take the best state by held-out images, as ONP does, and measure it on test images."""
    ones, price = torch.ones(given.total), given.agent.price
    choices = [state.pruned for state in states]
    best, held = ranked_elsewhere(given.held, choices, ones, price)[0]
    units = list(all_units(given.case.discovery.layers))
    network = prune(
        given.subject.model.network,
        given.case.discovery.layers,
        [units[unit] for unit in sorted(best)],
    )
    return given.subject.measure(network) | {
        "worth": worth(states[choices.index(best)].measured, price, 0, 0.0),
        "held": held,
        "pruned": len(best),
        "curve": [[count, round(value, 5)] for count, value in curve],
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--specimens", type=Path, default=Path(".specimens"))
    parser.add_argument("--data", default=str(SHARED / "data" / "cifar10"))
    parser.add_argument("--only", nargs="*", default=None, help="names of checkpoints or specimens")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--work", type=Path, default=Path(".policies"), help="folder for what is exposed")
    parser.add_argument("--searches", nargs="*", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--teach", nargs="*", default=(), help="networks that a policy learns on first")
    parser.add_argument("--draw", action="store_true", help="only draw the figure and render the table")
    options = parser.parse_args()
    stored: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {"cells": {}}
    cells = stored["cells"]
    if not options.draw:
        options.work.mkdir(parents=True, exist_ok=True)
        if options.teach:
            teach(options.teach, options)
            return
        cards = json.loads((options.shared / "checkpoints" / "checkpoints.json").read_text())
        for name in options.only or [card["name"] for card in cards if card["trigger"]]:
            subject = Subject(name, options)
            for seed in options.seeds:
                missing = [kind for kind in options.searches if f"{name}|{kind}|{seed}" not in cells]
                if not missing:
                    continue
                agent = Agent(evaluations=options.evaluations)
                with problem(subject, seed, agent, options.work) as given:
                    for kind in missing if given else ():
                        start = time.perf_counter()
                        states, curve = SEARCHES[kind][1](given, seed)
                        if not states:
                            continue
                        found = measured(given, states, curve, time.perf_counter() - start)
                        cells[f"{name}|{kind}|{seed}"] = found
                        write_text(options.out, json.dumps(stored, indent=1) + "\n")
                        told = {key: found[key] for key in ("worth", "held", "pruned", "seconds")}
                        rates = [round(100 * found[key]["value"], 1) for key in ("acc", "asr")]
                        print(name, kind, seed, told, rates, flush=True)
    draw(cells, FIGURE)
    print(table(cells), transfer(cells), sep="\n\n")


def table(cells: dict[str, Any]) -> str:
    """Render worth, ACC and ASR by search, as Markdown: median over seeds."""
    names = list(dict.fromkeys(key.split("|")[0] for key in cells))
    lines = [
        "| search | " + " | ".join(f"`{name}`" for name in names) + " |",
        "| --- " * (1 + len(names)) + "|",
    ]
    for kind, (title, _) in SEARCHES.items():
        row = []
        for name in names:
            found = [value for key, value in cells.items() if key.startswith(f"{name}|{kind}|")]
            if not found:
                row.append("")
                continue
            worths = [value["held"] for value in found]
            acc, asr = (
                statistics.median(100 * value[what]["value"] for value in found) for what in ("acc", "asr")
            )
            spread = f"{min(worths):.3f} to {max(worths):.3f}"
            row.append(f"{statistics.median(worths):.3f} ({spread}); {acc:.1f} / {asr:.1f}")
        lines.append(f"| {title} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def transfer(cells: dict[str, Any]) -> str:
    """Render how many evaluations bring most of what ONP gains, without and with a taught policy."""
    lines = ["| network, seed | gain | evaluations | taught |", "| --- " * 4 + "|"]
    for key, value in cells.items():
        name, kind, seed = key.split("|")
        taught = cells.get(f"{name}|taught|{seed}")
        if kind != "onp" or taught is None:
            continue
        (_, first), (_, last) = value["curve"][0], value["curve"][-1]
        level = first + MOST * (last - first)
        needed = [
            next((str(count) for count, worth in found["curve"] if worth >= level), "not reached")
            for found in (value, taught)
        ]
        lines.append(f"| `{name}`, {seed} | {last - first:.3f} | {' | '.join(needed)} |")
    return "\n".join(lines)


def draw(cells: dict[str, Any], path: Path) -> None:
    """Draw the best worth over evaluations, median over seeds, for each network."""
    names = list(dict.fromkeys(key.split("|")[0] for key in cells))
    figure = Figure(figsize=(4 * max(1, len(names)), 3.6), layout="constrained")
    panels = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=False):
        for kind, (title, _) in SEARCHES.items():
            curves = [value["curve"] for key, value in cells.items() if key.startswith(f"{name}|{kind}|")]
            if not curves:
                continue
            ends = sorted({count for curve in curves for count, _ in curve})
            values = [
                statistics.median(max((v for c, v in curve if c <= count), default=0.0) for curve in curves)
                for count in ends
            ]
            axes.step(ends, values, where="post", label=title, linewidth=1.3)
        axes.set_title(name, fontsize=9)
        axes.set_ylim(-0.05, 1.02)
        axes.set_xlabel("evaluations")
    panels[0].set_ylabel("best worth")
    panels[-1].legend(fontsize=7, loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


if __name__ == "__main__":
    main()
