"""The figures of a report, drawn from its evidence."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from secateur.expose import DOMINANT
from secateur.report.svg import BLUE, GREY, INK, ORANGE, QUIET, printable, style
from secateur.report.wording import points

WIDTH = 7.2
HEIGHT = 3.1
LAYER_NAME = 40
CLASS_NAME = 22
ALL_CLASSES = 20
MOST_GAINING = 12
DRAWN = 4000
"""More marks than this are a picture within the figure: each would be an element of the page."""


def accuracy_curve(curve: Mapping[str, Any]) -> Figure:
    """Draw clean accuracy over units pruned, with the chosen point and the budget.

    The curve is the artist labelled ``accuracy``, the chosen point ``chosen``, the budget ``budget``.
    """
    with style():
        figure, axes = _axes(HEIGHT)
        points = [point for point in curve["points"] if point["accuracy"]["value"] is not None]
        pruned = [point["pruned"] for point in points]
        _band(axes, pruned, [point["accuracy"] for point in points], "accuracy")
        axes.set_xlabel("units pruned, in the method's order")
        axes.set_ylabel("clean accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if points and curve["budget"] < 1:
            allowed = 100 * (points[0]["accuracy"]["value"] - curve["budget"])
            axes.axhline(allowed, color=INK, linewidth=1, linestyle=(0, (5, 3)), label="budget")
            # Where the curve is not: it starts above the line, and mostly ends below.
            ends_below = 100 * points[-1]["accuracy"]["value"] < allowed
            axes.annotate(
                f"budget: {100 * curve['budget']:g} points below the start",
                (1 if ends_below else 0, allowed),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 3) if ends_below else (4, -3),
                textcoords="offset points",
                ha="right" if ends_below else "left",
                va="bottom" if ends_below else "top",
                fontsize=8.5,
            )
        if points:
            _mark_chosen(axes, curve["points"][curve["chosen"]])
            axes.set_xlim(-0.02 * max(1, pruned[-1]), 1.02 * max(1, pruned[-1]))
        return figure


def learning_curves(learning: Mapping[str, Any]) -> Figure:
    """Draw the worth of the best choice over evaluations, one line labelled ``round N`` for each round."""
    with style():
        figure, axes = _axes(2.6)
        rounds = learning["rounds"]
        for number, told in enumerate(rounds, 1):
            counts, worths = zip(*told["curve"], strict=True)
            share = number / len(rounds)
            axes.step(
                [*counts, told["evaluations"]],
                [*worths, worths[-1]],
                where="post",
                color=BLUE,
                alpha=0.35 + 0.65 * share,
                label=f"round {number}",
            )
            axes.annotate(
                f"{number}",
                (told["evaluations"], worths[-1]),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        axes.set_xlim(left=0)
        # Where a search begins with a good choice, gains are small: from 0 to 1 they would not be seen.
        axes.margins(x=0.04, y=0.12)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_xlabel("evaluations")
        axes.set_ylabel("worth of the best choice")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        return figure


def unit_graph(units: Mapping[str, Any], joined: Sequence[Sequence[int]]) -> Figure:
    """Draw every unit at its layer, pruned ones labelled ``pruned``, and what the graph joins with them."""
    with style():
        figure, axes = _axes(HEIGHT)
        layers = units["layers"]

        def place(layer: int, index: int) -> tuple[float, float]:
            return layer, (index + 0.5) / layers[layer]["total"]

        axes.add_collection(
            LineCollection(
                [[place(*pair[:2]), place(*pair[2:])] for pair in joined],
                colors=BLUE,
                linewidths=0.5,
                alpha=0.35,
                label="joined",
                rasterized=len(joined) > DRAWN,
            )
        )
        everything = [place(at, index) for at, layer in enumerate(layers) for index in range(layer["total"])]
        pruned = [place(at, index) for at, layer in enumerate(layers) for index in layer["indices"]]
        for where, label, colour, size in ((everything, "units", GREY, 2), (pruned, "pruned", ORANGE, 22)):
            across, up = [at for at, _ in where], [at for _, at in where]
            many = len(where) > DRAWN
            axes.scatter(across, up, s=size, color=colour, label=label, zorder=3, rasterized=many)
        axes.set_ylim(-0.02, 1.02)
        axes.set_yticks([])
        axes.set_xlim(-0.5, len(layers) - 0.5)
        axes.set_xlabel("layers with units, from input to output")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        return figure


def scores_by_layer(units: Mapping[str, Any]) -> Figure:
    """Draw, one row per layer, how the scores spread and how many units were pruned."""
    with style():
        layers = units["layers"]
        row = 0.24 if len(layers) <= 30 else 0.17
        figure = Figure(figsize=(WIDTH, 0.9 + row * max(3, len(layers))), layout="constrained")
        scores, counts = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.3))
        _score_cells(figure, scores, units)
        names = [printable(layer["name"], LAYER_NAME) or "(the network)" for layer in layers]
        scores.set_yticks(range(len(layers)), names, fontsize=8.5 if row > 0.2 else 7)
        scores.set_ylim(max(3, len(layers)) - 0.5, -0.5)
        shares = [100 * layer["pruned"] / layer["total"] for layer in layers]
        counts.barh(range(len(layers)), shares, height=0.72, color=ORANGE, label="pruned")
        for position, (layer, share) in enumerate(zip(layers, shares, strict=True)):
            counts.annotate(
                f"{layer['pruned']:,} of {layer['total']:,}",
                (share, position),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8 if row > 0.2 else 6.5,
                color=INK if layer["pruned"] else QUIET,
            )
        # Room for the text beside the longest bar.
        counts.set_xlim(0, 1.75 * max(shares, default=0) or 1)
        counts.set_xlabel("pruned, % of the layer")
        counts.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=max(shares, default=0) > 3))
        if not any(shares):
            counts.set_xticks([0])
        counts.tick_params(axis="y", length=0)
        counts.spines["left"].set_color(GREY)
        return figure


def score_histogram(units: Mapping[str, Any]) -> Figure:
    """Draw all units by score, those that were pruned in another colour."""
    with style():
        figure, axes = _axes(2.5)
        edges = units["score_edges"]
        width = edges[1] - edges[0]
        layers = units["layers"]
        for key, colour, label in (("scores", GREY, "kept"), ("pruned_scores", ORANGE, "pruned")):
            heights = [sum(layer[key][index] for layer in layers) for index in range(len(edges) - 1)]
            axes.bar(edges[:-1], heights, width=0.9 * width, align="edge", color=colour, label=label)
        # Nearly all units score 1: a linear axis would hide the few that matter.
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.minorticks_off()
        axes.set_xlim(-0.01, 1.01)
        axes.set_xlabel("score (low is suspicious)")
        axes.set_ylabel("units (log scale)")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
        return figure


def unlearned_answers(exposure: Mapping[str, Any]) -> Figure:
    """Draw what the unlearned network answers and what each class gained; of many, those with most."""
    with style():
        rows = shown_answers(exposure)
        figure = Figure(figsize=(WIDTH, 0.9 + 0.22 * max(3, len(rows))), layout="constrained")
        axes, gains = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
        places = range(len(rows))
        dominant = [row["label"] is not None and row["label"] == exposure["labels"]["label"] for row in rows]
        colours = [ORANGE if dominates else BLUE for dominates in dominant]
        axes.barh(places, [row["answers"] for row in rows], height=0.7, color=colours, label="answers")
        axes.plot(
            [row["images"] for row in rows],
            places,
            linestyle="none",
            marker="|",
            markersize=11,
            markeredgewidth=2,
            color=INK,
            label="images of that class",
        )
        gains.barh(places, [100 * row["gained"] for row in rows], height=0.7, color=colours, label="gained")
        gains.axvline(100 * DOMINANT, color=INK, linewidth=1, linestyle=(0, (5, 3)), label="dominant")
        for place, row, dominates in zip(places, rows, dominant, strict=True):
            for panel, text, end in (
                (axes, f"{row['answers']:,}", max(row["answers"], row["images"])),
                (gains, points(row["gained"]), 100 * max(0, row["gained"])),
            ):
                panel.annotate(
                    text,
                    (end, place),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                    fontweight="bold" if dominates else "normal",
                )
        axes.set_yticks(places, [row["text"] for row in rows])
        axes.set_ylim(max(3, len(rows)) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.set_xlim(left=0)
        axes.set_xlabel("images answered with it (tick: of that class)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        gains.axvline(0, color=QUIET, linewidth=0.8)
        # Room for the text beside the longest bar.
        gains.set_xlim(right=max(60, 135 * max(row["gained"] for row in rows)))
        gains.set_xlabel("gained, % of new errors")
        gains.tick_params(axis="y", length=0)
        gains.spines["left"].set_visible(False)
        return figure


def trigger_sizes(sizes: Mapping[str, Any], *, evidence: bool) -> Figure:
    """Draw how large the trigger of each label is; the smallest stands out if it is evidence.

    Triggers that did not converge are grey: their size means nothing.
    """
    with style():
        rows = sizes["triggers"]
        figure = Figure(figsize=(WIDTH, 0.9 + 0.22 * max(3, len(rows))), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        colours = [
            GREY if not row["converged"] else ORANGE if row["smallest"] and evidence else BLUE for row in rows
        ]
        axes.barh(places, [row["norm"] for row in rows], height=0.7, color=colours, label="sizes")
        for place, row in zip(places, rows, strict=True):
            axes.annotate(
                f"{row['norm']:.1f}" + ("" if row["converged"] else " (did not converge)"),
                (row["norm"], place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                fontweight="bold" if row["smallest"] and evidence else "normal",
            )
        texts = ["any other answer" if row["label"] is None else _class_text(row) for row in rows]
        axes.set_yticks(places, texts)
        axes.set_ylim(max(3, len(rows)) - 0.5, -0.5)
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"size of the smallest trigger found, in {sizes['unit']}")
        return figure


def unlearning_path(exposure: Mapping[str, Any]) -> Figure:
    """Draw the clean accuracy after every pass of unlearning; the curve is labelled ``accuracy``."""
    with style():
        figure, axes = _axes(2.4)
        path = exposure["path"]["accuracies"]
        _band(axes, list(range(1, len(path) + 1)), path, "accuracy")
        chance = 100 / len(exposure["answers"])
        axes.axhline(chance, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            "chance",
            (0, chance),
            xycoords=("axes fraction", "data"),
            xytext=(4, 2),
            textcoords="offset points",
            fontsize=8.5,
        )
        axes.set_ylim(0, 102)
        axes.set_xlabel("passes of unlearning over the images")
        axes.set_ylabel("clean accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        return figure


def shown_answers(exposure: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of `unlearned_answers`: every class, or those that gain most and the others' sum."""
    rows = [
        {**row, "text": _class_text(row), "gained": gained}
        for row, gained in zip(exposure["answers"], exposure["labels"]["gained"], strict=True)
    ]
    if len(rows) <= ALL_CLASSES:
        return rows
    ranked = sorted(rows, key=lambda row: (-row["gained"], row["label"]))
    rest = ranked[MOST_GAINING:]
    return [
        *ranked[:MOST_GAINING],
        {
            "label": None,
            "text": f"{len(rest):,} other classes",
            **{key: sum(row[key] for row in rest) for key in ("answers", "images", "gained")},
        },
    ]


def _class_text(row: Mapping[str, Any]) -> str:
    name = row["name"]
    return f"{row['label']}" if name is None else f"{row['label']}  {printable(name, CLASS_NAME)}"


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, axis="y")
    return figure, axes


def _band(axes: Axes, positions: Sequence[int], numbers: Sequence[Mapping[str, Any]], label: str) -> None:
    low, high, value = ([100 * number[key] for number in numbers] for key in ("low", "high", "value"))
    if len(positions) == 1:
        axes.vlines(positions, low, high, color=BLUE, alpha=0.35, linewidth=6)
    axes.fill_between(positions, low, high, color=BLUE, alpha=0.18, linewidth=0)
    dots = "o" if len(positions) <= 40 else ""
    axes.plot(positions, value, color=BLUE, linewidth=1.6, marker=dots, markersize=3, label=label)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g} %"))


def _mark_chosen(axes: Axes, chosen: Mapping[str, Any]) -> None:
    place = (chosen["pruned"], 100 * chosen["accuracy"]["value"])
    axes.plot(
        *[[coordinate] for coordinate in place],
        linestyle="none",
        marker="o",
        markersize=9,
        markerfacecolor="white",
        markeredgecolor=ORANGE,
        markeredgewidth=2.2,
        label="chosen",
        zorder=5,
    )
    # Accuracy falls along the curve: to the upper right and to the lower left of a point there is room.
    on_the_right = chosen["pruned"] > 0.6 * axes.get_xlim()[1]
    axes.annotate(
        f"chosen: {chosen['pruned']:,} pruned, {place[1]:.1f} %",
        place,
        xytext=(-8, -8) if on_the_right else (6, 9),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        va="top" if on_the_right else "baseline",
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
        fontweight="bold",
        color=ORANGE,
    )


def _score_cells(figure: Figure, axes: Axes, units: Mapping[str, Any]) -> None:
    edges = units["score_edges"]
    cells = [
        (Rectangle((edges[index], position - 0.42), edges[1] - edges[0], 0.84), count)
        for position, layer in enumerate(units["layers"])
        for index, count in enumerate(layer["scores"])
        if count
    ]
    largest = max((count for _, count in cells), default=1)
    collection = PatchCollection(
        [cell for cell, _ in cells],
        cmap=matplotlib.colormaps["Blues"],
        norm=LogNorm(0.4, max(10, largest)),
        edgecolor="white",
        linewidth=0.6,
    )
    collection.set_array([count for _, count in cells])
    axes.add_collection(collection)
    axes.set_xlim(0, 1)
    axes.set_xlabel("score (low is suspicious); darker: more units")
    axes.tick_params(axis="y", length=0)
