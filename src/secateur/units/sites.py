"""Where weights take channels in a forward pass, and the strengths between units that follow from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Feed:
    """What a site takes from one node.

    Parameters
    ----------
    node
        The node, at least 0.
    rows, columns
        Row ``rows[i]`` of the node is part of column ``columns[i]`` of the site, both of shape ``(n,)``.
    """

    node: int
    rows: Tensor
    columns: Tensor


@dataclass(frozen=True, eq=False)
class Site:
    """One application of weights, from columns (what it takes) to rows (what it gives).

    Parameters
    ----------
    node
        The node that its rows belong to.
    strengths
        L1 norm of each row's weights towards each column, shape ``(groups, rows, columns)``, where a row
        takes only the columns of its own group; None where row ``i`` takes column ``i`` without weights.
    feeds
        Where the columns come from: earlier nodes, or units.
    """

    node: int
    strengths: Tensor | None
    feeds: tuple[Feed, ...]

    def columns(self, rows: Tensor) -> Tensor:
        """Carry ``(batch, groups * rows)`` strengths of the rows on to the columns."""
        if self.strengths is None:
            return rows
        groups, height, width = self.strengths.shape
        if groups == 1:
            used = rows.any(0).nonzero().flatten()
            return rows[:, used] @ self.strengths[0, used]
        divided = rows.view(-1, groups, height).transpose(0, 1)
        return (divided @ self.strengths).transpose(0, 1).reshape(-1, groups * width)


@dataclass(frozen=True, eq=False)
class Block:
    """The strengths between some units of one layer and all units that feed them.

    Parameters
    ----------
    targets
        Units that are fed, all of one layer, shape ``(T,)``, int64.
    sources
        Units of other layers, shape ``(S,)``, int64; none of the others feeds a target.
    strengths
        Shape ``(T, S)``, at least 0; 0 where a source does not feed a target.
    """

    targets: Tensor
    sources: Tensor
    strengths: Tensor


@dataclass(frozen=True, eq=False)
class Wiring:
    """How the units of a network feed each other: its weights as L1 norms, and what joins them.

    Nodes are first the layers with units, then every other application of weights, in the order of the
    forward pass. Its memory is that of the network's weights, with every kernel as one number.

    Parameters
    ----------
    layers
        Number of layers with units.
    starts
        Position of each node's first row among the rows of all nodes, and their number at the end. The rows
        of the layers are the units, in the order of `Masks.flat`.
    sites
        Every application of weights, in the order of the forward pass.
    """

    layers: int
    starts: tuple[int, ...]
    sites: tuple[Site, ...]

    @property
    def total(self) -> int:
        """Number of units."""
        return self.starts[self.layers]

    def blocks(self, rows: int = 512) -> Iterator[Block]:
        r"""Yield all strengths, each once, for at most `rows` targets of a layer at a time.

        The strength from unit :math:`s` to unit :math:`t` is :math:`\sum_p \prod_{W \in p} |W|`, over the
        paths from one to the other that meet no other unit: a path's strength is the product of the L1
        norms (over kernel positions) on it, and 1 without weights between the units.
        """
        sites: dict[int, list[Site]] = {node: [] for node in range(len(self.starts))}
        for site in self.sites:
            sites[site.node].append(site)
        for layer in range(self.layers):
            end = self.starts[layer + 1]
            for begin in range(self.starts[layer], end, rows):
                yield self._block(layer, torch.arange(begin, min(begin + rows, end)), sites)

    def _block(self, layer: int, targets: Tensor, sites: Mapping[int, list[Site]]) -> Block:
        units = torch.arange(self.starts[layer], self.starts[layer + 1])
        chosen = (targets[:, None] == units).float()
        reached: dict[int, Tensor] = {}
        for site in sites[layer]:
            self._follow(site, chosen, reached)
        # A node is fed by nodes before it only: none comes back after it has been followed.
        while reached and (node := max(reached)) >= self.layers:
            strengths = reached.pop(node)
            for site in sites[node]:
                self._follow(site, strengths, reached)
        reached.pop(layer, None)
        sources = [torch.arange(self.starts[node], self.starts[node + 1]) for node in sorted(reached)]
        return Block(
            targets,
            torch.cat([torch.arange(0), *sources]),
            torch.cat([chosen[:, :0], *(reached[node] for node in sorted(reached))], 1),
        )

    def _follow(self, site: Site, rows: Tensor, reached: dict[int, Tensor]) -> None:
        """Add what goes through a site to the nodes that feed it."""
        columns = site.columns(rows)
        for feed in site.feeds:
            size = self.starts[feed.node + 1] - self.starts[feed.node]
            if feed.node not in reached:
                reached[feed.node] = rows.new_zeros(len(rows), size)
            reached[feed.node].index_add_(1, feed.rows, columns[:, feed.columns])
