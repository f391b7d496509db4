"""Measure RNP and ONP on one specimen per attack: the tables of docs/specimens.md.

    secateur specimen --list benchmarks/specimens/small.toml --out .specimens
    python benchmarks/repairs.py [--specimens .specimens] [--only NAME ...] [--repairs paper rnp onp]

Every repair starts from 500 clean training images and is measured afterwards on all test images; a
specimen's trigger is read only then. It is also measured on the network that the specimen was trained from:
some triggers bring the target there, because they hide the image or look like it, and no repair can do
better. RNP and ONP share what they have in common; its time counts for both.
Results go to ``benchmarks/results/specimens/NAME.json``, cards to
``benchmarks/specimens/cards/NAME.json``; what is there for the same weights is not measured again unless
``--fresh`` is given. Several processes may share the work by different ``--only``. ``tables.py`` renders all.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from checkpoints import HERE, SHARED, onp_less_rnp, row, spread, unpolished
from joint import Joint

from secateur import __version__
from secateur.attacks import Goal, read_any_trigger
from secateur.data import CleanData, LabelledImages, open_images, sample_clean
from secateur.evaluation import backdoor_units, evaluate, overlap, trigger_activated_change
from secateur.files import write_text
from secateur.models import LoadedModel, load_model
from secateur.progress import Silent
from secateur.repair import Repair, create
from secateur.specimens import CARD, TRIGGER, WEIGHTS, read_list
from secateur.specimens.images import read_images
from secateur.statistics import Proportion
from secateur.units import all_units

RESULTS = HERE / "results" / "specimens"
CARDS = HERE / "specimens" / "cards"
LIST = HERE / "specimens" / "small.toml"
REPAIRS = {"paper": "paper", "rnp": "RNP", "onp": "ONP"}
"""What is measured, with its title in the tables."""
SAMPLES = 500
ANALYSED = 1000
"""Test images on which the units that a trigger uses are found."""
SHOWN = 12
"""Units that are written down with their scores."""


class Specimen:
    """A specimen as a repair sees it and, apart from that, what only an evaluation may."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.folder = folder
        self.card: dict[str, Any] = json.loads((folder / CARD).read_text())

    @cached_property
    def model(self) -> LoadedModel:
        """The network; repairs leave it as it is."""
        return self._load(self.folder / WEIGHTS)

    def untouched(self, shared: Path) -> LoadedModel | None:
        """Load the network that it was trained from; None if that was none."""
        start = self.card["start"]
        return self._load(shared / "checkpoints" / "files" / start["file"]) if start else None

    def _load(self, weights: Path) -> LoadedModel:
        convention = self.card["convention"]
        return load_model(
            weights,
            self.card["recipe"]["model"],
            num_classes=self.card["data"]["classes"],
            size=tuple(convention["size"]),
            channels=convention["channels"],
            mean=convention["mean"],
            std=convention["std"],
        )

    def clean(self, seed: int, data: str) -> CleanData:
        """Sample clean training images."""
        convention, classes = self.model.convention, self.model.num_classes
        dataset = open_images(data, split="train", size=convention.size, channels=convention.channels)
        return sample_clean(dataset, convention, samples=SAMPLES, seed=seed, num_classes=classes)

    def paper(self, seed: int, data: str) -> Repair:
        """Repair it as the paper of RNP does."""
        generator = torch.Generator().manual_seed(seed)
        return create("rnp", "paper")(self.model.network, self.clean(seed, data), generator=generator)

    def joint(self, seed: int, data: str) -> Joint:
        """Return what repairs it with RNP and ONP."""
        return Joint(self.model.network, self.clean(seed, data), seed)

    @cached_property
    def attack(self) -> tuple[Any, list[int]] | None:
        """The trigger and the labels that it should cause; None for a clean specimen."""
        goal = self.card["recipe"]["goal"]
        if goal is None:
            return None
        wanted = Goal(**goal).wanted(self.card["data"]["classes"]).tolist()
        return read_any_trigger(self.folder / TRIGGER), wanted

    def measure(self, network: torch.nn.Module, test: LabelledImages) -> dict[str, Any]:
        """Measure ACC, ASR and RA of a network on test images."""
        trigger, wanted = self.attack or (None, None)
        return row(evaluate(network, test, self.model.convention, trigger=trigger, target=wanted))


def described(result: Repair, used: tuple[int, ...] | None) -> dict[str, Any]:
    """Return what a repair did, and how the units that it pruned match those that the trigger uses."""
    positions = {unit: index for index, unit in enumerate(all_units(result.discovery.layers))}
    pruned = [positions[scored.unit] for scored in result.recipe.units]
    exposure = result.exposure
    found: dict[str, Any] = {
        "outcome": result.outcome,
        "pruned": len(pruned),
        "label": exposure.label if exposure else None,
        "share": exposure.share if exposure else None,
        "trigger": result.trigger
        and {
            "label": result.trigger.label,
            "form": result.trigger.form,
            "norm": round(result.trigger.norm, 1),
        },
        "named": named(result),
        "label_score": result.labels and result.labels.score,
        "stages": {name: round(value, 1) for name, value in result.seconds.items()},
    }
    if used is not None:
        match = overlap(pruned, used)
        ranks = result.scores.argsort(stable=True).argsort()
        found |= {
            "precision": match.precision.value if pruned else None,
            "recall": match.recall.value if used else None,
            # Where the score puts the units that the trigger uses: 0 is first.
            "ranks": sorted(int(ranks[index]) for index in used)[:SHOWN],
        }
    return found


def named(result: Repair) -> int | None:
    """Return the label that a repair suspects: that of the trigger it found, else one that dominates."""
    if result.trigger is not None:
        return result.trigger.label
    return result.labels.label if result.labels else None


def analysis(
    specimen: Specimen, layers: Any, test: LabelledImages
) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    """Find the units that the trigger uses, as only an evaluation may."""
    if specimen.attack is None:
        return {}, None
    trigger, wanted = specimen.attack
    some = test.subset(torch.arange(min(ANALYSED, len(test))))
    convention = specimen.model.convention
    used = backdoor_units(specimen.model.network, layers, some, convention, trigger, wanted)
    change = trigger_activated_change(specimen.model.network, layers, some, convention, trigger)
    names = list(all_units(layers))
    top = change.relative.argsort(descending=True)[:SHOWN].tolist()
    return {
        "used": None if used is None else len(used),
        "most_changed": [
            {"unit": f"{names[k].layer}.{names[k].index}", "relative": round(float(change.relative[k]), 3)}
            for k in top
        ],
    }, used


def measure_all(
    folder: Path, options: argparse.Namespace, test: LabelledImages, remarks: Mapping[str, str | None]
) -> None:
    """Measure one specimen, keeping every result as it comes."""
    specimen = Specimen(folder)
    path = options.out / f"{specimen.name}.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    weights = specimen.card["sha256"][WEIGHTS]
    if stored.get("weights") != weights:
        stored = {"weights": weights, "cells": {}}
    if options.fresh:
        asked = {f"{kind}|{seed}" for kind in options.repairs for seed in options.seeds}
        stored["cells"] = {key: cell for key, cell in stored["cells"].items() if key not in asked}
    stored["goal"] = specimen.card["recipe"]["goal"]
    write_card(specimen.name, specimen.card, remarks)

    def keep() -> None:
        stored["versions"] = {"secateur": __version__, "torch": str(torch.__version__)}
        stored["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
        write_text(path, json.dumps(stored, indent=1) + "\n")

    if "before" not in stored:
        stored["before"] = specimen.measure(specimen.model.network, test)
        keep()
    if "untouched" not in stored and specimen.attack:
        start = specimen.untouched(options.shared)
        stored["untouched"] = start and specimen.measure(start.network, test)
        keep()
    used: tuple[int, ...] | None = None
    for seed in options.seeds:
        joint: Joint | None = None
        for kind in options.repairs:
            key = f"{kind}|{seed}"
            if key in stored["cells"]:
                continue
            if kind == "paper":
                result = specimen.paper(seed, options.data)
            else:
                joint = joint or specimen.joint(seed, options.data)
                result = joint.onp() if kind == "onp" else joint.rnp()
            seconds = sum(result.seconds.values())
            if used is None:
                stored["analysis"], used = analysis(specimen, result.discovery.layers, test)
            value = specimen.measure(result.network, test) | described(result, used)
            if result.tuned is not None:
                value["unpolished"] = specimen.measure(unpolished(result, specimen.model.network), test)
            stored["cells"][key] = value | {"seconds": round(seconds, 1)}
            keep()
            shown = {m: round(100 * value[m]["value"], 1) for m in ("acc", "asr", "ra") if value[m]}
            print(specimen.name, key, shown, value["pruned"], f"{seconds:.0f} s", flush=True)


def write_card(name: str, card: dict[str, Any], remarks: Mapping[str, str | None]) -> None:
    """Keep the card of a specimen, with the remark that the list has for it now, if it is in the list."""
    first = {"verdict": card["verdict"], "remark": remarks.get(name, card.get("remark"))}
    write_text(CARDS / f"{name}.json", json.dumps(first | card | first, indent=1) + "\n")


def results(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and results of every specimen measured."""
    for path in sorted(folder.glob("*.json")):
        yield path.stem, json.loads(path.read_text())


def specimen_table(folder: Path) -> str:
    """Render how well every attack worked from the cards in a folder, as Markdown."""
    lines = [
        "| specimen | poisoned | epochs at rate | ACC | ASR | RA | verdict | made by |",
        "| --- " * 8 + "|",
    ]
    for path in sorted(folder.glob("*.json")):
        name, card = path.stem, json.loads(path.read_text())
        goal, training = card["recipe"]["goal"], card["recipe"]["training"]
        share = f"{100 * goal['rate']:g} %" if goal else "none"
        if goal and goal["cover_rate"]:
            share += f" + {100 * goal['cover_rate']:g} % covers"
        figures = [percent(card["measured"].get(measure)) for measure in ("acc", "asr", "ra")]
        command = f"`secateur specimen --list $LIST --only {name}`"
        epochs = f"{training['epochs']} at {training['rate']:g}"
        verdict = card["verdict"] + (f"; {card['remark']}" if card["remark"] else "")
        cells = (f"`{name}`", share, epochs, *figures, verdict, command)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def repair_table(folder: Path) -> str:
    """Render the repairs, median over seeds with the range, as Markdown."""
    lines = [
        "| specimen | before: ACC / ASR / RA | untouched: ASR / RA | "
        + "".join(f"{title}: ACC / ASR / RA | units | s | " for title in REPAIRS.values())
        + "label named |",
        "| --- " * (4 + 3 * len(REPAIRS)) + "|",
    ]
    for name, stored in results(folder):
        cells = [f"`{name}`", " / ".join(percent(stored["before"][m]) for m in ("acc", "asr", "ra"))]
        untouched = stored.get("untouched")
        cells.append(" / ".join(percent(untouched[m]) for m in ("asr", "ra")) if untouched else "")
        for kind in REPAIRS:
            found = [value for key, value in stored["cells"].items() if key.startswith(f"{kind}|")]
            if not found:
                cells += ["", "", ""]
                continue
            measures = ("acc", "asr", "ra") if found[0]["asr"] else ("acc",)
            cells.append(" / ".join(spread(found, measure) for measure in measures))
            cells += [
                f"{statistics.median(value[field] for value in found):.0f}" for field in ("pruned", "seconds")
            ]
        labels = [value["named"] for key, value in stored["cells"].items() if key.startswith("rnp|")]
        cells.append(", ".join("none" if label is None else str(label) for label in labels))
        lines.append(f"| {' | '.join(cells)} |")
    means = (mean_line(folder, kind) for kind in REPAIRS)
    return "\n".join([*lines, *means, untouched_line(folder), paired_line(folder), right_line(folder)])


def untouched_line(folder: Path) -> str:
    """Say what triggers come to on the network that specimens were trained from, on average."""
    found = [stored["untouched"]["asr"]["value"] for _, stored in results(folder) if stored.get("untouched")]
    if not found:
        return ""
    return f"\nUntouched: mean ASR {100 * statistics.mean(found):.1f} % over {len(found)} attacks."


def mean_line(folder: Path, kind: str) -> str:
    """Say what a repair comes to over all attacks: each specimen's median counts once."""
    asr, loss = [], []
    for _, stored in results(folder):
        found = [value for key, value in stored["cells"].items() if key.startswith(f"{kind}|")]
        if found and found[0]["asr"]:
            asr.append(statistics.median(100 * value["asr"]["value"] for value in found))
            before = 100 * stored["before"]["acc"]["value"]
            loss.append(statistics.median(before - 100 * value["acc"]["value"] for value in found))
    if not asr:
        return ""
    return (
        f"\n{REPAIRS[kind]}: mean ASR {statistics.mean(asr):.1f} %, "
        f"mean loss of ACC {statistics.mean(loss):.1f} points over {len(asr)} attacks."
    )


def paired_line(folder: Path) -> str:
    """Say how far ONP is from RNP on the same attacks and seeds, on average."""
    pairs = [
        (stored["cells"][key.replace("onp|", "rnp|")], value)
        for _, stored in results(folder)
        for key, value in stored["cells"].items()
        if key.startswith("onp|") and value["asr"] and key.replace("onp|", "rnp|") in stored["cells"]
    ]
    return onp_less_rnp(pairs, "over {} pairs of repairs of the same network and seed")


def right_line(folder: Path) -> str:
    """Say how often the label of an attack that has one is named."""
    right = [
        value["named"] == stored["goal"]["target"]
        for _, stored in results(folder)
        if stored.get("goal") and stored["goal"]["mapping"] == "all-to-one"
        for key, value in stored["cells"].items()
        if key.startswith("rnp|") and "named" in value
    ]
    if not right:
        return ""
    low, high = Proportion.of(torch.tensor(right)).interval()
    return (
        f"\nRight label: {sum(right)} of {len(right)} repairs of networks with an all-to-one attack "
        f"({100 * low:.0f} to {100 * high:.0f} %)."
    )


def percent(cell: dict[str, float] | None) -> str:
    return "-" if cell is None else f"{100 * cell['value']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--specimens", type=Path, default=HERE.parent / ".specimens")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--data", default=str(SHARED / "data" / "cifar10"))
    parser.add_argument("--only", nargs="*", default=None, help="names of specimens")
    parser.add_argument("--repairs", nargs="*", choices=list(REPAIRS), default=list(REPAIRS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--fresh", action="store_true", help="measure the chosen repairs and seeds again")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    folders = sorted(path.parent for path in options.specimens.glob(f"*/{CARD}"))
    chosen = [folder for folder in folders if options.only is None or folder.name in options.only]
    sizes = [Specimen(folder).card["convention"] for folder in chosen]
    remarks = {name: recipe.remark for name, recipe in read_list(LIST).items()}
    test: LabelledImages | None = None
    for folder, convention in zip(chosen, sizes, strict=True):
        if test is None or list(test.images.shape[2:]) != convention["size"]:
            dataset = open_images(
                options.data,
                split="test",
                size=tuple(convention["size"]),
                channels=convention["channels"],
            )
            read = read_images(dataset, Silent())
            test = LabelledImages(read.images.float() / 255, read.labels)
        measure_all(folder, options, test, remarks)


if __name__ == "__main__":
    main()
