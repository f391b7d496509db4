"""Evidence as one HTML page that loads nothing."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from secateur.files import write_text
from secateur.repair.notes import UNITS
from secateur.report import plots, wording
from secateur.report.frame import Evidence
from secateur.report.svg import inline, printable

TEMPLATE = "report.html.jinja"
JSON_NAME = "report.json"
HTML_NAME = "report.html"
LONGEST_TEXT = 2000
MOST_INDICES = 40
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


def render(evidence: Evidence) -> str:
    """Return the HTML page of `evidence`, which may have come from a ``report.json``.

    Every text in it is taken for hostile: class names, file names and notes are escaped, and characters
    that do not show are replaced.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(
        percent=wording.percent,
        interval=wording.interval,
        span=wording.span,
        ranges=ranges,
        size=size,
        duration=duration,
        picture=_picture,
        value=_value,
    )
    template = environment.from_string(
        files("secateur.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    )
    return template.render(
        e=evidence, title=wording.outcome_title(evidence["outcome"]), figures=_figures(evidence)
    )


def write_report(directory: Path, evidence: Evidence) -> dict[str, Path]:
    """Write ``report.json`` and ``report.html``, each whole or not at all.

    Returns
    -------
    dict of str to Path
        File name to path.
    """
    document = json.dumps(evidence, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    texts = {JSON_NAME: document, HTML_NAME: render(evidence)}
    paths = {name: directory / name for name in texts}
    for name, text in texts.items():
        write_text(paths[name], text)
    return paths


def size(look: Mapping[str, Any]) -> str:
    """Return the size of the smallest trigger of a look, with its unit."""
    digits = 2 if look["kind"] == "outlasting" else 1
    return f"{look['norm']:.{digits}f} {UNITS[look['kind']]}"


def ranges(indices: Sequence[int], limit: int = MOST_INDICES) -> str:
    """Return sorted whole numbers with runs shortened: ``0-3, 7, 9-10``; at most `limit` runs."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    texts = [f"{first}" if first == last else f"{first}\N{EN DASH}{last}" for first, last in runs[:limit]]
    return ", ".join(texts) + (f", … ({len(indices):,} in all)" if len(runs) > limit else "")


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 1:
        return f"{1000 * seconds:.0f}{wording.SPACE}ms"
    if seconds < 119.95:
        return f"{seconds:.1f}{wording.SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{wording.SPACE}min {rest}{wording.SPACE}s"


def _figures(evidence: Evidence) -> dict[str, Markup]:
    figures: dict[str, tuple[Figure, str]] = {}
    if evidence["curve"] and len(evidence["curve"]["points"]) > 1:
        figures["curve"] = plots.accuracy_curve(evidence["curve"]), _curve_text(evidence)
    units = evidence["units"]
    if units and units["layers"]:
        counts = f"{units['pruned']:,} of {units['total']:,} units are pruned"
        figures["histogram"] = plots.score_histogram(units), f"Histogram of all scores; {counts}."
        figures["layers"] = (
            plots.scores_by_layer(units),
            f"Scores and share of pruned units in each of {len(units['layers'])} layers; {counts}.",
        )
    if learning := evidence["learning"]:
        figures["learning"] = plots.learning_curves(learning), _learning_text(learning)
        figures["graph"] = (
            plots.unit_graph(units, learning["joined"]),
            f"The graph of {units['total']:,} units; {units['pruned']:,} are pruned.",
        )
    if evidence["exposure"]:
        if evidence["exposure"]["labels"]:
            statement = evidence["exposure"]["statement"]
            figures["answers"] = plots.unlearned_answers(evidence["exposure"]), statement
        figures["path"] = plots.unlearning_path(evidence["exposure"]), _path_text(evidence["exposure"])
    for index, check in enumerate(evidence["checks"]):
        if check["sizes"]:
            figures[f"sizes-{index}"] = (
                plots.trigger_sizes(check["sizes"], evidence=check["stands_out"]),
                f"{check['check']}. {check['statement']}",
            )
    # The element is made of matplotlib's output alone, which escapes the text in it.
    return {
        name: Markup(inline(figure, name, printable(text, LONGEST_TEXT)))
        for name, (figure, text) in figures.items()
    }


def _curve_text(evidence: Evidence) -> str:
    before, after = evidence["accuracy"]["before"], evidence["accuracy"]["after"]
    return (
        f"Clean accuracy over units pruned: {wording.percent(before['value'])} with none, "
        f"{wording.percent(after['value'])} at the chosen {evidence['units']['pruned']:,}."
    )


def _learning_text(learning: Mapping[str, Any]) -> str:
    rounds = learning["rounds"]
    return (
        f"Worth of the best choice in {len(rounds)} rounds of learning; the last went from "
        f"{rounds[-1]['curve'][0][1]:.2f} to {rounds[-1]['curve'][-1][1]:.2f}."
    )


def _path_text(exposure: Mapping[str, Any]) -> str:
    last = exposure["path"]["accuracies"][-1]["value"]
    passes = len(exposure["path"]["accuracies"])
    return f"Clean accuracy during {passes} passes of unlearning; it ends at {wording.percent(last)}."


def _picture(encoded: str) -> Markup:
    """Return a PNG in base64 as the address of an image; anything else is no picture."""
    if not BASE64.fullmatch(encoded):
        raise ValueError("a picture in a report must be base64")
    return Markup("data:image/png;base64,") + encoded


def _shown(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, LONGEST_TEXT)
    return value


def _value(value: object) -> str:
    """Return a plain value as a reader wants to see it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_value(item)}" for key, item in value.items()) or "none"
    return str(value)
