"""The policy: its first choices, masks, and weights that belong to no node."""

import pytest
import torch
from gymnasium import spaces
from torch_geometric.data import Data

from secateur.repair.onp.policy import Encoder, GraphPolicy, Heads, shares
from secateur.repair.onp.settings import ConvolutionName

NAMES: tuple[ConvolutionName, ...] = ("gcn", "sage", "gat", "none")


def graph(nodes: int = 6, actions: int = 4) -> Data:
    generator = torch.Generator().manual_seed(nodes)
    action = torch.full((nodes,), -1)
    action[:actions] = torch.arange(actions)
    edges = torch.stack([torch.arange(nodes), torch.arange(nodes).roll(1)])
    return Data(
        x=torch.randn(nodes, 5, generator=generator),
        edge_index=torch.cat([edges, edges.flip(0)], 1),
        edge_attr=torch.cat([torch.ones(nodes, 1), torch.full((nodes, 1), 0.5)]),
        edge_type=torch.zeros(2 * nodes, dtype=torch.long),
        action=action,
    )


def space(actions: int) -> spaces.Dict:
    return spaces.Dict(
        {
            "pruned": spaces.Box(0, 1, (actions,)),
            "seen": spaces.Box(-1, 1, (actions, 6)),
            "progress": spaces.Box(-1, 1, (3,)),
        }
    )


def policy(known: Data, convolution: ConvolutionName = "sage", trust: float = 200.0) -> GraphPolicy:
    torch.manual_seed(0)
    settings = {"hidden": 8, "layers": 2, "convolution": convolution, "trust": trust}
    actions = int(known.action.max()) + 1
    return GraphPolicy(
        space(actions),
        spaces.Discrete(actions),
        lambda _: 1e-3,
        features_extractor_class=Heads,
        features_extractor_kwargs={"graph": known, **settings},
    )


def state(pruned: list[float], seen: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    return {
        "pruned": torch.tensor([pruned]),
        "seen": torch.zeros(1, len(pruned), 6) if seen is None else seen,
        "progress": torch.tensor([[0.5, 0.2, 0.0]]),
    }


@pytest.mark.parametrize("trust", [200.0, 3.0, 0.0])
@pytest.mark.parametrize("name", NAMES)
def test_before_learning_what_is_known_best_decides(name: ConvolutionName, trust: float) -> None:
    seen = torch.zeros(1, 4, 6)
    # Nothing, gradients alone, an effect that says otherwise, and a state that says still otherwise.
    seen[0, 1:, 4:] = torch.tensor([0.1, 0.05])
    seen[0, 2:, 2:4] = torch.tensor([0.1, 0.3])
    seen[0, 3, :2] = torch.tensor([1.0, 0.15])
    made = policy(graph(), name, trust)
    probabilities = made.get_distribution(state([0, 0, 1, 1], seen)).distribution.probs[0]
    assert torch.allclose(probabilities, (trust * torch.tensor([0.0, 0.05, -0.2, 0.15])).softmax(0))


def test_what_is_masked_is_never_chosen() -> None:
    made = policy(graph())
    allowed = torch.tensor([[True, False, True, False]]).numpy()
    chosen = made.get_distribution(state([0, 0, 0, 0]), allowed)
    assert torch.allclose(chosen.distribution.probs[0, [1, 3]], torch.zeros(2))
    assert {int(chosen.get_actions()) for _ in range(50)} == {0, 2}


@pytest.mark.parametrize("name", NAMES)
def test_weights_fit_another_network(name: ConvolutionName) -> None:
    small, large = policy(graph(), name), policy(graph(9, 7), name)
    large.load_state_dict(small.state_dict())
    assert large(state([0.0] * 7))[1].shape == (1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_have_no_order(name: ConvolutionName) -> None:
    torch.manual_seed(0)
    encoder, known = Encoder(5, 8, 2, name).eval(), graph()
    order = torch.randperm(6)
    place = order.argsort()
    told = encoder(known.x, known.edge_index, shares(known))
    moved = encoder(known.x[order], place[known.edge_index], shares(known))
    assert torch.allclose(moved, told[order], atol=1e-5)


def test_messages_come_from_neighbours_alone() -> None:
    known = graph()
    changed = known.x.clone()
    changed[3] += 1.0
    for name in NAMES:
        torch.manual_seed(0)
        encoder = Encoder(5, 8, 1, name).eval()
        first, second = (encoder(x, known.edge_index, shares(known)) for x in (known.x, changed))
        moved = (second - first).abs().sum(1) > 1e-6
        assert moved.tolist() == [node in ({3} if name == "none" else {2, 3, 4}) for node in range(6)]


def test_an_edge_weighs_its_part_of_its_kind() -> None:
    known = Data(
        x=torch.zeros(4, 1),
        # Two connections and a likeness to node 0, and a connection to node 1.
        edge_index=torch.tensor([[1, 2, 3, 0], [0, 0, 0, 1]]),
        edge_attr=torch.tensor([[0.1], [0.3], [0.8], [0.0]]),
        edge_type=torch.tensor([0, 0, 1, 0]),
    )
    assert shares(known).tolist() == pytest.approx([0.25, 0.75, 1.0, 0.0])


@pytest.mark.parametrize("name", ["gcn", "sage", "gat"])
def test_the_strength_of_a_connection_is_heard(name: ConvolutionName) -> None:
    torch.manual_seed(0)
    encoder, known = Encoder(5, 8, 1, name).eval(), graph()
    weak = shares(known)
    strong = torch.where(known.edge_index[0] == 3, 10 * weak, weak)
    first, second = (encoder(known.x, known.edge_index, weights) for weights in (weak, strong))
    assert ((second - first).abs().sum(1) > 1e-6)[[2, 4]].all()


def test_the_logits_of_actions_of_several_nodes_by_hand() -> None:
    """Their heads are told the mean embedding of their nodes and what reaches them from pruned actions."""
    known = graph(5, 0)
    known.action = torch.tensor([0, 0, 1, 2, -1])
    made = policy(known, trust=0.0).features_extractor
    for head in (made.action, made.value):
        torch.nn.init.normal_(head[-1].weight)
    shown = state([1.0, 1.0, 0.0])
    nodes = made.encoder(known.x, known.edge_index, shares(known))
    each = torch.stack([nodes[:2].mean(0), nodes[2], nodes[3]])
    context = torch.cat([nodes.mean(0), each[0] + each[1], shown["progress"][0]])
    sums = torch.zeros(5).index_add_(0, known.edge_index[1], known.edge_attr[:, 0])
    heard = torch.zeros(3, 3)
    for (source, target), strength in zip(known.edge_index.T.tolist(), known.edge_attr[:, 0], strict=True):
        one, other = int(known.action[source]), int(known.action[target])
        if min(one, other) >= 0:
            heard[one, other] += strength / sums[target]
    near = (heard[0] + heard[1]) / heard.sum(0).clamp_min(1)
    pruned, seen = shown["pruned"][0], torch.zeros(6)
    expected = [
        made.action(torch.cat([each[k], pruned[k : k + 1], near[k : k + 1], seen, context])) for k in range(3)
    ]
    told = made(shown)[0]
    assert not torch.allclose(near, (heard[:, 0] + heard[:, 1]) / heard.sum(0).clamp_min(1))
    assert torch.allclose(told[:3], torch.cat(expected), atol=1e-5)
    assert torch.allclose(told[3:], made.value(context), atol=1e-5)


def test_sage_takes_weighted_means() -> None:
    """A node hears the mean of its neighbours, by the strength of the connection, for each kind of edge."""
    torch.manual_seed(0)
    encoder, known = Encoder(5, 8, 1, "sage").eval(), graph()
    layer, nodes = encoder.heard[0], torch.randn(6, 8)
    # Node 1 is joined with node 2 by 1 and with node 0 by 0.5.
    heard = layer(nodes, known.edge_index, shares(known))[1]
    mean = (nodes[2] + 0.5 * nodes[0]) / 1.5
    expected = layer.lin_rel(mean) + layer.lin_root(nodes[1])
    assert torch.allclose(heard, expected, atol=1e-5)
