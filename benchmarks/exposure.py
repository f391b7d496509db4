"""Measure what a network reveals, labels, triggers and samples, and what a repair makes of it.

    python benchmarks/exposure.py [--only NAME ...] [--seeds 0 1 2] [--parts repair onp recovery detectors]
        [--detectors NAME ...] [--fresh]

Every scan sees 500 clean training images. The planted trigger is read only afterwards, to measure on test
images how the recovered one does, how well detectors tell triggered images from clean ones, and ACC and ASR
(on all test images) before and after RNP and ONP, which take what the scan exposed. Results go to
``benchmarks/results/exposure.json``; what is there is not measured again, but for repairs with ``--fresh``.
``tables.py`` renders them.
"""

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from checkpoints import HERE, SHARED, cell, clean_data, images, load, onp_less_rnp, unpolished
from joint import Joint
from repairs import SAMPLES, Specimen
from torch import nn

from secateur.data import LabelledImages, Trigger, open_images, read_trigger, sample_clean, stream
from secateur.evaluation import evaluate, mask_overlap, separation
from secateur.expose import (
    GENTLE,
    Exposed,
    Inversion,
    Scan,
    anomalies,
    flushed_denormals,
    predict,
    success_of,
)
from secateur.expose.samples import Filter, create, detectors
from secateur.files import write_text
from secateur.models import duplicate
from secateur.repair import Repair
from secateur.statistics import Proportion

RESULTS = HERE / "results" / "exposure.json"
SHARE = 0.1
"""Of the images that detectors may look for something common in, so many are triggered: no majority."""
HALFWAY = 0.5
"""Clean accuracy at which a network counts as half unlearned."""
PARTS = ("repair", "onp", "recovery", "detectors")
METHODS = ("repair", "onp")
JUDGED = 1000
"""Test images of each kind, clean and triggered, that detectors are tried on."""


class Subject:
    """A network with its clean data, and apart from that what only an evaluation may see."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        cards = json.loads((options.shared / "checkpoints" / "checkpoints.json").read_text())
        card = next((card for card in cards if card["name"] == name), None)
        if card is not None:
            self.model = load(card, options.shared)
            self._clean = lambda seed: clean_data(card, self.model, seed, options.shared)
            test = images(card, self.model, "test", options.shared)
            target, classes = card["target"], self.model.num_classes
            # An image of the target class cannot be sent there.
            self.wanted = None if target is None else [target if k != target else -1 for k in range(classes)]
            triggers = options.shared / "checkpoints" / "triggers"
            self.trigger = card["trigger"] and read_trigger(triggers / f"{card['trigger']}.safetensors")
        else:
            specimen = Specimen(options.specimens / name)
            self.model = specimen.model
            size, channels = self.model.convention.size, self.model.convention.channels
            train, test = (
                open_images(options.data, split=split, size=size, channels=channels)
                for split in ("train", "test")
            )
            self._clean = lambda seed: sample_clean(
                train, self.model.convention, samples=SAMPLES, seed=seed, num_classes=self.model.num_classes
            )
            self.trigger, self.wanted = specimen.attack or (None, None)
        self._everything = test
        chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:JUDGED].sort().values
        parts = list(stream(test, 250, chosen))
        self.test = LabelledImages(torch.cat([p for p, _ in parts]), torch.cat([y for _, y in parts]))

    def clean(self, seed: int) -> Any:
        """Return the clean data of a seed."""
        return self._clean(seed)

    def measure(self, network: nn.Module) -> dict[str, Any]:
        """Return ACC, and ASR if there is a trigger, on all test images."""
        target = None if self.trigger is None else self.wanted
        convention = self.model.convention
        found = evaluate(network, self._everything, convention, trigger=self.trigger, target=target)
        return {"acc": cell(found.acc), "asr": cell(found.asr)}

    def triggered(self) -> LabelledImages | None:
        """Return the test images of attacked classes with the planted trigger, and their true labels."""
        if self.trigger is None:
            return None
        wanted = torch.tensor(self.wanted)[self.test.labels]
        attacked = (wanted >= 0) & (wanted != self.test.labels)
        return LabelledImages(self.trigger.stamp(self.test.images[attacked]), self.test.labels[attacked])

    @property
    def target(self) -> int | None:
        """The label of an attack that has a single one."""
        named = {label for label in self.wanted or () if label >= 0}
        return named.pop() if len(named) == 1 else None


def scanned(subject: Subject, seed: int) -> tuple[dict[str, Any], Exposed]:
    """Scan and measure the recovered trigger; return what was exposed, too."""
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    verdict, revealed = Scan()(subject.model.network, subject.clean(seed), generator=generator)
    labels, found = revealed.labels, verdict.trigger
    result: dict[str, Any] = {
        "seconds": round(time.perf_counter() - start, 1),
        "stages": {name: round(value, 1) for name, value in revealed.seconds.items()},
        "conclusion": verdict.conclusion,
        "strength": verdict.strength,
        "label": verdict.label,
        "form": found and found.form,
        "norm": found and found.norm,
        "labels": labels
        and {
            "label": labels.label,
            "top": labels.top,
            "score": labels.score,
            "seconded": labels.seconded,
            "moved": labels.moved and labels.moved[labels.top],
        },
        "checks": {
            check.kind: {"strength": check.strength, "support": check.support, "reason": check.reason}
            for check in verdict.checks
        },
    }
    if (pixels := verdict.pixels) is not None:
        network, convention = subject.model.network, subject.model.convention
        result["success"] = success_of(network, pixels.trigger, pixels.label, subject.test, convention)
        result["drawn"] = verdict.drawn and verdict.drawn.norm
        if subject.trigger is not None and pixels.form == "patch" and hasattr(subject.trigger, "keep"):
            result |= overlaps(pixels.trigger, subject.trigger)
    return result, revealed


def repaired(subject: Subject, repair: Repair, known: Exposed) -> dict[str, Any]:
    """Measure what a repair came to, and its time without that for what was known."""
    stages = {name: value - known.seconds.get(name, 0.0) for name, value in repair.seconds.items()}
    result = subject.measure(repair.network) | {
        "outcome": repair.outcome,
        "pruned": len(repair.recipe.units),
        "units": repair.discovery.total,
        "notes": repair.notes,
        "seconds": round(sum(stages.values()), 1),
        "stages": {name: round(value, 1) for name, value in stages.items() if value},
    }
    if repair.learning:
        result["searches"] = [
            {"evaluations": one.evaluations, "worth": [one.curve[0][1], one.curve[-1][1]]}
            for one in repair.learning
        ]
    if repair.tuned is not None:
        result["unpolished"] = subject.measure(unpolished(repair, subject.model.network))
    return result


def recovered(subject: Subject, seed: int) -> dict[str, Any]:
    """Invert patches for all labels on the network as it came, half unlearned, and unlearned."""
    network, convention = subject.model.network, subject.model.convention
    clean, generator = subject.clean(seed), torch.Generator().manual_seed(seed)
    stages = {"as it came": duplicate(network).eval()}

    def watch(forgetful: nn.Module, accuracy: float) -> None:
        if accuracy <= HALFWAY and "half unlearned" not in stages:
            stages["half unlearned"] = duplicate(forgetful).eval()

    forgetful = duplicate(network).eval()
    with flushed_denormals():
        GENTLE(forgetful, clean.learn, convention, generator=generator, watch=watch)
        stages["unlearned"] = forgetful.eval()
        found = {}
        for stage, known in stages.items():
            triggers = Inversion(form="compact")(
                known, clean.learn, clean.choose, convention, generator=generator
            )
            anomaly = anomalies(triggers)[subject.target]
            trigger = triggers[subject.target]
            found[stage] = {
                "norm": trigger.norm,
                "converged": trigger.converged,
                "anomaly": anomaly,
                "smallest": min(triggers, key=lambda one: (not one.converged, one.norm)).label,
                # On the network as it came: that is where it would be used.
                "success": success_of(network, trigger.trigger, subject.target, subject.test, convention),
                **overlaps(trigger.trigger, subject.trigger),
            }
    return found


def overlaps(found: Trigger, planted: Trigger) -> dict[str, float]:
    """Return how far the masks of two triggers overlap, in place and wherever they fit best."""
    return {
        "overlap": mask_overlap(found, planted),
        "overlap_anywhere": mask_overlap(found, planted, anywhere=True),
    }


def separated(subject: Subject, seed: int, detector: str) -> dict[str, Any]:
    """Tell triggered test images from clean ones; the detector may look at some of both, unlabelled."""
    triggered = subject.triggered()
    assert triggered is not None
    everything = torch.cat([subject.test.images, triggered.images])
    few = torch.randperm(len(triggered), generator=torch.Generator().manual_seed(seed))
    few = few[: round(SHARE / (1 - SHARE) * len(subject.test))]
    shown = torch.cat([subject.test.images, triggered.images[few]])
    answers = predict(subject.model.network, everything, subject.model.convention).argmax(1)
    start = time.perf_counter()
    with Filter(create(detector)).prepared(
        subject.model.network,
        subject.clean(seed),
        Mixed(shown),
        generator=torch.Generator().manual_seed(seed),
    ) as judge:
        prepared = time.perf_counter()
        scores = torch.cat([judge(part, torch.zeros(len(part))).values for part in everything.split(250)])
        seconds = time.perf_counter() - prepared
        suspicious = scores > judge.threshold.value
    clean = len(subject.test)
    area = separation(scores[:clean], scores[clean:])
    wanted = torch.tensor(subject.wanted)[triggered.labels]
    hit = answers[clean:] == wanted
    return {
        "area": {"value": area.value, "low": area.low, "high": area.high},
        "area_where_it_works": separation(scores[:clean], scores[clean:][hit]).value if hit.any() else None,
        "false_positives": cell(Proportion.of(suspicious[:clean])),
        "true_positives": cell(Proportion.of(suspicious[clean:])),
        "threshold_rate": judge.threshold.rate,
        "prepared": round(prepared - start, 1),
        "seconds_per_1000": round(1000 * seconds / len(everything), 2),
    }


class Mixed(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Images in memory, as a filter reads them."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images, self.labels = images, torch.full((len(images),), -1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], -1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--specimens", type=Path, default=Path(".specimens"))
    parser.add_argument("--data", default=str(SHARED / "data" / "cifar10"))
    parser.add_argument("--only", nargs="*", default=None, help="names of checkpoints or specimens")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--detectors", nargs="*", default=sorted(detectors()))
    parser.add_argument("--fresh", action="store_true", help="repair again where that was measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    stored = json.loads(options.out.read_text()) if options.out.is_file() else {"cells": {}}
    cells = stored["cells"]

    def keep(found: dict[str, Any]) -> None:
        cells.update(found)
        write_text(options.out, json.dumps(stored, indent=1) + "\n")
        for key, value in found.items():
            print(key, json.dumps(value)[:200], flush=True)

    for name in options.only or names(options):
        subject = Subject(name, options)
        if f"{name}|before" not in cells:
            keep({f"{name}|before": subject.measure(subject.model.network)})
        methods = [kind for kind in METHODS if kind in options.parts]
        for seed in options.seeds if methods else ():
            again = methods if options.fresh else []
            kinds = ("scan", *methods)
            missing = [kind for kind in kinds if kind in again or f"{name}|{kind}|{seed}" not in cells]
            if missing:
                scan, revealed = scanned(subject, seed)
            if "scan" in missing:
                keep({f"{name}|scan|{seed}": scan})
            if any(kind in missing for kind in methods):
                joint = Joint(subject.model.network, subject.clean(seed), seed, revealed)
            for kind in methods:
                if kind in missing:
                    repair = joint.onp() if kind == "onp" else joint.rnp()
                    keep({f"{name}|{kind}|{seed}": repaired(subject, repair, revealed)})
        recover = "recovery" in options.parts and subject.target is not None
        for seed in options.seeds if recover else ():
            if f"{name}|recovery|{seed}" not in cells:
                keep({f"{name}|recovery|{seed}": recovered(subject, seed)})
        detect = "detectors" in options.parts and subject.trigger is not None
        wanted = options.detectors if detect else []
        for seed, kind in product(options.seeds, wanted):
            if f"{name}|{kind}|{seed}" not in cells:
                keep({f"{name}|{kind}|{seed}": separated(subject, seed, kind)})


def names(options: argparse.Namespace) -> list[str]:
    """Return every checkpoint, and every specimen that is there."""
    cards = json.loads((options.shared / "checkpoints" / "checkpoints.json").read_text())
    made = sorted(path.parent.name for path in options.specimens.glob("*/card.json"))
    return [card["name"] for card in cards] + made


def table(cells: dict[str, Any]) -> str:
    """Render the tables as Markdown: scans, repairs, and detectors by AUROC."""
    subjects = list(dict.fromkeys(key.split("|")[0] for key in cells))

    def of(name: str, kind: str) -> list[dict[str, Any]]:
        return [value for key, value in cells.items() if key.startswith(f"{name}|{kind}|")]

    lines = [
        "| network | verdict | label | label score | strength | success | overlap | anywhere | s |",
        "| --- " * 9 + "|",
    ]
    for name in subjects:
        if found := of(name, "scan"):
            told = [", ".join(sorted({str(f[what]) for f in found})) for what in ("conclusion", "label")]
            scores = middle([f["labels"] and f["labels"]["score"] for f in found])
            numbers = [
                middle([f.get(what) for f in found])
                for what in ("strength", "success", "overlap", "overlap_anywhere", "seconds")
            ]
            lines.append(f"| `{name}` | " + " | ".join([*told, scores, *numbers]) + " |")
    for method in METHODS:
        results = {name: found for name in subjects if (found := of(name, method))}
        if results:
            lines += [
                "",
                f"| network, {'RNP' if method == 'repair' else 'ONP'} | ACC | ASR | ACC after | ASR after "
                "| ACC unpolished | ASR unpolished | pruned | s |",
                "| --- " * 9 + "|",
            ]
        for name, found in results.items():
            plain = [f.get("unpolished", f) for f in found]
            rates = [
                middle([f[what] and 100 * f[what]["value"] for f in part])
                for part in ([cells[f"{name}|before"]], found, plain)
                for what in ("acc", "asr")
            ]
            numbers = [middle([f[what] for f in found]) for what in ("pruned", "seconds")]
            lines.append(f"| `{name}` | " + " | ".join([*rates, *numbers]) + " |")
    recovering = [name for name in subjects if of(name, "recovery")]
    if recovering:
        lines += [
            "",
            "| network | patch inverted on it | pixels | anomaly | smallest label | success | overlap | "
            "anywhere |",
            "| --- " * 8 + "|",
        ]
    for name in recovering:
        found = of(name, "recovery")
        for stage in found[0]:
            at = [value[stage] for value in found if stage in value]
            numbers = [middle([one[what] for one in at]) for what in ("norm", "anomaly")]
            labels = ", ".join(sorted({str(one["smallest"]) for one in at}))
            rates = [middle([one[what] for one in at]) for what in ("success", "overlap", "overlap_anywhere")]
            lines.append(f"| `{name}` | {stage} | " + " | ".join([*numbers, labels, *rates]) + " |")
    kinds = sorted({key.split("|")[1] for key in cells} - {"scan", "before", "recovery", *METHODS})
    if kinds:
        lines += ["", "| network | " + " | ".join(kinds) + " |", "| --- " * (len(kinds) + 1) + "|"]
    marked_rows = list[str]()
    for name in subjects:
        row = [middle([value["area"]["value"] for value in of(name, kind)]) for kind in kinds]
        if any(row):
            lines.append(f"| `{name}` | " + " | ".join(row) + " |")
            marked = [" / ".join(marks(of(name, kind))) for kind in kinds]
            marked_rows.append(f"| `{name}` | " + " | ".join(marked) + " |")
    if marked_rows:
        lines += ["", "| network, at `--rate 1` | " + " | ".join(kinds) + " |"]
        lines += ["| --- " * (len(kinds) + 1) + "|", *marked_rows]
    return "\n".join(lines)


def pairs(cells: dict[str, Any]) -> str:
    """Render RNP and ONP with the same seed side by side, as Markdown."""
    lines = [
        "| network, seed | RNP | ONP | RNP without polish | ONP without polish | units | s |",
        "| --- " * 7 + "|",
    ]
    attacked = []
    for key, improved in cells.items():
        name, kind, *seed = key.split("|")
        first = cells.get(f"{name}|repair|{seed[0]}") if kind == "onp" else None
        if first is None:
            continue
        both = first, improved
        shown = [*(acc_asr(one) for one in both), *(acc_asr(one.get("unpolished", one)) for one in both)]
        units, seconds = (", ".join(f"{one[what]:.0f}" for one in both) for what in ("pruned", "seconds"))
        lines.append(f"| `{name}`, {seed[0]} | {' | '.join(shown)} | {units} | {seconds} |")
        if improved["asr"]:
            attacked.append(both)
    lines.append(onp_less_rnp(attacked, "over {} pairs of repairs of the same backdoored network and seed"))
    return "\n".join(lines)


def acc_asr(found: dict[str, Any]) -> str:
    """Return ACC, and ASR if there is a trigger, in percent."""
    return " / ".join(f"{100 * found[what]['value']:.1f}" for what in ("acc", "asr") if found[what])


def marks(values: list[dict[str, Any]]) -> list[str]:
    """Return the median shares of triggered and of clean test images that are marked, in percent."""
    return [
        f"{100 * statistics.median(value[which]['value'] for value in values):.1f}"
        for which in ("true_positives", "false_positives")
        if values
    ]


def middle(values: list[float | None]) -> str:
    """Return the median and the range."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text, low, high = (
        f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        for value in (statistics.median(known), min(known), max(known))
    )
    return text if len(known) == 1 else f"{text} ({low} to {high})"


if __name__ == "__main__":
    main()
