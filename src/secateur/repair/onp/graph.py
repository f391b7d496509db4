"""The network as a graph of its units, as the policy sees it."""

from collections.abc import Sequence
from pathlib import Path

import networkx
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import to_networkx, to_undirected

from secateur.files import atomic_path
from secateur.repair.onp.features import LARGEST
from secateur.repair.onp.settings import Graphing
from secateur.units import Connections, UnitLayer

DORMANT = 1e-3
"""Of the largest strength in a layer, what is no more than decay has left."""
PAIRS = 1 << 26
"""Pairs of units whose likeness is in memory at once, or those of a single layer."""


def build_graph(
    settings: Graphing, layers: Sequence[UnitLayer], connections: Connections, features: Tensor
) -> Data:
    """Return the graph.

    Returns
    -------
    Data
        ``x``, ``(N, F)``, the features; ``edge_index``, ``(2, E)``, both directions of every edge;
        ``edge_attr``, ``(E, 1)``, the strength of a connection, relative to the largest of the graph, or
        the cosine; ``edge_type``, ``(E,)``, 0 between layers and 1 within one; ``layer`` and ``group``,
        ``(N,)``, the layer of each unit and the group that it is added in.
    """
    inside, cosines = similar(layers, connections, settings.similar, settings.neighbours)
    weights = connections.weights.nan_to_num(0.0, LARGEST).clamp(max=LARGEST)
    if len(weights):
        weights = weights / weights.max().clamp_min(1e-12)
    parts = []
    for kind, (pairs, values) in enumerate(((connections.edges, weights), (inside, cosines))):
        both, attributes = to_undirected(pairs, values, num_nodes=len(features), reduce="max")
        parts.append((both, attributes[:, None], torch.full((both.shape[1],), kind)))
    edges, attributes, kinds = zip(*parts, strict=True)
    return Data(
        x=features,
        edge_index=torch.cat(edges, 1),
        edge_attr=torch.cat(attributes),
        edge_type=torch.cat(kinds),
        layer=torch.tensor(
            [k for k, layer in enumerate(layers) for _ in range(layer.count)], dtype=torch.long
        ),
        group=connections.groups,
    )


def similar(
    layers: Sequence[UnitLayer], connections: Connections, least: float, most: int
) -> tuple[Tensor, Tensor]:
    """Return pairs of units of one layer, ``(2, E)``, and the cosine of their strengths, ``(E,)``.

    Strengths, towards all units before and after, are sums of absolute weights, which all point about the
    same way: what counts is how they differ from their mean over the layer's units. Pairs are units each of
    which is among the `most` that the other is most like, with a cosine above `least`; both orders are given.
    Dormant units, with hardly any strength, have no pair. Memory is that of `PAIRS`, or of the pairs of the
    largest layer if they are more.
    """
    starts = [0, *torch.tensor([layer.count for layer in layers]).cumsum(0).tolist()]
    pairs, cosines = [torch.zeros(2, 0, dtype=torch.long)], [torch.zeros(0)]
    for together in _together([layer.count for layer in layers]):
        for layer, product in _products(connections, starts, together).items():
            squares = product.diagonal()
            active = (squares > DORMANT**2 * squares.max()).nonzero().flatten()
            cosine = centred_cosines(product[active[:, None], active]).fill_diagonal_(-torch.inf)
            nearest = torch.zeros_like(cosine, dtype=torch.bool)
            nearest.scatter_(1, cosine.topk(min(most, len(cosine)), 1).indices, True)
            own, other = (nearest & nearest.T & (cosine > least)).nonzero(as_tuple=True)
            pairs.append(active[torch.stack([own, other])] + starts[layer])
            cosines.append(cosine[own, other])
    return torch.cat(pairs, 1), torch.cat(cosines)


def _together(counts: Sequence[int]) -> list[list[int]]:
    """Return layers, in their order, in parts that have no more than `PAIRS` pairs of units."""
    parts, room = list[list[int]](), 0
    for layer, count in enumerate(counts):
        if count**2 > room:
            parts.append([])
            room = PAIRS
        parts[-1].append(layer)
        room -= count**2
    return parts


def _products(connections: Connections, starts: Sequence[int], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the inner products of the strengths of each two units of some layers."""
    counts = torch.tensor(starts).diff()
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    products = {layer: torch.zeros(int(counts[layer]), int(counts[layer])) for layer in layers}
    for block in connections.wiring.blocks(rows=int(counts.max())):
        own, sources = int(owner[block.targets[0]]), owner[block.sources]
        if own in products:
            products[own] += block.strengths @ block.strengths.T
        for layer in set(sources.tolist()) & set(layers):
            mine = sources == layer
            places = block.sources[mine] - starts[layer]
            part = block.strengths[:, mine]
            products[layer][places[:, None], places] += part.T @ part
    return products


def centred_cosines(products: Tensor) -> Tensor:
    """Return the cosines of vectors less their mean, ``(n, n)``, from their inner products; 0 at the mean."""
    means = products.mean(0)
    centred = products - means - means[:, None] + means.mean() if len(products) else products
    norms = centred.diagonal().clamp_min(0).sqrt()
    # Of equal vectors rounding leaves a little.
    floor = 1e-3 * products.diagonal().sqrt()
    norms = torch.where(norms > floor, norms, torch.inf)
    return centred / norms / norms[:, None]


def write_graph(graph: Data, names: Sequence[str], layers: Sequence[UnitLayer], path: Path) -> None:
    """Write the graph as GraphML, for other tools.

    Parameters
    ----------
    graph
        As `build_graph` returns it.
    names
        Of the features.
    layers
        Layers with units, for the names of nodes.
    path
        Replaced if it exists.
    """
    told = to_networkx(graph, edge_attrs=["edge_attr", "edge_type"], to_undirected=True)
    units = [f"{layer.name}.{index}" for layer in layers for index in range(layer.count)]
    for node, unit in enumerate(units):
        told.nodes[node].update(unit=unit, layer=int(graph.layer[node]), group=int(graph.group[node]))
        told.nodes[node].update(
            {name: float(value) for name, value in zip(names, graph.x[node], strict=True)}
        )
    for _, _, attributes in told.edges(data=True):
        attributes["weight"] = float(attributes.pop("edge_attr")[0])
        attributes["kind"] = "within" if attributes.pop("edge_type") else "between"
    with atomic_path(path) as temporary:
        networkx.write_graphml(told, temporary)
