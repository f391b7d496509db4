"""Connections are those computed by hand, on the smallest network for each way in which information flows."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.densenet import _DenseBlock
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import SqueezeExcitation

from connected import connected, conv, l1, matrix, named_groups, same
from secateur.units import (
    Discovery,
    Slices,
    UnitLayer,
    connect,
    discover,
    origins,
    state_sha256,
)


def test_two_layers_by_hand() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.5, -1.0]]))
    connections, _ = connected(network, 2)
    assert connections.edges.tolist() == [[0, 0, 1, 1, 2], [3, 4, 3, 4, 4]]
    assert connections.weights.tolist() == [1, 3, 2, 0.5, 1]
    assert connections.inputs.tolist() == [0, 0, 0, 3, 4.5]
    assert connections.outputs.tolist() == [4, 2.5, 1, 0, 0]
    assert connections.groups.tolist() == [0, 1, 2, 3, 4]
    assert connections.unknown == ()
    strongest, _ = connected(network, 2, strongest=1)
    assert strongest.edges.tolist() == [[0, 1, 2], [4, 3, 4]]
    assert strongest.weights.tolist() == [3, 2, 1]
    assert strongest.inputs.tolist() == connections.inputs.tolist()


def test_kernel_positions_and_flattened_pixels_add_up() -> None:
    network = nn.Sequential(
        *(
            conv(3, 4),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            conv(4, 6),
            nn.BatchNorm2d(6),
        ),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 2)),
    )
    connections, units = connected(network)
    same(matrix(connections, units["1"], units["5"]), l1(network[4]))
    same(matrix(connections, units["5"], units["9"]), l1(network[9]).view(5, 6, 4).sum(2))
    assert connections.edges.shape == (2, 4 * 6 + 6 * 5)


def test_concatenation_keeps_channels_apart() -> None:
    block = _DenseBlock(2, 4, 1, 3, 0.0)
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), block, nn.BatchNorm2d(10), conv(10, 2))
    connections, units = connected(network)
    assert connections.groups.tolist() == list(range(len(connections.groups)))
    first, second = (f"2.denselayer{number}." for number in (1, 2))
    for layer, name in zip(block.values(), (first, second), strict=True):
        same(matrix(connections, units[name + "norm1"], units[name + "norm2"]), l1(layer.conv1))
    # What a layer computes comes after the channels that it has taken, which stay as they are.
    for name, width in ((first + "norm1", 4), (second + "norm1", 7), ("3", 10)):
        same(matrix(connections, units["1"], units[name]), torch.eye(width, 4))
    for source, target, begin in ((first, second + "norm1", 4), (first, "3", 4), (second, "3", 7)):
        layer = block[source.removeprefix("2.").removesuffix(".")]
        expected = torch.zeros(len(units[target]), 3)
        expected[begin : begin + 3] = l1(layer.conv2)
        same(matrix(connections, units[source + "norm2"], units[target]), expected)
    assert not matrix(connections, units[first + "norm1"], units["3"]).any()


def test_a_depthwise_convolution_couples_a_channel_with_its_predecessor_only() -> None:
    block = InvertedResidual(4, 4, 1, 2)
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), block, nn.Flatten(), nn.Linear(256, 2))
    connections, units = connected(network)
    expand, depthwise, project = "2.conv.0.1", "2.conv.1.1", "2.conv.3"
    same(matrix(connections, units["1"], units[expand]), l1(block.conv[0][0]))
    same(matrix(connections, units[expand], units[depthwise]), l1(block.conv[1][0]).flatten().diag())
    same(matrix(connections, units[depthwise], units[project]), l1(block.conv[2]))
    assert named_groups(connections, units) == {
        frozenset({("1", channel), (project, channel)}) for channel in range(4)
    }


def test_grouped_and_transposed_convolutions() -> None:
    network = nn.Sequential(
        *(conv(3, 4), nn.BatchNorm2d(4), conv(4, 6, groups=2), nn.BatchNorm2d(6)),
        *(nn.ConvTranspose2d(6, 4, 3, groups=2), conv(4, 2), nn.BatchNorm2d(2)),
    )
    connections, units = connected(network)
    own = l1(network[2])
    expected = torch.zeros(6, 4)
    expected[:3, :2], expected[3:, 2:] = own[:3], own[3:]
    same(matrix(connections, units["1"], units["3"]), expected)
    back, hidden = l1(network[4]), torch.zeros(4, 6)
    hidden[:2, :3], hidden[2:, 3:] = back[:3].T, back[3:].T
    same(matrix(connections, units["3"], units["6"]), l1(network[5]) @ hidden)


def test_a_squeezed_channel_reaches_what_it_gates() -> None:
    gate = SqueezeExcitation(4, 2)
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), gate, conv(4, 5), nn.BatchNorm2d(5))
    connections, units = connected(network)
    same(matrix(connections, units["1"], units["2.fc1"]), l1(gate.fc1))
    same(matrix(connections, units["1"], units["4"]), l1(network[3]))
    same(matrix(connections, units["2.fc1"], units["4"]), l1(network[3]) @ l1(gate.fc2))


class Accumulating(nn.Module):
    """A product of matrices on top of another branch, in one operation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.end, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.end(torch.addmm(self.one(x), self.two(x), self.weight)))


def test_what_a_product_is_added_to_is_followed() -> None:
    network = Accumulating()
    connections, units = connected(network, 3)
    same(matrix(connections, units["one.1"], units["end"]), torch.eye(4))
    same(matrix(connections, units["two.1"], units["end"]), l1(network).T)


class Bounded(nn.Conv2d):
    """A convolution that computes the weights that it applies."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.bounded(), self.bias)

    def bounded(self) -> Tensor:
        return self.weight.tanh()


def test_strengths_are_those_of_the_weights_that_are_applied() -> None:
    network = nn.Sequential(Bounded(3, 4, 3), nn.ReLU(), Bounded(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1))
    connections, units = connected(network)
    expected = network[2].bounded().detach().abs().sum((2, 3))
    same(matrix(connections, units["0"], units["2"]), expected)


class Moving(nn.Module):
    """Channels that change their places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = conv(3, 8), nn.BatchNorm2d(8)
        self.last, self.end = conv(2, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.first(self.stem(x)), 2).roll(1, 1)
        x = F.interpolate(F.pad(x, (1, 1, 1, 1), mode="reflect"), scale_factor=2, mode="bilinear")
        return self.end(self.last(F.pad(x, (0, 3), value=10.0)))


def test_channels_are_followed_to_other_places() -> None:
    network = Moving()
    connections, units = connected(network)
    expected = l1(network.last)[:, [1, 0]].repeat_interleave(4, 1)
    same(matrix(connections, units["first"], units["end"]), expected)
    assert connections.unknown == ()


class Transformer(nn.Module):
    """One block of a vision transformer over four tokens, with either way to write attention."""

    def __init__(self, fused: bool, masked: bool = False) -> None:
        super().__init__()
        self.num_heads, self.fused, self.masked = 2, fused, masked
        self.entry, self.hidden = nn.Linear(3, 5), nn.Linear(5, 6)
        self.norm, self.qkv, self.proj = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.widen, self.narrow, self.head = nn.Linear(6, 7), nn.Linear(7, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(F.relu(self.entry(x)))
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        near = torch.zeros(x.shape[1], x.shape[1]) if self.masked else None
        y = (
            F.scaled_dot_product_attention(q, k, v, attn_mask=near)
            if self.fused
            else (q @ k.mT / 3).softmax(-1) @ v
        )
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        x = x + self.narrow(F.gelu(self.widen(x)))
        return self.head(x.mean(1))


@pytest.mark.parametrize(("fused", "masked"), [(True, False), (True, True), (False, False)])
def test_heads_take_through_queries_keys_and_values_and_give_through_their_projection(
    fused: bool, masked: bool
) -> None:
    network = Transformer(fused, masked)
    connections, units = connected(network, 4, 3)
    assert set(units) == {"entry", "", "widen"}
    stream = l1(network.hidden)
    of_heads = l1(network.qkv).view(3, 2, 3, 6).sum((0, 2))
    same(matrix(connections, units["entry"], units[""]), of_heads @ stream)
    projected = l1(network.proj).view(6, 2, 3).sum(2)
    same(matrix(connections, units[""], units["widen"]), l1(network.widen) @ projected)
    same(matrix(connections, units["entry"], units["widen"]), l1(network.widen) @ stream)


def test_the_heads_of_a_packed_attention_are_found_where_no_module_is_called() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)
    connections, units = connected(nn.Sequential(layer, nn.Linear(8, 3)), 5, 8)
    projected = l1(layer.self_attn.out_proj).view(8, 2, 4).sum(2)
    same(matrix(connections, units["0.self_attn"], units["0.linear1"]), l1(layer.linear1) @ projected)


class Untraceable(nn.Module):
    """Control flow that depends on the input, buffers filled in parts, in-place changes and a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Sequential(conv(3, 2), nn.BatchNorm2d(2)) for _ in range(2)])
        self.again, self.same = conv(4, 4), nn.BatchNorm2d(4)
        self.last, self.end = conv(4, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(len(x), 4, *x.shape[2:])
        for number, part in enumerate(self.parts):
            y[:, 2 * number : 2 * number + 2] = part(x)
        if float(x.detach().mean()) < 100:
            y.relu_()
        for _ in range(2):
            y = self.same(self.again(y))
        y[:, :2] += 1
        return self.end(self.last(torch.cat(list(y.chunk(2, 1))[::-1], 1)))


def test_any_python_is_followed() -> None:
    network = Untraceable()
    connections, units = connected(network)
    assert connections.unknown == ()
    for number in range(2):
        expected = l1(network.again)[:, 2 * number : 2 * number + 2]
        same(matrix(connections, units[f"parts.{number}.1"], units["same"]), expected)
    same(matrix(connections, units["same"], units["end"]), l1(network.last)[:, [2, 3, 0, 1]])
    assert not matrix(connections, units["same"], units["same"]).any(), "no edge within a layer"
    assert not named_groups(connections, units)


def test_more_origins_than_can_be_told_apart_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    block = InvertedResidual(4, 4, 1, 2)
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), block, nn.BatchNorm2d(4), conv(4, 2))
    exact, units = connected(network)
    same(matrix(exact, units["2.conv.3"], units["3"]), torch.eye(4))
    monkeypatch.setattr(origins, "MANY", 3)
    coarse, _ = connected(network)
    same(matrix(coarse, units["2.conv.3"], units["3"]), torch.ones(4, 4))
    assert not named_groups(coarse, units)


class Correlation(nn.Module):
    """How each channel of one layer goes with the same one of another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Sequential(conv(3, 4), nn.BatchNorm2d(4)) for _ in range(2))
        self.end, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        product = self.one(x).flatten(2) @ self.two(x).flatten(2).mT
        return self.head(self.end(product.diagonal(dim1=1, dim2=2)))


@pytest.mark.parametrize(("many", "rows"), [(16, torch.eye(4)), (15, torch.ones(4, 4))])
def test_a_product_of_too_many_rows_takes_the_rows_together(
    monkeypatch: pytest.MonkeyPatch, many: int, rows: Tensor
) -> None:
    monkeypatch.setattr(origins, "MANY", many)
    connections, units = connected(Correlation())
    same(matrix(connections, units["one.1"], units["end"]), rows)
    same(matrix(connections, units["two.1"], units["end"]), torch.eye(4))


LOSING: dict[str, Callable[[Tensor], Tensor]] = {
    "cumsum": lambda x: x.cumsum(1),
    "sort": lambda x: x.sort(1).values,
    "_fft_r2c": lambda x: torch.fft.rfft(x).real + x.new_zeros(()),
}


@pytest.mark.parametrize("name", LOSING)
def test_unknown_operations_are_named_and_break_connections(name: str) -> None:
    class Losing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.first = conv(3, 4), nn.BatchNorm2d(4)
            self.conv, self.norm = conv(4, 4), nn.BatchNorm2d(4)
            self.last, self.end = conv(4, 4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = LOSING[name](self.first(self.stem(x)))
            return self.end(self.last(self.norm(self.conv(x))))

    network = Losing()
    connections, units = connected(network)
    assert connections.unknown[0] == name
    assert connections.edges.shape == (2, 16)
    same(matrix(connections, units["norm"], units["end"]), l1(network.last))


class Chain(nn.Module):
    """Units with weights that are given, and with a way past the second layer."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(w.shape[1], len(w), bias=False) for w in weights)
        self.last = nn.Linear(len(weights[2]), 2)
        with torch.no_grad():
            for layer, weight in zip((self.first, self.second, self.third), weights, strict=True):
                layer.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.last(F.relu(self.third(torch.cat([F.relu(self.second(x)), x], 1))))


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    sizes = draw(st.tuples(*[st.integers(1, 9)] * 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = [(sizes[0], 3), (sizes[1], sizes[0]), (sizes[2], sizes[1] + sizes[0])]
    # Few different values, zeros among them: ties are what a selection gets wrong.
    levels = draw(st.integers(2, 50))
    return Chain([torch.randint(levels, shape, generator=generator) / levels for shape in shapes])


@settings(max_examples=40, deadline=None)
@given(network=chains(), strongest=st.integers(1, 5), rows=st.integers(1, 4))
def test_the_kept_edges_are_the_strongest(network: Chain, strongest: int, rows: int) -> None:
    every, _ = connected(network, 3)
    some, _ = connected(network, 3, strongest=strongest)
    total = len(every.groups)
    dense = torch.zeros(total, total)
    for block in every.wiring.blocks(rows):
        dense[block.targets[:, None], block.sources] = block.strengths
    kept = torch.zeros(total, total)
    kept[some.edges[1], some.edges[0]] = some.weights
    assert torch.equal(dense[every.edges[1], every.edges[0]], every.weights)
    assert len(every.weights) == dense.count_nonzero()
    assert some.edges.shape[1] == kept.count_nonzero() <= 2 * strongest * total
    assert torch.equal(kept[kept > 0], dense[kept > 0])
    for full, chosen in [(dense, kept), (dense.T, kept.T)]:
        best = full.topk(min(strongest, total), 1).values
        assert torch.equal(chosen.topk(min(strongest, total), 1).values, best)
    threshold = [full.topk(min(strongest, total), 1).values[:, -1] for full in (dense, dense.T)]
    assert bool(((kept == 0) | (kept >= threshold[0][:, None]) | (kept >= threshold[1])).all())
    torch.testing.assert_close(some.inputs, dense.sum(1))
    torch.testing.assert_close(some.outputs, dense.sum(0))


def test_the_network_and_the_example_stay_as_they_are() -> None:
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv(4, 2)).train()
    network[0].weight.requires_grad_(False)
    example = torch.randn(2, 3, 8, 8)
    before, untouched = state_sha256(network.state_dict()), example.clone()
    discovery = discover(network, example)
    connections = connect(network, discovery, example)
    assert state_sha256(network.state_dict()) == before
    assert torch.equal(example, untouched)
    assert all(module.training for module in network.modules())
    assert network[2].inplace
    assert not network[0].weight.requires_grad
    assert network[3].weight.requires_grad
    assert not connections.weights.requires_grad
    assert not any(module._forward_hooks for module in network.modules())
    with torch.inference_mode():
        assert torch.equal(connect(network, discovery, example.clone()).weights, connections.weights)


def test_a_network_without_units_has_no_connections() -> None:
    connections, units = connected(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    assert not units
    assert connections.edges.shape == (2, 0)
    assert connections.groups.dtype == torch.int64


def test_what_cannot_be_connected_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    discovery = discover(network, torch.randn(1, 3))
    with pytest.raises(ValueError, match="at least 1 edge"):
        connect(network, discovery, torch.randn(1, 3), strongest=0)
    with pytest.raises(ValueError, match="floating-point"):
        connect(network, discovery, torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(RuntimeError):
        connect(network, discovery, torch.randn(1, 5))
    for parameter, count, message in [("9.weight", 4, "no parameter 9"), ("0.weight", 5, "4 channels")]:
        stranger = UnitLayer("0", "linear", count, (Slices(parameter, 0),))
        with pytest.raises(ValueError, match=message):
            connect(network, Discovery((stranger,), {}), torch.randn(1, 3))
    assert not any(module._forward_hooks for module in network.modules())
