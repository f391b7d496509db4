"""How often a scan is wrong: train small networks, half of them backdoored, scan them all, draw the curve.

    python benchmarks/calibration/calibrate.py --work .calibration [--only NAME ...]
    python benchmarks/calibration/calibrate.py --draw

Every network is trained from random weights on one of three sets of images; what is trained or scanned
already is not done again, and several processes may share the work by ``--part``. Scans see 500 clean
training images and go on beyond the first evidence until a trigger is twice as strong. Results go to
``benchmarks/results/calibration.json``, the figure to ``docs/images/calibration.png``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from secateur.data import Trigger, open_images, sample_clean, stream
from secateur.evaluation import separation
from secateur.expose import (
    DOMINANT,
    OPERATING_POINT,
    Findings,
    InvertedTrigger,
    Kind,
    LabelScores,
    Scan,
    Search,
    Verdict,
    judge,
)
from secateur.files import atomic_path, write_text
from secateur.models import load_model
from secateur.report.frame import proportion
from secateur.specimens import CARD, WEIGHTS, Data, SpecimenRecipe, Training, make_specimen, open_data
from secateur.statistics import Proportion

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "calibration.json"
FIGURE = HERE.parents[1] / "docs" / "images" / "calibration.png"
SHARED = HERE.parents[2] / "shared"
MODELS = (
    f"{HERE}/networks.py:chain",
    f"{HERE}/networks.py:plain_chain",
    f"{HERE}/networks.py:resnet8",
    f"{HERE}/networks.py:strided",
)
SEEDS = (0, 1)
SAMPLES = 500
SCAN = "scan.json"
NOTHING = Trigger(torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
CLEAR = 2.0
"""Strength beyond which a search for further kinds of trigger tells nothing new."""
FALSE_ALARMS = 0.05
WORKS = 0.8
"""Attack success rate from which on a backdoor counts as one."""


@dataclass(frozen=True)
class Images:
    """A set of images that is small enough to train on in a minute.

    Attributes
    ----------
    source
        Folder below ``shared/data``.
    classes
        Only so many: those with the most images.
    train, test
        At most so many images of each.
    channels, size
        Of the images.
    epochs
        How long networks are trained.
    """

    source: str
    classes: int
    train: int
    test: int
    channels: int
    size: int
    epochs: int

    def write(self, folder: Path) -> str:
        """Write the chosen images to an npz file, once, and return its path."""
        path = folder / f"{self.source}-{self.classes}-{self.train}.npz"
        if not path.exists():
            arrays = {}
            for split, count in (("train", self.train), ("test", self.test)):
                dataset = open_images(
                    str(SHARED / "data" / self.source),
                    split=split,
                    size=(self.size, self.size),
                    channels=self.channels,
                )
                if split == "train":
                    most = torch.bincount(dataset.labels).argsort(descending=True, stable=True)[
                        : self.classes
                    ]
                    kept = most.sort().values
                belongs = torch.isin(dataset.labels, kept).nonzero().flatten()
                order = torch.randperm(len(belongs), generator=torch.Generator().manual_seed(0))
                chosen = belongs[order[:count]].sort().values
                pixels = torch.cat([part for part, _ in stream(dataset, 500, chosen)])
                arrays[f"x_{split}"] = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
                arrays[f"y_{split}"] = torch.searchsorted(kept, dataset.labels[chosen]).numpy()
            with atomic_path(path) as temporary, temporary.open("wb") as stream_:
                np.savez(stream_, **arrays)
        return str(path)


SETS = {
    "mnist": Images("mnist", 10, 8_000, 2_000, 1, 28, 5),
    "cifar10": Images("cifar10", 10, 10_000, 2_000, 3, 32, 12),
    "signs": Images("gtsrb32", 12, 5_000, 2_000, 3, 32, 8),
}
# In turn, so that every set of images and every network meets several.
ATTACKS = ("badnets", "blend", "bpp", "a-blend", "trojan", "dynamic")
# Few images and short training: some attacks need a larger share of them than by default.
GOALS: dict[str, dict[str, float]] = {
    "bpp": {"rate": 0.2, "cover_rate": 0.1},
    "a-blend": {"rate": 0.1, "cover_rate": 0.05},
}
HARDER = 0.4
"""Share of the images that is poisoned in a second attempt, where a backdoor did not take."""
AGAIN = "-again"


def networks() -> dict[str, tuple[str, SpecimenRecipe]]:
    """Return name to images and recipe of every network; without a path to the images."""
    found = {}
    for count, (name, model, seed) in enumerate(product(SETS, MODELS, SEEDS)):
        images = SETS[name]
        plain = model.endswith("plain_chain")
        for attack in ("none", ATTACKS[count % len(ATTACKS)]):
            recipe = SpecimenRecipe(
                model=model,
                data="",
                attack=attack,
                goal=GOALS.get(attack, {}),
                training=Training(
                    # Without normalisation a large rate does not converge.
                    epochs=(2 if plain else 1) * images.epochs,
                    rate=0.03 if plain else 0.1,
                    flip=name == "cifar10",
                ),
                # No two networks share their first weights.
                seed=2 * seed + (attack != "none"),
                size=(images.size, images.size),
                channels=images.channels,
            )
            found[named(name, recipe)] = (name, recipe)
    return found


def named(images: str, recipe: SpecimenRecipe) -> str:
    """Return the name of a network."""
    attack = "clean" if recipe.attack == "none" else recipe.attack
    return f"{images}-{recipe.model.split(':')[1]}-{attack}-{recipe.seed}"


def trained(
    name: str, images: str, recipe: SpecimenRecipe, work: Path, opened: dict[str, Data]
) -> dict[str, Any]:
    """Return the card of a network, which is trained if it is not there.

    An attacker who needs a clean network has that of the same kind, which must be there.
    """
    folder = work / name
    if not (folder / CARD).exists():
        recipe = replace(recipe, data=SETS[images].write(work))
        attack = recipe.create_attack()
        if attack is not None and attack.needs_surrogate:
            twin = named(images, replace(recipe, attack="none", seed=recipe.seed - 1))
            recipe = replace(recipe, surrogate=work / twin / WEIGHTS)
        if images not in opened:
            opened[images] = open_data(recipe)
        make_specimen(recipe, folder, data=opened[images])
    card: dict[str, Any] = json.loads((folder / CARD).read_text())
    return card


def took(card: dict[str, Any]) -> bool:
    """Say whether a network has the backdoor that it was to have, if any."""
    measured = card["measured"]
    return "asr" not in measured or measured["asr"]["value"] >= WORKS


def harder(recipe: SpecimenRecipe) -> SpecimenRecipe:
    """Return the recipe of a second attempt: more poisoned images, and twice as many epochs."""
    training = replace(recipe.training, epochs=2 * recipe.training.epochs)
    return replace(recipe, goal={**recipe.goal, "rate": HARDER}, training=training)


def scanned(card: dict[str, Any], images: str, recipe: SpecimenRecipe, folder: Path) -> dict[str, Any]:
    """Scan a network until a trigger is clear."""
    convention = card["convention"]
    model = load_model(
        folder / WEIGHTS,
        recipe.model,
        num_classes=card["data"]["classes"],
        size=tuple(convention["size"]),
        channels=convention["channels"],
        mean=convention["mean"],
        std=convention["std"],
    )
    dataset = open_images(
        SETS[images].write(folder.parent),
        split="train",
        size=model.convention.size,
        channels=model.convention.channels,
    )
    clean = sample_clean(
        dataset, model.convention, samples=SAMPLES, seed=recipe.seed, num_classes=model.num_classes
    )
    start = time.perf_counter()
    verdict, exposed = Scan(search=Search(point=CLEAR), sharpening=None)(
        model.network, clean, generator=torch.Generator().manual_seed(recipe.seed)
    )
    labels, measured = exposed.labels, card["measured"]
    best = max(verdict.checks, key=lambda check: check.strength or 0.0)
    return {
        "attack": recipe.attack,
        "target": None if recipe.attack == "none" else card["recipe"]["goal"]["target"],
        "acc": measured["acc"]["value"],
        "asr": measured["asr"]["value"] if "asr" in measured else None,
        "took": took(card),
        "strength": verdict.strength,
        "label": best.trigger and best.trigger.label,
        "kind": best.kind,
        "checks": {
            check.kind: {
                "strength": check.strength,
                "label": check.trigger and check.trigger.label,
                "reason": check.reason,
                "norms": [round(trigger.norm, 3) for trigger in check.triggers],
                "converged": [trigger.converged for trigger in check.triggers],
            }
            for check in verdict.checks
        },
        "labels": labels
        and {
            "label": labels.top,
            "score": labels.score,
            "seconded": labels.seconded,
            "moved": labels.moved and labels.moved[labels.top],
        },
        "seconds": round(time.perf_counter() - start, 1),
    }


def curve(
    results: dict[str, Any], score: Callable[[dict[str, Any]], float | None], point: float
) -> dict[str, Any]:
    """Return the ROC curve of a score, its area with an interval, and what a bound on it does."""
    known = [value for value in results.values() if value["took"] and score(value) is not None]
    clean, backdoored = (
        torch.tensor([score(value) for value in known if (value["attack"] != "none") == wanted])
        for wanted in (False, True)
    )
    area = separation(clean, backdoored)
    truth = [0] * len(clean) + [1] * len(backdoored)
    false, true, points = roc_curve(truth, torch.cat([clean, backdoored]).numpy(), drop_intermediate=False)
    return {
        "area": {"value": area.value, "low": area.low, "high": area.high},
        "point": point,
        "point_for_5_percent": float(points[false <= FALSE_ALARMS][-1]),
        "false_alarms": proportion(Proportion.of(clean > point)),
        "found": proportion(Proportion.of(backdoored > point)),
        "roc": {"false": false.tolist(), "true": true.tolist()},
    }


def crossed(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a point for 5 % does that is chosen on the networks of one seed, on those of the other."""
    halves: list[dict[str, Any]] = [{}, {}]
    for name, (_, recipe) in networks().items():
        if name in results:
            halves[SEEDS.index(recipe.seed // 2)][name] = results[name]
    found = []
    for own, others in (halves, halves[::-1]):
        point = curve(own, strength, OPERATING_POINT)["point_for_5_percent"]
        flags = {
            wanted: Proportion.of(
                torch.tensor(
                    [
                        strength(value) >= point
                        for value in others.values()
                        if value["took"] and (value["attack"] == "none") == wanted
                    ]
                )
            )
            for wanted in (True, False)
        }
        found.append(
            {"point": point, "false_alarms": proportion(flags[True]), "found": proportion(flags[False])}
        )
    return found


def judged(value: dict[str, Any]) -> Verdict:
    """Return the verdict on what a scan inverted, at the operating point."""
    looks: dict[Kind, tuple[InvertedTrigger, ...]] = {}
    for kind, check in value["checks"].items():
        labels: list[int | None] = [*range(len(check["norms"]))]
        if not labels:
            continue
        norms = check["norms"]
        if kind == "change":
            labels[-1] = None
        elif kind == "outlasting":
            # Scans have not always known that nothing outlasts forgetting more than entirely.
            norms = [max(1.0, norm) for norm in norms]
        looks[kind] = tuple(
            InvertedTrigger(label, NOTHING, norm, 1.0, converged, "patch" if kind == "change" else kind)
            for label, norm, converged in zip(labels, norms, check["converged"], strict=True)
        )
    told = value["labels"]
    scores = None
    if told:
        gained = [0.0] * len(value["checks"]["patch"]["norms"])
        gained[told["label"]] = told["score"]
        scores = LabelScores(tuple(gained), None)
        if scores.label is not None:
            looks.pop("change", None)
    findings = Findings(None, (), looks, point=OPERATING_POINT, labels=scores)
    strength, _, trigger = max((findings.strongest(kind) for kind in looks), key=lambda found: found[0])
    return judge(replace(findings, found=trigger if strength > OPERATING_POINT else None))


def strength(value: dict[str, Any]) -> float:
    """Return the strength of a scan; one that decided nothing has none."""
    return judged(value).strength or 0.0


def label_score(value: dict[str, Any]) -> float | None:
    """Return the score of the label that unlearning points to; None where it was not done."""
    return value["labels"] and float(value["labels"]["score"])


CURVES = {
    "triggers": (strength, OPERATING_POINT, "strength of the smallest trigger", "#0072b2"),
    "labels": (label_score, DOMINANT, "label score of unlearning", "#d55e00"),
}


def draw(curves: dict[str, Any], path: Path) -> None:
    """Draw the ROC curves."""
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, (_, _, what, colour) in CURVES.items():
        found = curves[name]
        area = found["area"]
        axes.step(
            found["roc"]["false"],
            found["roc"]["true"],
            where="post",
            color=colour,
            label=f"{what} ({found['false_alarms']['n']} clean, {found['found']['n']} backdoored):\n"
            f"area {area['value']:.2f} ({area['low']:.2f} to {area['high']:.2f})",
        )
        axes.plot(found["false_alarms"]["value"], found["found"]["value"], "o", color=colour)
    axes.set_xlabel("share of clean networks that are called backdoored")
    axes.set_ylabel("share of backdoored networks that are found")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.legend(loc="lower right", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


def table(results: dict[str, Any], curves: dict[str, Any], halves: list[dict[str, Any]]) -> str:
    """Render what was found by attack, as Markdown."""
    lines = [
        "| attack | networks | ACC | ASR | strength | evidence | right label | label score | right label |",
        "| --- " * 9 + "|",
    ]
    met = {value["attack"] for value in results.values()}
    for attack in ("none", *ATTACKS, *sorted(met.difference(ATTACKS, {"none"}))):
        mine = [value for value in results.values() if value["attack"] == attack and value["took"]]
        if not mine:
            continue
        alarmed = [value for value in mine if strength(value) > OPERATING_POINT]
        scored = [value for value in mine if value["labels"]]
        right, told = (
            "-" if attack == "none" else str(sum(label == value["target"] for label, value in pairs))
            for pairs in (
                [(judged(value).label, value) for value in alarmed],
                [(value["labels"]["label"], value) for value in scored],
            )
        )
        lines.append(
            f"| {'no attack' if attack == 'none' else f'`{attack}`'} | {len(mine)} | "
            f"{100 * statistics.median(value['acc'] for value in mine):.1f} | "
            + ("-" if attack == "none" else f"{100 * statistics.median(value['asr'] for value in mine):.1f}")
            + f" | {spread([strength(value) for value in mine])} | {len(alarmed)} | {right} | "
            f"{spread([value['labels']['score'] for value in scored])} | {told} of {len(scored)} |"
        )
    for name, (_, point, what, _) in CURVES.items():
        alarms, hits = (
            f"{part['hits']} of {part['n']} ({100 * part['low']:.0f} to {100 * part['high']:.0f} %)"
            for part in (curves[name]["false_alarms"], curves[name]["found"])
        )
        lines += [
            "",
            f"{what.capitalize()} beyond {point:g}: {alarms} clean networks, {hits} backdoored ones.",
        ]
    told = (
        f"{half['point']:.2f}: {half['false_alarms']['hits']} of {half['false_alarms']['n']} clean networks, "
        f"{half['found']['hits']} of {half['found']['n']} backdoored ones"
        for half in halves
    )
    lines += ["", f"Chosen on the networks of one seed, on those of the other: {'; '.join(told)}."]
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(".calibration"), help="folder for the networks")
    parser.add_argument("--part", default="0/1", help="which part of the networks, such as 0/2 and 1/2")
    parser.add_argument("--train", action="store_true", help="train the networks and scan none")
    parser.add_argument("--draw", action="store_true", help="only draw the figure and render the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    opened: dict[str, Data] = {}
    options.work.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, options.part.split("/"))
    for count, (name, (images, recipe)) in enumerate(networks().items()):
        # In pairs: some attackers have the clean network of the same kind.
        if options.draw or count // 2 % parts != part:
            continue
        card = trained(name, images, recipe, options.work, opened)
        if not took(card):
            name, recipe = f"{name}{AGAIN}", harder(recipe)
            card = trained(name, images, recipe, options.work, opened)
        if options.train:
            continue
        path = options.work / name / SCAN
        if not path.exists():
            result = scanned(card, images, recipe, options.work / name)
            write_text(path, json.dumps(result, indent=1) + "\n")
            told = ("acc", "asr", "strength", "label", "seconds")
            print(name, {key: result[key] for key in told}, flush=True)
    results = {
        name: json.loads(path.read_text())
        for name in networks()
        for path in (options.work / name / SCAN, options.work / f"{name}{AGAIN}" / SCAN)
        if path.exists()
    }
    if not results:
        results = json.loads(options.out.read_text())["networks"]
    print(f"{len(results)} of {len(networks())} networks are scanned")
    curves = {name: curve(results, score, point) for name, (score, point, _, _) in CURVES.items()}
    halves = crossed(results)
    stored = {"networks": results, "curves": curves, "crossed": halves}
    write_text(options.out, json.dumps(stored, indent=1) + "\n")
    draw(curves, FIGURE)
    print(table(results, curves, halves))


if __name__ == "__main__":
    main()
