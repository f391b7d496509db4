"""Compare designs of RNP's masks on the third-party checkpoints: what each part of the default is worth.

    python benchmarks/designs.py [--seeds 0] [--only NAME ...] [--limit 1000]

Masks decide in all of them: no trigger is searched. Each design changes one thing of the first. Results go to
``benchmarks/results/designs.json``; the table of ``docs/decisions/0001-rnp-default.md`` is printed.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from checkpoints import HERE, SHARED, clean_data, load, measure, row

from secateur.files import write_text
from secateur.repair import RNP, Recovering
from secateur.repair.rnp import GENTLE

RESULTS = HERE / "results" / "designs.json"
MASKS = RNP(search=None)
DESIGNS = {
    "masks as by default": MASKS,
    "unlearned network only": replace(MASKS, original=0.0),
    "original network only": replace(MASKS, original=1.0),
    "unlearning without a stride": replace(MASKS, unlearning=replace(GENTLE, stride=None)),
    "last mask instead of the trajectory": replace(MASKS, trajectory=False),
    "nothing spared": replace(MASKS, spare=None),
    "weight pruned, bias kept": replace(MASKS, shift=False),
    "bias masked too while recovering": replace(MASKS, recovering=Recovering(shift=True)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    cells = json.loads(options.out.read_text())["cells"] if options.out.is_file() else {}
    for card in json.loads((options.shared / "checkpoints" / "checkpoints.json").read_text()):
        if options.only and card["name"] not in options.only:
            continue
        model = load(card, options.shared)
        for seed in options.seeds:
            clean = clean_data(card, model, seed, options.shared)
            for name, method in DESIGNS.items():
                key = f"{card['name']}|{name}|{seed}"
                if key in cells:
                    continue
                repair = method(model.network, clean, generator=torch.Generator().manual_seed(seed))
                cells[key] = row(measure(repair.network, card, options.limit, options.shared))
                cells[key]["pruned"] = len(repair.recipe.units)
                write_text(options.out, json.dumps({"limit": options.limit, "cells": cells}, indent=1) + "\n")
                print(
                    key, {k: round(100 * v["value"], 1) for k, v in cells[key].items() if isinstance(v, dict)}
                )
    names = list(dict.fromkeys(key.split("|")[0] for key in cells))
    print("| design | " + " | ".join(f"`{name}`" for name in names) + " |")
    print("| --- " * (len(names) + 1) + "|")
    for design in DESIGNS:
        shown = [
            " / ".join(middle(cells, f"{name}|{design}|", measure) for measure in ("acc", "asr"))
            for name in names
        ]
        print(f"| {design} | " + " | ".join(shown) + " |")


def middle(cells: dict, prefix: str, name: str) -> str:
    values = [100 * v[name]["value"] for key, v in cells.items() if key.startswith(prefix) and v[name]]
    return f"{statistics.median(values):.1f}" if values else "-"


if __name__ == "__main__":
    main()
