"""Actor and critic over the graph: one embedding of every node, shared by all states of a network.

The graph does not change while a policy searches it, only what is pruned does. So the message passing over
all nodes is done once for a batch of states, and what is pruned enters afterwards: as a flag of each action,
as how much of what reaches it from other actions is pruned, and as the sum of the embeddings of all that are.
No weight depends on the number of nodes: a policy that was learned on one network can begin on another.
"""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GATv2Conv, GCNConv, GraphConv
from torch_geometric.utils import scatter

from secateur.repair.onp.settings import ConvolutionName

CONVOLUTIONS: Mapping[ConvolutionName, Callable[[int], nn.Module] | None] = {
    "gcn": lambda hidden: GCNConv(hidden, hidden),
    # The weights of edges to a node sum to 1 for each kind, so that this is GraphSAGE with weighted means.
    "sage": lambda hidden: GraphConv(hidden, hidden, aggr="add"),
    "gat": lambda hidden: GATv2Conv(hidden, hidden, edge_dim=1),
    # The same features and heads without messages between nodes.
    "none": None,
}


class Encoder(nn.Module):
    """Embed nodes from their features and those of their neighbours.

    Parameters
    ----------
    features
        Of each node.
    hidden
        Size of an embedding.
    layers
        Of message passing: from how far away a node hears.
    convolution
        How messages are passed.
    """

    def __init__(self, features: int, hidden: int, layers: int, convolution: ConvolutionName) -> None:
        super().__init__()
        passing = CONVOLUTIONS[convolution]
        self.first = nn.Linear(features, hidden)
        self.own = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.heard = nn.ModuleList([passing(hidden) for _ in range(layers)] if passing else [])
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))

    def forward(self, features: Tensor, edges: Tensor, weights: Tensor) -> Tensor:
        """Return embeddings, ``(N, hidden)``.

        Parameters
        ----------
        features
            Of the nodes, ``(N, F)``.
        edges, weights
            From and to which node, ``(2, E)``, and how much a message weighs, ``(E,)``.
        """
        nodes: Tensor = self.first(features).relu()
        for place, (own, norm) in enumerate(zip(self.own, self.norms, strict=True)):
            told = own(nodes)
            if self.heard:
                told = told + self.heard[place](nodes, edges, weights)
            nodes = nodes + norm(told).relu()
        return nodes


class Heads(BaseFeaturesExtractor):
    """Logits of all actions and the value of a state, ``(B, actions + 1)``.

    Parameters
    ----------
    space
        Of the environment's observations.
    graph
        As `build_graph` returns it, with ``action``, ``(N,)``, the action that each node belongs to, or -1.
    hidden, layers, convolution
        See `Encoder`.
    trust
        Of what proposals promise, see `Agent`.
    """

    features: Tensor
    edges: Tensor
    weights: Tensor
    belongs: Tensor
    actions: Tensor
    near: Tensor

    def __init__(
        self,
        space: spaces.Dict,
        graph: Data,
        *,
        hidden: int,
        layers: int,
        convolution: ConvolutionName,
        trust: float,
    ) -> None:
        progress = cast(tuple[int], space["progress"].shape)[0]
        count, seen = cast(tuple[int, int], space["seen"].shape)
        super().__init__(space, count + 1)
        self._trust = trust
        self.encoder = Encoder(graph.x.shape[1], hidden, layers, convolution)
        context = 2 * hidden + progress
        self.action = _head(hidden + 2 + seen + context, hidden)
        self.value = _head(context, hidden)
        for head in (self.action, self.value):
            # Before anything is learned, what is known and promised decides.
            nn.init.zeros_(cast(nn.Linear, head[-1]).weight)
            nn.init.zeros_(cast(nn.Linear, head[-1]).bias)
        belongs = (graph.action >= 0).nonzero().flatten()
        weights = shares(graph)
        pairs = graph.action[graph.edge_index]
        both = (pairs >= 0).all(0)
        near = torch.zeros(count, count).index_put_(tuple(pairs[:, both]), weights[both], accumulate=True)
        for name, value in {
            "features": graph.x,
            "edges": graph.edge_index,
            "weights": weights,
            "belongs": belongs,
            "actions": graph.action[belongs],
            "near": near / near.sum(0).clamp_min(1),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return logits and values for a batch of states."""
        pruned, seen, progress = (observations[name] for name in ("pruned", "seen", "progress"))
        nodes = self.encoder(self.features, self.edges, self.weights)
        actions = scatter(nodes[self.belongs], self.actions, dim_size=pruned.shape[1], reduce="mean")
        context = torch.cat([nodes.mean(0).expand(len(pruned), -1), pruned @ actions, progress], 1)
        each = [
            actions.expand(len(pruned), -1, -1),
            torch.stack([pruned, pruned @ self.near], 2),
            seen,
            context[:, None].expand(-1, pruned.shape[1], -1),
        ]
        logits = self.action(torch.cat(each, 2)).squeeze(2) + self._trust * promised(seen)
        return torch.cat([logits, self.value(context)], 1)


def shares(graph: Data) -> Tensor:
    """Return what each edge weighs, ``(E,)``: its part of all edges of its kind to the same node."""
    strengths = graph.edge_attr[:, 0]
    which = 2 * graph.edge_index[1] + graph.edge_type
    sums = scatter(strengths, which, dim_size=2 * len(graph.x), reduce="sum")[which]
    parts: Tensor = strengths / sums.clamp_min(1e-12)
    return parts


def promised(seen: Tensor) -> Tensor:
    """Return what each proposal promises, ``(B, actions)`` in ``[-1, 1]``: the best knowledge of it.

    What it leads to if that was measured, what it changed when it was last proposed, or what is expected.
    """
    known, gain, taken, cost, expected, expected_cost = seen.unbind(2)
    tried = (taken != 0) | (cost != 0)
    guess = torch.where(tried, taken - cost, expected - expected_cost).clamp(-1, 1)
    return torch.where(known > 0, gain, guess)


class GraphPolicy(MaskableActorCriticPolicy):
    """A policy whose features are already logits and value; see `Heads`."""

    def _build(self, lr_schedule: Schedule) -> None:
        # The library's types name the modules that it would build itself.
        self.mlp_extractor = _Split()  # type: ignore[assignment]
        self.action_net = self.value_net = nn.Identity()  # type: ignore[assignment]
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )


class _Split(nn.Module):
    """Tell logits and value apart."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return features[:, :-1]

    def forward_critic(self, features: Tensor) -> Tensor:
        return features[:, -1:]


def _head(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))
