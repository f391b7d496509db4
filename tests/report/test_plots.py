from itertools import pairwise

import matplotlib
import pytest
from matplotlib.colors import to_hex, to_rgba
from tests.report.cases import SMALL, exposure, make_evidence, make_repair, scored, situation

from secateur.report import plots
from secateur.report.svg import BLUE, GREY, ORANGE, inline, printable


def lines(figure) -> dict:
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_accuracy_curve_marks_the_chosen_point_and_the_budget() -> None:
    evidence = situation("repaired")
    drawn = lines(plots.accuracy_curve(evidence["curve"]))
    assert drawn["chosen"].get_xydata().tolist() == [[3, 84.0]]
    assert drawn["accuracy"].get_xydata()[:4].tolist() == [[0, 85.0], [1, 85.0], [2, 84.5], [3, 84.0]]
    assert drawn["budget"].get_ydata() == pytest.approx([83.0, 83.0])


def test_accuracy_band_is_the_interval() -> None:
    curve = situation("repaired")["curve"]
    band = plots.accuracy_curve(curve).axes[0].collections[0].get_paths()[0].vertices
    at_start = band[band[:, 0] == 0, 1]
    number = curve["points"][0]["accuracy"]
    assert [at_start.min(), at_start.max()] == pytest.approx([100 * number["low"], 100 * number["high"]])


def test_layers_show_shares_and_counts() -> None:
    units = make_evidence(make_repair(pruned=5))["units"]
    figure = plots.scores_by_layer(units)
    bars = [bar.get_width() for bar in figure.axes[1].patches]
    assert bars == [100 * layer["pruned"] / layer["total"] for layer in units["layers"]]
    assert texts(figure) == [f"{layer['pruned']} of 8" for layer in units["layers"]]
    cells = figure.axes[0].collections[0].get_array()
    assert cells.sum() == units["total"]


def test_sixty_layers_do_not_overlap() -> None:
    figure = plots.scores_by_layer(situation("60 layers")["units"])
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == 60
    assert all(upper.y0 >= lower.y1 - 0.5 for upper, lower in pairwise(boxes))


def test_histogram_separates_the_pruned() -> None:
    figure = plots.score_histogram(make_evidence(make_repair(pruned=5))["units"])
    kept, pruned = figure.axes[0].containers
    assert sum(bar.get_height() for bar in kept) == 16
    assert sum(bar.get_height() for bar in pruned) == 5


@pytest.mark.parametrize(("score", "highlighted"), [(0.75, [3]), (0.25, [])])
def test_a_label_that_dominates_is_highlighted(score: float, highlighted: list[int]) -> None:
    repair = make_repair(revealed=exposure(label=3), labels=scored(score=score))
    answers, gains = plots.unlearned_answers(make_evidence(repair)["exposure"]).axes
    assert [bar.get_width() for bar in answers.patches] == [30, 0, 0, 270, 0, 0, 0, 0, 0, 0]
    expected = [100 * score if label == 3 else -100 * score / 9 for label in range(10)]
    assert [bar.get_width() for bar in gains.patches] == pytest.approx(expected)
    assert [line.get_xdata()[0] for line in gains.get_lines() if line.get_label() == "dominant"] == [50]
    for panel in (answers, gains):
        orange = [bar.get_facecolor() == to_rgba(ORANGE) for bar in panel.patches]
        assert [index for index, is_orange in enumerate(orange) if is_orange] == highlighted


def test_of_many_classes_those_that_gain_most_are_shown_and_nothing_is_lost() -> None:
    found = situation("1000 classes")["exposure"]
    rows = plots.shown_answers(found)
    assert len(rows) == plots.MOST_GAINING + 1
    assert rows[0]["label"] == 998
    assert sum(row["answers"] for row in rows) == sum(row["images"] for row in rows) == 300
    assert sum(row["gained"] for row in rows) == pytest.approx(0)


def test_path_shows_every_pass() -> None:
    found = situation("repaired")["exposure"]
    drawn = lines(plots.unlearning_path(found))["accuracy"].get_xydata()
    assert drawn.ravel() == pytest.approx([1, 90.0, 2, 50.0, 3, 17.0])


def test_text_of_others_is_no_mathematics() -> None:
    names = ("$\\frac$", *["$x$ & <b>"] * 9)
    found = make_evidence(make_repair(revealed=exposure()), class_names=names)["exposure"]
    svg = inline(plots.unlearned_answers(found), "a", "a")
    assert "$x$ &amp; &lt;b&gt;" in svg
    assert "$\\frac$" in svg


def test_svg_repeats_byte_for_byte_and_leaves_settings_alone() -> None:
    curve = situation("repaired")["curve"]
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        first = inline(plots.accuracy_curve(curve), "a", "a curve")
    assert inline(plots.accuracy_curve(curve), "a", "a curve") == first
    assert dict(matplotlib.rcParams) == before
    assert 'aria-label="a curve"' in first


def test_identifiers_are_unique_to_the_figure() -> None:
    curve = situation("repaired")["curve"]
    a, b = (inline(plots.accuracy_curve(curve), name, "") for name in "ab")
    assert 'id="a-' in a
    assert "url(#a-" in a
    assert a.replace('id="a-', 'id="b-').replace("url(#a-", "url(#b-").replace('"#a-', '"#b-') == b


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 猫", "plain é 猫"),
        ("a\x00b\nc", "a\ufffdb\ufffdc"),
        ("\u202egpj.exe", "\ufffdgpj.exe"),
        ("\udcff", "\ufffd"),
        ("abcdefghij", "abc…ij"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text, 10 if len(text) < 10 else 6) == shown


def test_the_smallest_trigger_stands_out_only_as_evidence() -> None:
    check = next(check for check in situation("evidence")["checks"] if check["sizes"])
    for evidence, colours in ((True, {BLUE, ORANGE}), (False, {BLUE})):
        axes = plots.trigger_sizes(check["sizes"], evidence=evidence).axes[0]
        bars = axes.containers[0].patches
        assert [bar.get_width() for bar in bars] == pytest.approx(SMALL)
        assert {to_hex(bar.get_facecolor()) for bar in bars} == colours
    unclear = next(check for check in situation("nothing converged")["checks"] if check["sizes"])
    axes = plots.trigger_sizes(unclear["sizes"], evidence=False).axes[0]
    assert {to_hex(bar.get_facecolor()) for bar in axes.containers[0].patches} == {GREY}
    assert all("did not converge" in text.get_text() for text in axes.texts)


def test_each_round_of_learning_is_a_line_to_its_end() -> None:
    drawn = lines(plots.learning_curves(situation("learned")["learning"]))
    assert drawn["round 1"].get_xydata().tolist() == [[1, 0.1], [40, 0.6], [300, 0.8], [400, 0.8]]
    assert drawn["round 2"].get_xydata().tolist() == [[1, 0.7], [60, 0.9], [100, 0.9]]


def test_small_gains_of_learning_are_seen() -> None:
    told = {"rounds": [{"evaluations": 300, "curve": [[1, 0.879], [10, 0.881], [140, 0.8815]]}]}
    low, high = plots.learning_curves(told).axes[0].get_ylim()
    assert low < 0.879 < 0.8815 < high
    assert 0.6 * (high - low) < 0.0025


def test_the_graph_shows_every_unit_and_what_is_joined_with_pruned_ones() -> None:
    evidence = situation("learned")
    figure = plots.unit_graph(evidence["units"], evidence["learning"]["joined"])
    drawn = {artist.get_label(): artist for artist in figure.axes[0].collections}
    assert len(drawn["units"].get_offsets()) == evidence["units"]["total"] == 16
    pruned = {tuple(place) for place in drawn["pruned"].get_offsets().tolist()}
    indices = [
        (k, index) for k, layer in enumerate(evidence["units"]["layers"]) for index in layer["indices"]
    ]
    assert pruned == {(k, (index + 0.5) / 8) for k, index in indices}
    segments = [segment.tolist() for segment in drawn["joined"].get_segments()]
    assert len(segments) == 3
    assert all(pruned & {tuple(end) for end in segment} for segment in segments)


def test_a_large_graph_takes_no_more_room_in_a_page() -> None:
    def room(count: int) -> int:
        layers = [{"name": str(k), "total": count, "indices": [0, 1], "pruned": 2} for k in range(3)]
        units = {"layers": layers, "total": 3 * count, "pruned": 6}
        joined = [[k, i % 2, 2 - k, i] for k in (0, 2) for i in range(count)]
        return len(inline(plots.unit_graph(units, joined), "graph", "Units."))

    assert room(4) < room(1000)
    assert room(20000) < room(1000)
