"""Does the learning earn its keep? ONP against simpler searches, for the same reward and evaluations.

    python benchmarks/policies.py [--only NAME ...] [--seeds 0 1 2] [--evaluations 200] [--searches NAME ...]
    python benchmarks/policies.py --draw
    python benchmarks/tables.py

RNP exposes each network and erases what it finds; the triggers of all its rounds make the reward. Then each
search has the same number of evaluations, from RNP's choice or, where its name says so or it has an order of
its own, from nothing. One begins with a policy that has learned on other networks first, one after the other
(``--teach``). What it finds is measured on test images, which no search sees. Results go to
``benchmarks/results/policies.json``; what is there is not measured again. ``tables.py`` renders them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from checkpoints import HERE, SHARED, mean_difference
from exposure import Subject
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from problems import Problem, problem, version
from safetensors.torch import load_file, save_file
from searches import SEARCHES, searched
from torch import Tensor

from secateur.files import atomic_path, write_text
from secateur.repair.onp import Agent
from secateur.repair.onp.environment import State, ranked_elsewhere, worth
from secateur.units import all_units, prune

RESULTS = HERE / "results" / "policies.json"
FIGURE = HERE.parent / "docs" / "images" / "policies.png"
TEACHERS = ("cnn-mnist-badnets", "wrn16-1-badnets-centre")
"""Networks that a policy learns on by default, before it is used on others."""
AHEAD = {
    "alone-still": "alone",
    "doubting": "alone",
    "doubting-still": "doubting",
    "pointed": "alone",
}
"""What a search is compared with where that is not ONP."""
MOST = 0.9
"""Share of what a search gains at which it counts as arrived."""


def taught(options: argparse.Namespace) -> dict[str, Tensor]:
    """Return the policy that has learned on the teachers.

    It is kept in the work folder, for this version of the code.
    """
    name = "-".join(["taught", *options.teach, str(options.evaluations), version()])
    path = options.work / f"{name}.safetensors"
    if not path.is_file():
        learned = teach(options)
        with atomic_path(path) as temporary:
            save_file(learned, temporary)
    return load_file(path)


def teach(options: argparse.Namespace) -> dict[str, Tensor]:
    """Learn a policy on one teacher after the other, with the first seed."""
    policy: dict[str, Tensor] = {}
    for name in options.teach:
        agent = Agent(evaluations=options.evaluations)
        with problem(Subject(name, options), 0, agent, options.work, {}) as given:
            if given is None:
                print(name, "no trigger stands out", flush=True)
                continue
            learned = searched(given, 0, policy=policy)
        policy = learned.policy
        (_, first), (_, last) = learned.curve[0], learned.curve[-1]
        print(name, learned.evaluations, round(first, 4), round(last, 4), flush=True)
    return policy


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
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--work", type=Path, default=Path(".policies"), help="folder for what is exposed")
    parser.add_argument("--searches", nargs="*", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--teach", nargs="*", default=TEACHERS, help="networks that a policy learns on first")
    parser.add_argument("--draw", action="store_true", help="only draw the figure and render the table")
    options = parser.parse_args()
    stored: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {"cells": {}}
    cells = stored["cells"]
    if not options.draw:
        if cells and stored["evaluations"] != options.evaluations:
            parser.error(
                f"{options.out} is of {stored['evaluations']} evaluations: name another file by --out"
            )
        stored["evaluations"] = options.evaluations
        options.work.mkdir(parents=True, exist_ok=True)
        cards = json.loads((options.shared / "checkpoints" / "checkpoints.json").read_text())
        for name in options.only or [card["name"] for card in cards if card["trigger"]]:
            asked = [kind for kind in options.searches if kind != "taught" or name not in options.teach]
            missing = {
                seed: [kind for kind in asked if f"{name}|{kind}|{seed}" not in cells]
                for seed in options.seeds
            }
            if not any(missing.values()):
                continue
            known = taught(options) if any("taught" in kinds for kinds in missing.values()) else {}
            # Opened last: teachers of the same file bring classes of the same name, and it is to be pickled.
            subject = Subject(name, options)
            for seed, kinds in missing.items():
                if not kinds:
                    continue
                agent = Agent(evaluations=options.evaluations)
                with problem(subject, seed, agent, options.work, known) as given:
                    for kind in kinds if given else ():
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
    print(table(cells), paired(cells), transfer(cells), sep="\n\n")


def table(cells: dict[str, Any]) -> str:
    """Render what searches came to, as Markdown: worth on held-out images, then ACC / ASR on test images.

    Median over seeds and, in brackets, the range.
    """

    def worths(found: list[dict[str, Any]]) -> str:
        return middle([value["held"] for value in found], "{:.3f}")

    def rates(found: list[dict[str, Any]]) -> str:
        return " / ".join(
            middle([100 * value[what]["value"] for value in found], "{:.1f}") for what in ("acc", "asr")
        )

    names = list(dict.fromkeys(key.split("|")[0] for key in cells))
    tables = []
    for render in (worths, rates):
        lines = [
            "| search | " + " | ".join(f"`{name}`" for name in names) + " |",
            "| --- " * (1 + len(names)) + "|",
        ]
        for kind, (title, _) in SEARCHES.items():
            row = [[value for key, value in cells.items() if key.startswith(f"{n}|{kind}|")] for n in names]
            if any(row):
                lines.append(f"| {title} | {' | '.join(render(found) if found else '' for found in row)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def middle(values: list[float], form: str) -> str:
    """Return the median and, if there are several values, the range."""
    text, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return text if len(values) == 1 else f"{text} ({low} to {high})"


def paired(cells: dict[str, Any]) -> str:
    """Render how far ONP is ahead of each search on the same networks and seeds, on average.

    Other ways of ONP from nothing are compared with that, see `AHEAD`. In brackets the 95 % percentile
    interval of 10,000 bootstrap samples of the pairs.
    """
    figures = {
        "worth where it searches": ("{:+.3f}", lambda value: value["curve"][-1][1]),
        "worth on held-out images": ("{:+.3f}", lambda value: value["held"]),
        "ACC": ("{:+.1f}", lambda value: 100 * value["acc"]["value"]),
        "ASR": ("{:+.1f}", lambda value: 100 * value["asr"]["value"]),
    }
    lines = [f"| search | minus | pairs | {' | '.join(figures)} |", "| --- " * (3 + len(figures)) + "|"]
    for kind, (title, _) in SEARCHES.items():
        ahead = AHEAD.get(kind, "onp")
        matching = {key: key.replace(f"|{kind}|", f"|{ahead}|") for key in cells if f"|{kind}|" in key}
        pairs = [(cells[key], cells[one]) for key, one in matching.items() if one in cells and kind != ahead]
        if len(pairs) < 2:
            continue
        row = []
        for form, of in figures.values():
            row.append(mean_difference([of(one) - of(other) for other, one in pairs], form))
        lines.append(f"| {SEARCHES[ahead][0]} | {title} | {len(pairs)} | {' | '.join(row)} |")
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
    """Draw the best worth over evaluations for each network: median over seeds, and the range as a band.

    Above, all searches; below, what those that begin with RNP's choice gain on it.
    """
    names = list(dict.fromkeys(key.split("|")[0] for key in cells))
    figure = Figure(figsize=(3.6 * max(1, len(names)), 6.4), layout="constrained")
    panels = figure.subplots(2, max(1, len(names)), squeeze=False)
    colours = dict(zip(SEARCHES, color_sequences["tab20"], strict=False))
    last = max((count for value in cells.values() for count, _ in value["curve"]), default=1)
    for (above, below), name in zip(panels.T, names, strict=False):
        for kind, (title, _) in SEARCHES.items():
            curves = {
                key.split("|")[2]: value["curve"]
                for key, value in cells.items()
                if key.startswith(f"{name}|{kind}|")
            }
            starts = {seed: cells.get(f"{name}|rnp|{seed}") for seed in curves}
            firsts = {seed: start["curve"][0][1] for seed, start in starts.items() if start}
            improves = all(curve[0][1] == firsts.get(seed) for seed, curve in curves.items())
            for axes in (above, below) if improves else (above,):
                gains = [
                    [[count, worth - (firsts[seed] if axes is below else 0)] for count, worth in curve]
                    for seed, curve in curves.items()
                ]
                # Wide and below: others that are equal to ONP would hide it.
                width = 3.5 if kind == "onp" else 1.3
                band(axes, gains, last, label=title, color=colours[kind], linewidth=width)
        above.set_title(name, fontsize=9)
        above.set_ylim(-0.05, 1.02)
        below.set_xlabel("evaluations")
    panels[0][0].set_ylabel("best worth")
    panels[1][0].set_ylabel("gain on RNP's choice")
    named = dict(
        pair[::-1] for axes in panels.flat for pair in zip(*axes.get_legend_handles_labels(), strict=True)
    )
    titles = [title for title, _ in SEARCHES.values() if title in named]
    figure.legend(
        [named[title] for title in titles],
        titles,
        fontsize=8,
        loc="outside lower center",
        ncols=1 + len(names),
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def band(axes: Axes, curves: Sequence[Sequence[Sequence[float]]], last: int, **look: Any) -> None:
    """Draw the median of curves that only rise, as steps, and their range."""
    if not curves:
        return
    ends = sorted({count for curve in curves for count, _ in curve} | {last})
    reached = [
        [max((value for count, value in curve if count <= end), default=curve[0][1]) for curve in curves]
        for end in ends
    ]
    low, median, high = ([how(values) for values in reached] for how in (min, statistics.median, max))
    axes.step(ends, median, where="post", **look)
    axes.fill_between(ends, low, high, step="post", alpha=0.15, color=look["color"], linewidth=0)


if __name__ == "__main__":
    main()
