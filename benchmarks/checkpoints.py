"""Measure repairs on the third-party checkpoints: the README's table.

    python benchmarks/checkpoints.py [--only NAME ...] [--seeds 0 1 2]

Every cell is one repair from 500 clean training images, measured afterwards on the test images (ACC on all of
them, ASR on those of other classes than the target). Results go to ``benchmarks/results/checkpoints.json``
after every cell; cells that are there already are not measured again unless ``--fresh`` is given.
The repairs see no trigger: it is read after they have returned. The default is not measured here: the table
takes it from ``exposure.json``, where it repairs with what a scan exposed.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap

from secateur import __version__
from secateur.data import CleanData, open_images, read_trigger, sample_clean
from secateur.evaluation import Evaluation, evaluate
from secateur.files import write_text
from secateur.models import LoadedModel, load_model
from secateur.repair import Repair, create
from secateur.statistics import Proportion
from secateur.units import prune

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "checkpoints.json"
SHARED = HERE.parents[1] / "shared"
EXPOSURE = HERE / "results" / "exposure.json"
PRESETS = ("paper",)
DEFAULTS = {"repair": "default", "onp": "ONP"}
"""Columns of what ``exposure.py`` measured."""


def load(card: dict, shared: Path) -> LoadedModel:
    return load_model(
        shared / "checkpoints" / "files" / card["file"],
        f"{shared / 'checkpoints' / 'architectures.py'}:{card['arch']}",
        mean=tuple(card["mean"]),
        std=tuple(card["std"]),
    )


def images(card: dict, model: LoadedModel, split: str, shared: Path):
    return open_images(
        str(shared / "data" / card["dataset"]),
        split=split,
        root=None,
        size=model.convention.size,
        channels=model.convention.channels,
    )


def clean_data(card: dict, model: LoadedModel, seed: int, shared: Path) -> CleanData:
    dataset = images(card, model, "train", shared)
    return sample_clean(dataset, model.convention, samples=500, seed=seed, num_classes=model.num_classes)


def repair(card: dict, preset: str, seed: int, shared: Path) -> tuple[Repair, float]:
    model = load(card, shared)
    clean = clean_data(card, model, seed, shared)
    method = create("rnp", preset)
    start = time.perf_counter()
    result = method(model.network, clean, generator=torch.Generator().manual_seed(seed))
    return result, time.perf_counter() - start


def measure(network: torch.nn.Module, card: dict, limit: int | None, shared: Path) -> Evaluation:
    model = load(card, shared)
    trigger = (
        read_trigger(shared / "checkpoints" / "triggers" / f"{card['trigger']}.safetensors")
        if card["trigger"]
        else None
    )
    return evaluate(
        network,
        images(card, model, "test", shared),
        model.convention,
        trigger=trigger,
        target=card["target"],
        limit=limit,
    )


def unpolished(result: Repair, network: torch.nn.Module) -> torch.nn.Module:
    """Return what a repair pruned of a network, before it was polished."""
    units = [scored.unit for scored in result.recipe.units]
    return prune(network, result.discovery.layers, units, shift=not result.recipe.gamma_only)


def cell(proportion: Proportion | None) -> dict | None:
    if proportion is None:
        return None
    low, high = proportion.interval()
    return {
        "value": proportion.value,
        "low": low,
        "high": high,
        "hits": proportion.hits,
        "n": proportion.total,
    }


def row(evaluation: Evaluation) -> dict:
    return {"acc": cell(evaluation.acc), "asr": cell(evaluation.asr), "ra": cell(evaluation.ra)}


def with_default(cells: dict) -> dict:
    """Return the cells and those of both methods' defaults for the same networks, with what scans exposed."""
    exposed = json.loads(EXPOSURE.read_text())["cells"] if EXPOSURE.is_file() else {}
    names = {key.split("|")[0] for key in cells}
    found = dict(cells)
    for key, cell in exposed.items():
        name, kind = key.split("|")[:2]
        if kind in DEFAULTS and name in names:
            found[key.replace(f"|{kind}|", f"|{DEFAULTS[kind]}|")] = cell
    return found


def table(cells: dict) -> str:
    """Render the median over seeds, with the range, as Markdown."""
    names = list(dict.fromkeys(key.split("|")[0] for key in cells))
    kinds = {key.split("|")[1] for key in cells}
    columns = [kind for kind in ("before", *PRESETS, *DEFAULTS.values()) if kind in kinds]
    lines = ["| checkpoint | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for name in names:
        shown = []
        for column in columns:
            found = [value for key, value in cells.items() if key.startswith(f"{name}|{column}|")]
            shown.append(" / ".join(spread(found, measure) for measure in ("acc", "asr")) if found else "")
        lines.append(f"| `{name}` | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def spread(found: list[dict], name: str) -> str:
    values = [100 * value[name]["value"] for value in found if value[name] is not None]
    if not values:
        return "no trigger"
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def mean_difference(differences: list[float], form: str) -> str:
    """Return the mean of paired differences and the 95 % percentile interval of 10,000 bootstrap samples."""
    interval = bootstrap(
        (differences,), np.mean, n_resamples=10_000, method="percentile", rng=0
    ).confidence_interval
    mean, low, high = (form.format(value) for value in (np.mean(differences), *interval))
    return f"{mean} ({low} to {high})"


def onp_less_rnp(pairs: list[tuple[dict, dict]], of: str) -> str:
    """Say how far ONP is from RNP, given what both came to on the same networks and seeds."""
    if len(pairs) < 2:
        return ""
    acc, asr = (
        mean_difference([100 * (onp[what]["value"] - rnp[what]["value"]) for rnp, onp in pairs], "{:+.1f}")
        for what in ("acc", "asr")
    )
    return f"\nONP less RNP {of.format(len(pairs))}: ACC {acc} points, ASR {asr} points."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with checkpoints and data")
    parser.add_argument("--only", nargs="*", default=None, help="names of checkpoints")
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=None, help="test images; all by default")
    parser.add_argument("--fresh", action="store_true", help="measure cells again that are in the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    stored = json.loads(options.out.read_text()) if options.out.is_file() else {"cells": {}}
    cells = stored["cells"]

    def keep(key: str, value: dict) -> None:
        cells[key] = value
        report = {
            "secateur": __version__,
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "cells": cells,
        }
        write_text(options.out, json.dumps(report, indent=1) + "\n")
        shown = {name: round(100 * value[name]["value"], 1) for name in ("acc", "asr", "ra") if value[name]}
        print(key, shown, value.get("pruned", ""), f"{value.get('seconds', 0):.0f} s", flush=True)

    for card in json.loads((options.shared / "checkpoints" / "checkpoints.json").read_text()):
        name = card["name"]
        if options.only and name not in options.only:
            continue
        if options.fresh or f"{name}|before|-" not in cells:
            network = load(card, options.shared).network
            keep(f"{name}|before|-", row(measure(network, card, options.limit, options.shared)))
        for preset in options.presets:
            for seed in options.seeds:
                key = f"{name}|{preset}|{seed}"
                if key in cells and not options.fresh:
                    continue
                result, seconds = repair(card, preset, seed, options.shared)
                value = row(measure(result.network, card, options.limit, options.shared))
                exposure = result.exposure
                value |= {
                    "pruned": len(result.recipe.units),
                    "units": result.discovery.total,
                    "outcome": result.outcome,
                    "label": exposure.label if exposure else None,
                    "share": exposure.share if exposure else None,
                    "held_out_loss": result.curve[result.chosen].loss.value,
                    "seconds": seconds,
                    "stages": result.seconds,
                }
                if result.tuned is not None:
                    pruned = unpolished(result, load(card, options.shared).network)
                    value["unpolished"] = row(measure(pruned, card, options.limit, options.shared))
                keep(key, value)
    print(table(with_default(cells)))


if __name__ == "__main__":
    main()
