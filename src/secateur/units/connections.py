"""The graph of a network's units: which unit feeds which other one, how strongly, and which are added."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.units.layers import Discovery
from secateur.units.listening import listen
from secateur.units.sites import Block, Wiring


@dataclass(frozen=True, eq=False)
class Connections:
    """How the units of a network are connected, in the order of `Masks.flat`.

    Parameters
    ----------
    groups
        Number of each unit's group, shape ``(total,)``, int64, counted from 0 in the order of the units.
        Units whose channels are added to each other share one, also through further additions; a
        concatenation keeps channels apart. Every other unit is a group of its own.
    edges
        Source and target units, shape ``(2, E)``, int64, sorted; they belong to different layers.
    weights
        The strength of each edge, shape ``(E,)``, float32, above 0: see `Wiring.blocks`.
    inputs, outputs
        Sum of all strengths between a unit and those before and after it, kept as edges or not, shape
        ``(total,)``, float32, at least 0.
    wiring
        Gives all strengths, block by block: what is needed to compare the units of a layer.
    unknown
        Names of the operations of which it is not known what of their result comes from which unit, in the
        order of the forward pass: connections through them are missing.
    """

    groups: Tensor
    edges: Tensor
    weights: Tensor
    inputs: Tensor
    outputs: Tensor
    wiring: Wiring
    unknown: tuple[str, ...]


@torch.no_grad()
def connect(
    network: nn.Module, discovery: Discovery, example: Tensor, *, strongest: int | None = 16
) -> Connections:
    """Find out how the units of any network feed each other, from one forward pass.

    The pass runs in evaluation mode. Every number of it is followed from the units that it comes from to the
    weights that take it, through whatever moves, joins, pools or scales channels, in any Python code. Batch
    normalisations, activations and gates do not change a strength; layer and group normalisations count as
    acting on each channel alone.

    Parameters
    ----------
    network
        The network that the units were discovered in; it is unchanged afterwards.
    discovery
        Its units.
    example
        A floating-point batch that the network accepts, for example ``(1, C, H, W)``; it is not changed.
    strongest
        How many incoming edges of each unit and how many outgoing ones are kept at least, the strongest
        ones, at least 1: there are at most ``2 * strongest * total`` edges. None keeps all.

    Returns
    -------
    Connections
        On the CPU.

    Raises
    ------
    ValueError
        `strongest` is less than 1, `example` is not floating-point, or a layer does not belong to the
        network. Whatever the network raises on `example` passes through.
    """
    if strongest is not None and strongest < 1:
        raise ValueError(f"at least 1 edge of each unit is kept, not {strongest}")
    if not example.is_floating_point():
        raise ValueError(f"the example must be a floating-point batch, not {example.dtype}")
    heard = listen(network, discovery.layers, example)
    wiring = heard.wiring
    inputs, outputs = torch.zeros(wiring.total), torch.zeros(wiring.total)
    edges = _Edges(wiring.total, strongest)
    for block in wiring.blocks():
        inputs[block.targets] = block.strengths.sum(1)
        outputs.index_add_(0, block.sources, block.strengths.sum(0))
        edges.add(block)
    pairs, weights = edges.kept()
    groups = torch.tensor(heard.groups, dtype=torch.int64)
    return Connections(groups, pairs, weights, inputs, outputs, wiring, heard.unknown)


class _Edges:
    """The strongest edges of every unit among the blocks that were added."""

    def __init__(self, total: int, strongest: int | None) -> None:
        self._total, self._strongest = total, strongest
        self._incoming: list[tuple[Tensor, Tensor]] = []
        best = 0 if strongest is None else strongest
        self._values, self._targets = torch.zeros(total, best), torch.zeros(total, best, dtype=torch.int64)

    def add(self, block: Block) -> None:
        keys = block.sources * self._total + block.targets[:, None]
        if self._strongest is None:
            self._keep(keys, block.strengths)
            return
        values, chosen = block.strengths.topk(min(self._strongest, len(block.sources)), 1)
        self._keep(keys.gather(1, chosen), values)
        # A target has all its incoming edges in one block, but a source has outgoing ones in many.
        values = torch.cat([self._values[block.sources], block.strengths.T], 1)
        targets = torch.cat([self._targets[block.sources], block.targets.expand(len(block.sources), -1)], 1)
        self._values[block.sources], chosen = values.topk(self._strongest, 1)
        self._targets[block.sources] = targets.gather(1, chosen)

    def kept(self) -> tuple[Tensor, Tensor]:
        """Return all edges ``(2, E)``, sorted, each once, and their strengths ``(E,)``."""
        self._keep(torch.arange(self._total)[:, None] * self._total + self._targets, self._values)
        keys, values = (torch.cat(parts) for parts in zip(*self._incoming, strict=True))
        keys, places = torch.unique(keys, return_inverse=True)
        weights = torch.empty(len(keys)).scatter_(0, places, values)
        return torch.stack([keys // self._total, keys % self._total]), weights

    def _keep(self, keys: Tensor, values: Tensor) -> None:
        strong = values > 0
        self._incoming.append((keys[strong], values[strong]))
