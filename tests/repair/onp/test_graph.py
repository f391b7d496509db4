"""The graph of a hand-made network is the one computed by hand."""

from pathlib import Path

import networkx
import pytest
import torch
from torch import nn

from secateur.errors import MethodError
from secateur.repair.onp import graph as onp_graph
from secateur.repair.onp.graph import build_graph, similar, write_graph
from secateur.repair.onp.settings import Graphing
from secateur.units import Connections, Discovery, connect, discover


class Chain(nn.Module):
    """Four hidden units, two more, and two classes; the last of the four is dormant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
        self.last = nn.Linear(2, 2)
        with torch.no_grad():
            self.second.weight.copy_(torch.tensor([[3.0, -5.0, 1.0, 0.0], [0.0, 1.0, -5.0, 0.0]]))
            self.last.weight.copy_(torch.eye(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(images.flatten(1)).relu()).relu())


def chain() -> tuple[Discovery, Connections]:
    network, example = Chain().eval(), torch.rand(1, 1, 2, 2)
    discovery = discover(network, example)
    return discovery, connect(network, discovery, example)


def test_units_are_joined_by_strength_and_likeness() -> None:
    discovery, connections = chain()
    names = torch.arange(6.0)[:, None]
    graph = build_graph(Graphing(similar=0.4), discovery.layers, connections, names)
    edges = {
        (int(a), int(b)): (round(float(value), 3), int(kind))
        for (a, b), value, kind in zip(
            graph.edge_index.T, graph.edge_attr[:, 0], graph.edge_type, strict=True
        )
    }
    # Strengths 3, 5 and 1, relative to the largest. Towards the next layer those that are not dormant have
    # (3, 0), (5, 1) and (1, 5), their mean is (3, 2): (0, -2), (2, -1) and (-2, 3) are left. Of the first two
    # the cosine is 1 / sqrt(5); the third points the other way, as one of two does always.
    expected = {
        (0, 4): (0.6, 0),
        (1, 4): (1.0, 0),
        (1, 5): (0.2, 0),
        (2, 4): (0.2, 0),
        (2, 5): (1.0, 0),
        (0, 1): (round(1 / 5**0.5, 3), 1),
    }
    assert edges == expected | {(b, a): value for (a, b), value in expected.items()}
    assert graph.layer.tolist() == [0, 0, 0, 0, 1, 1]
    assert graph.group.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(graph.x, names)


def test_the_threshold_is_on_the_cosine_and_the_dormant_stay_alone() -> None:
    discovery, connections = chain()
    pairs, cosines = similar(discovery.layers, connections, 0.4, 4)
    assert pairs.T.tolist() == [[0, 1], [1, 0]]
    assert cosines.tolist() == pytest.approx([1 / 5**0.5] * 2)
    assert not similar(discovery.layers, connections, 0.5, 4)[0].numel()
    pairs, _ = similar(discovery.layers, connections, -1.1, 4)
    assert set(pairs.flatten().tolist()) == {0, 1, 2, 4, 5}


def test_units_that_hardly_connect_are_dormant_as_well() -> None:
    network, example = Chain(), torch.rand(1, 1, 2, 2)
    with torch.no_grad():
        # Without the rule these two would be alike: both differ from the mean by about the mean.
        network.second.weight[:, 2:] = torch.tensor([[1e-4, 2e-4], [1e-5, 0.0]])
    discovery = discover(network.eval(), example)
    pairs, _ = similar(discovery.layers, connect(network, discovery, example), -1.1, 4)
    assert set(pairs.flatten().tolist()) == {0, 1, 4, 5}


def test_strengths_beyond_all_numbers_leave_the_graph_finite() -> None:
    discovery, connections = chain()
    connections.weights[0], connections.weights[1] = torch.inf, torch.nan
    graph = build_graph(Graphing(), discovery.layers, connections, torch.zeros(6, 1))
    assert graph.edge_attr.isfinite().all()
    assert graph.edge_attr.max() == 1


def test_pairs_are_each_among_those_that_the_other_is_most_like() -> None:
    discovery, connections = chain()
    # The third is most like the first (-6 / sqrt(52) against -7 / sqrt(65)), which is most like the second.
    assert similar(discovery.layers, connections, -1.1, 1)[0].T.tolist() == [[0, 1], [1, 0], [4, 5], [5, 4]]


def test_units_with_the_same_strengths_are_like_no_other() -> None:
    network = Chain()
    torch.nn.init.ones_(network.second.weight)
    discovery = discover(network.eval(), torch.rand(1, 1, 2, 2))
    pairs, _ = similar(discovery.layers, connect(network, discovery, torch.rand(1, 1, 2, 2)), 0.0, 4)
    assert not pairs.numel()


def test_pairs_are_the_same_however_many_layers_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery, connections = chain()
    together = similar(discovery.layers, connections, -1.1, 4)
    parts = [len(onp_graph._together([4, 2, 3, 9, 1]))]
    for pairs in (4, 13):
        monkeypatch.setattr(onp_graph, "PAIRS", pairs)
        assert all(map(torch.equal, similar(discovery.layers, connections, -1.1, 4), together))
        parts.append(len(onp_graph._together([4, 2, 3, 9, 1])))
    assert parts == [1, 5, 4]


def test_each_unit_has_few_neighbours() -> None:
    network, example = (
        nn.Sequential(
            nn.Flatten(), nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 9), nn.ReLU(), nn.Linear(9, 3)
        ),
        torch.rand(1, 1, 2, 2),
    )
    discovery = discover(network.eval(), example)
    graph = build_graph(
        Graphing(similar=0.0, neighbours=3),
        discovery.layers,
        connect(network, discovery, example),
        torch.zeros(49, 1),
    )
    within = graph.edge_index[:, graph.edge_type == 1]
    assert 0 < torch.bincount(within[0]).max() <= 3
    assert torch.equal(torch.bincount(within[0]), torch.bincount(within[1]))


def test_a_network_without_units_has_an_empty_graph(tmp_path: Path) -> None:
    network, example = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(1, 1, 2, 2)
    discovery = discover(network.eval(), example)
    connections = connect(network, discovery, example)
    graph = build_graph(Graphing(), discovery.layers, connections, torch.zeros(0, 1))
    assert (graph.num_nodes, graph.num_edges) == (0, 0)
    write_graph(graph, ["number"], discovery.layers, tmp_path / "graph.graphml")
    assert not networkx.read_graphml(tmp_path / "graph.graphml")


def test_it_is_written_for_other_tools(tmp_path: Path) -> None:
    discovery, connections = chain()
    graph = build_graph(Graphing(similar=0.4), discovery.layers, connections, torch.arange(6.0)[:, None])
    write_graph(graph, ["number"], discovery.layers, tmp_path / "graph.graphml")
    told = networkx.read_graphml(tmp_path / "graph.graphml")
    assert [told.nodes[node]["unit"] for node in told] == [
        "first.0",
        "first.1",
        "first.2",
        "first.3",
        "second.0",
        "second.1",
    ]
    assert [told.nodes[node]["number"] for node in told] == [0, 1, 2, 3, 4, 5]
    assert told.edges["1", "4"] == {"weight": 1.0, "kind": "between"}
    assert told.number_of_edges() == 6


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"strongest": 0}, {"neighbours": 0}, {"similar": 1.5}, {"similar": -0.1}):
        with pytest.raises(MethodError, match="graph"):
            Graphing(**wrong)
