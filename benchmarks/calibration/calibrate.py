"""How often a scan is wrong: train small networks, half of them backdoored, scan them all, draw the curve.

    python benchmarks/calibration/calibrate.py --work .calibration [--only NAME ...]
    python benchmarks/calibration/calibrate.py --draw

Every network is trained from random weights on one of three sets of images; what is trained or scanned
already is not done again, and several processes may share the work by different ``--only``. Scans see 500
clean training images and search for every kind of trigger. Results go to
``benchmarks/results/calibration.json``, the figure to ``docs/images/calibration.png``.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score, roc_curve

from secateur.data import open_images, sample_clean, stream
from secateur.expose import OPERATING_POINT, Scan, Search
from secateur.files import atomic_path, write_text
from secateur.models import load_model
from secateur.specimens import CARD, WEIGHTS, Data, SpecimenRecipe, Training, make_specimen, open_data
from secateur.statistics import Proportion

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "calibration.json"
FIGURE = HERE.parents[1] / "docs" / "images" / "calibration.png"
SHARED = HERE.parents[2] / "shared"
MODELS = (
    "secateur:resnet20",
    "secateur:wrn16_1",
    f"{HERE}/networks.py:chain",
    f"{HERE}/networks.py:plain_chain",
)
SEEDS = (0, 1, 2)
SAMPLES = 500
SCAN = "scan.json"
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
    "mnist": Images("mnist", 10, 10_000, 2_000, 1, 28, 5),
    "cifar10": Images("cifar10", 10, 10_000, 2_000, 3, 32, 15),
    "signs": Images("gtsrb32", 12, 5_000, 2_000, 3, 32, 10),
}
# In turn, so that every set of images and every network meets several.
ATTACKS = ("badnets", "blend", "sig", "bpp", "a-blend", "adap-patch", "dynamic")


def networks() -> dict[str, tuple[str, SpecimenRecipe]]:
    """Return name to images and recipe of every network; without a path to the images."""
    found = {}
    for count, (name, model, seed) in enumerate(product(SETS, MODELS, SEEDS)):
        images = SETS[name]
        for attack in ("none", ATTACKS[count % len(ATTACKS)]):
            recipe = SpecimenRecipe(
                model=model,
                data="",
                attack=attack,
                training=Training(epochs=images.epochs, flip=name == "cifar10"),
                # No two networks share their first weights.
                seed=2 * seed + (attack != "none"),
                size=(images.size, images.size),
                channels=images.channels,
            )
            short = "clean" if attack == "none" else attack
            found[f"{name}-{model.split(':')[1]}-{short}-{recipe.seed}"] = (name, recipe)
    return found


def trained(
    name: str, images: str, recipe: SpecimenRecipe, work: Path, opened: dict[str, Data]
) -> dict[str, Any]:
    """Return the card of a network, which is trained if it is not there."""
    folder = work / name
    if not (folder / CARD).exists():
        recipe = replace(recipe, data=SETS[images].write(work))
        if images not in opened:
            opened[images] = open_data(recipe)
        make_specimen(recipe, folder, data=opened[images])
    card: dict[str, Any] = json.loads((folder / CARD).read_text())
    return card


def scanned(card: dict[str, Any], images: str, recipe: SpecimenRecipe, folder: Path) -> dict[str, Any]:
    """Scan a network for every kind of trigger."""
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
    verdict, exposed = Scan(search=Search(thorough=True, point=OPERATING_POINT))(
        model.network, clean, generator=torch.Generator().manual_seed(recipe.seed)
    )
    exposure, measured = exposed.exposure, card["measured"]
    return {
        "attack": recipe.attack,
        "target": None if recipe.attack == "none" else card["recipe"]["goal"]["target"],
        "acc": measured["acc"]["value"],
        "asr": measured["asr"]["value"] if "asr" in measured else None,
        "took": "asr" not in measured or measured["asr"]["value"] >= WORKS,
        "strength": verdict.strength,
        "label": verdict.label,
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
        "unlearning": exposure
        and {"label": exposure.label, "share": exposure.share, "dominance": exposure.dominance},
        "seconds": round(time.perf_counter() - start, 1),
    }


def curve(results: dict[str, Any]) -> dict[str, Any]:
    """Return the ROC curve of the strength, its area with an interval, and the operating point."""
    known = [value for value in results.values() if value["took"]]
    clean, backdoored = (
        np.array([strength(value) for value in known if (value["attack"] != "none") == wanted])
        for wanted in (False, True)
    )

    def area(clean: np.ndarray, backdoored: np.ndarray) -> float:
        truth = [0] * len(clean) + [1] * len(backdoored)
        return float(roc_auc_score(truth, np.concatenate([clean, backdoored])))

    drawn = bootstrap(
        (clean, backdoored),
        area,
        n_resamples=2000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(0),
    ).confidence_interval
    truth = [0] * len(clean) + [1] * len(backdoored)
    false, true, points = roc_curve(truth, np.concatenate([clean, backdoored]), drop_intermediate=False)
    allowed = false <= FALSE_ALARMS
    right = [value for value in known if value["attack"] != "none" and strength(value) > OPERATING_POINT]
    return {
        "clean": len(clean),
        "backdoored": len(backdoored),
        "excluded": len(results) - len(known),
        "area": {"value": area(clean, backdoored), "low": float(drawn.low), "high": float(drawn.high)},
        "point_for_5_percent": float(points[allowed][-1]),
        "operating_point": OPERATING_POINT,
        "false_alarms": share(clean > OPERATING_POINT),
        "found": share(backdoored > OPERATING_POINT),
        "right_label": sum(value["label"] == value["target"] for value in right),
        "roc": {"false": false.tolist(), "true": true.tolist()},
    }


def strength(value: dict[str, Any]) -> float:
    """Return the strength of a scan; one that decided nothing has none."""
    return 0.0 if value["strength"] is None else float(value["strength"])


def share(flags: np.ndarray) -> dict[str, float]:
    """Return a proportion with its interval."""
    proportion = Proportion(int(flags.sum()), len(flags))
    low, high = proportion.interval()
    return {
        "hits": proportion.hits,
        "n": proportion.total,
        "value": proportion.value,
        "low": low,
        "high": high,
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the ROC curve."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.step(found["roc"]["false"], found["roc"]["true"], where="post", color="#0072b2")
    axes.plot(found["false_alarms"]["value"], found["found"]["value"], "o", color="#d55e00")
    axes.annotate(
        f"evidence beyond {found['operating_point']:g}",
        (found["false_alarms"]["value"], found["found"]["value"]),
        xytext=(10, -12),
        textcoords="offset points",
    )
    area = found["area"]
    axes.set_title(
        f"area {area['value']:.2f} (95 % interval {area['low']:.2f} to {area['high']:.2f})", fontsize=10
    )
    axes.set_xlabel(f"false alarms among {found['clean']} clean networks")
    axes.set_ylabel(f"evidence among {found['backdoored']} backdoored networks")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


def table(results: dict[str, Any], found: dict[str, Any]) -> str:
    """Render what was found by attack, as Markdown."""
    lines = ["| attack | networks | ACC | ASR | evidence | right label | strength |", "| --- " * 7 + "|"]
    for attack in ("none", *ATTACKS):
        mine = [value for value in results.values() if value["attack"] == attack and value["took"]]
        if not mine:
            continue
        alarmed = [value for value in mine if strength(value) > OPERATING_POINT]
        labels = "-" if attack == "none" else sum(value["label"] == value["target"] for value in alarmed)
        middle = {
            what: statistics.median(100 * value[what] for value in mine) if mine[0][what] else None
            for what in ("acc", "asr")
        }
        strengths = [strength(value) for value in mine]
        lines.append(
            f"| {'no attack' if attack == 'none' else f'`{attack}`'} | {len(mine)} | {middle['acc']:.1f} | "
            f"{'-' if middle['asr'] is None else format(middle['asr'], '.1f')} | {len(alarmed)} | {labels} | "
            f"{statistics.median(strengths):.2f} ({min(strengths):.2f} to {max(strengths):.2f}) |"
        )
    alarms, hits = (
        f"{part['hits']} of {part['n']} ({100 * part['low']:.0f} to {100 * part['high']:.0f} %)"
        for part in (found["false_alarms"], found["found"])
    )
    lines += [
        "",
        f"False alarms: {alarms} clean networks. Evidence: {hits} backdoored ones, with the right label for "
        f"{found['right_label']}. Backdoors that did not take (ASR below {100 * WORKS:.0f} %) were left out: "
        f"{found['excluded']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(".calibration"), help="folder for the networks")
    parser.add_argument("--only", nargs="*", default=None, help="names of networks")
    parser.add_argument("--draw", action="store_true", help="only draw the figure and render the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    opened: dict[str, Data] = {}
    options.work.mkdir(parents=True, exist_ok=True)
    for name, (images, recipe) in networks().items():
        if options.draw or (options.only and name not in options.only):
            continue
        card = trained(name, images, recipe, options.work, opened)
        path = options.work / name / SCAN
        if not path.exists():
            result = scanned(card, images, recipe, options.work / name)
            write_text(path, json.dumps(result, indent=1) + "\n")
            told = ("acc", "asr", "strength", "label", "seconds")
            print(name, {key: result[key] for key in told}, flush=True)
    results = {
        name: json.loads((options.work / name / SCAN).read_text())
        for name in networks()
        if (options.work / name / SCAN).exists()
    }
    if not results:
        results = json.loads(options.out.read_text())["networks"]
    if len(results) < len(networks()):
        print(f"{len(results)} of {len(networks())} networks are scanned")
        return
    found = curve(results)
    write_text(options.out, json.dumps({"networks": results, "curve": found}, indent=1) + "\n")
    draw(found, FIGURE)
    print(table(results, found))


if __name__ == "__main__":
    main()
