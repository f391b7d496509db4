"""Each rule of discovery on the smallest network that needs it, written with any Python there is."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from secateur.units import Discovery, Masks, Slices, Unit, discover, masked, prune

Step = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A first convolution, whatever `step` does with its result, and a second one."""

    def __init__(self, step: Step, **parts: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 1)
        self.step = step
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.step(self, self.first(x))).mean((2, 3))


def found(network: nn.Module, *shape: int) -> Discovery:
    return discover(network, torch.randn(*shape or (2, 3, 6, 6)))


def layer_names(discovery: Discovery) -> list[str]:
    return [layer.name for layer in discovery.layers]


PASSING: dict[str, Step] = {
    "nothing": lambda net, x: x,
    "relu in place": lambda net, x: F.relu_(x),
    "relu6": lambda net, x: F.relu6(x),
    "clamp around zero": lambda net, x: x.clamp(-1, 1),
    "elu, celu, selu": lambda net, x: F.selu(F.celu(F.elu(x))),
    "gelu, silu, mish": lambda net, x: F.mish(F.silu(F.gelu(x))),
    "leaky, hardswish, tanh": lambda net, x: torch.tanh(F.hardswish(F.leaky_relu(x))),
    "prelu": lambda net, x: F.prelu(x, torch.full((1,), 0.1)),
    "pooling": lambda net, x: F.adaptive_max_pool2d(F.avg_pool2d(F.max_pool2d(x, 2), 3, 1, 1), 1),
    "scaling": lambda net, x: 2 * x * torch.rand(4, 1, 1) / 3,
    "padding and upsampling": lambda net, x: F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2),
    "channel shuffle": lambda net, x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
    "concatenation": lambda net, x: torch.cat([x[:, :2], F.relu(x[:, 2:])], 1),
    "dropout": lambda net, x: F.dropout(x, training=net.training),
}


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING)
def test_outputs_that_reach_only_weights_are_units(step: Step) -> None:
    (layer,) = found(Net(step)).layers
    assert (layer.name, layer.kind, layer.count, layer.shift) == ("first", "conv", 4, ())
    assert layer.scale == (Slices("first.weight", 0, 1), Slices("first.bias", 0, 1))


REFUSED: dict[str, tuple[Step, str]] = {
    "residual": (lambda net, x: x + F.relu(x), "residual"),
    "constant": (lambda net, x: x + 1.0, "constant"),
    "constant matrix": (
        lambda net, x: torch.addmm(x[0, 0], torch.ones(6, 1), torch.ones(1, 6))[None, None].expand(
            1, 4, 6, 6
        ),
        "constant",
    ),
    "subtracted from a constant": (lambda net, x: 1 - x, "Rsub"),
    "own bias elsewhere": (lambda net, x: F.relu(x) - x.mean(), "residual"),
    "gate": (lambda net, x: x * F.relu(x), "gates"),
    "sigmoid": (lambda net, x: x.sigmoid(), "sigmoid"),
    "softplus": (lambda net, x: F.softplus(x), "softplus"),
    "clamp above zero": (lambda net, x: x.clamp(min=0.5), "Clamp"),
    "reciprocal": (lambda net, x: 1 / x, "Reciprocal"),
    "attention": (lambda net, x: x.flatten(2).softmax(-1).view_as(x), "attention"),
    "product": (lambda net, x: x @ x.transpose(2, 3), "attention"),
    "batch norm": (lambda net, x: net.norm(F.relu(x)), "followed by norm: prune its channels there"),
    "unknown": (lambda net, x: torch.cumsum(x, 1), "Cumsum"),
    "changed through a view": (lambda net, x: x.view(x.shape).relu_(), "in place|CopySlices"),
}


@pytest.mark.parametrize(("step", "reason"), REFUSED.values(), ids=REFUSED)
def test_other_outputs_are_refused_with_the_reason(step: Step, reason: str) -> None:
    discovery = found(Net(step, norm=nn.BatchNorm2d(4)))
    assert "first" not in layer_names(discovery)
    assert any(part in discovery.refused["first"] for part in reason.split("|")), discovery.refused["first"]


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(6)])
def test_other_norms_are_named_and_have_no_units(norm: nn.Module) -> None:
    discovery = found(Net(lambda net, x: net.norm(x), norm=norm))
    assert discovery.layers == ()
    assert "followed by norm" in discovery.refused["first"]
    assert "norm" in discovery.refused


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.SyncBatchNorm(4)])
def test_channels_of_a_batch_norm_are_units_wherever_they_go(norm: nn.Module) -> None:
    (layer,) = found(Net(lambda net, x: net.norm(x) + x, norm=norm)).layers
    assert (layer.name, layer.kind, layer.count) == ("norm", "norm", 4)
    assert (layer.scale, layer.shift) == ((Slices("norm.weight", 0, 1),), (Slices("norm.bias", 0, 1),))


def test_a_batch_norm_without_parameters_has_nothing_to_prune() -> None:
    discovery = found(Net(lambda net, x: net.norm(x), norm=nn.BatchNorm2d(4, affine=False)))
    assert discovery.layers == ()
    assert "without affine" in discovery.refused["norm"]
    assert "without parameters" in discovery.refused["first"]


def test_modules_that_only_lend_their_weights_are_refused() -> None:
    borrowed = Net(
        lambda net, x: F.conv2d(x, net.spare.weight) + F.conv2d(x, net.unused.weight.detach()),
        spare=nn.Conv2d(4, 4, 1),
        unused=nn.Conv2d(4, 4, 1),
    )
    refused = found(borrowed).refused
    assert "residual" in refused["spare"]
    assert "not used" in refused["unused"]
    lent = Net(lambda net, x: F.conv2d(x, net.spare.weight), spare=nn.Conv2d(4, 4, 1))
    assert "without calling" in found(lent).refused["spare"]


def test_a_weight_that_is_computed_is_refused() -> None:
    network = nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    discovery = found(network, 2, 3)
    assert discovery.layers == ()
    assert "computed" in discovery.refused["0"]


def test_transposed_convolutions_and_other_layers_are_refused() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.PReLU(4), nn.Conv2d(4, 2, 1))
    refused = found(network).refused
    assert "transposed" in refused["0"]
    assert "PReLU" in refused["1"]


class Looping(nn.Module):
    """One layer called three times, then a second name for another one."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(3, 6)
        self.loop = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.alias = self.norm
        self.tied = nn.Linear(3, 6, bias=False)
        self.tied.weight = self.entry.weight
        self.exit = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([F.relu(self.entry(x)), F.relu(self.tied(2 * x))])
        for _ in range(3):
            y = F.gelu(self.loop(y))
        return self.exit(self.alias(self.norm(y)))


def test_shared_parameters_make_one_layer_that_lists_every_name() -> None:
    network = Looping().double().eval()
    discovery = found(network.float(), 2, 3)
    assert layer_names(discovery) == ["entry", "norm"]
    entry, norm = discovery.layers
    assert [part.parameter for part in entry.scale] == ["entry.weight", "tied.weight", "entry.bias"]
    assert [part.parameter for part in norm.scale] == ["norm.weight", "alias.weight"]
    assert "shares its weight with entry" in discovery.refused["tied"]
    assert "followed by norm" in discovery.refused["loop"]


def test_masks_equal_pruning_where_parameters_are_shared() -> None:
    network = Looping().double().eval()
    network.norm.running_mean.uniform_()
    x = torch.randn(4, 3, dtype=torch.float64)
    layers = discover(network, x).layers
    units = [Unit("entry", 1), Unit("entry", 4), Unit("norm", 0)]
    for shift in (True, False):
        masks = Masks.from_units(layers, units, dtype=torch.float64)
        with masked(network, layers, masks.flat, shift=shift):
            actual = network(x)
        torch.testing.assert_close(actual, prune(network, layers, units, shift=shift)(x))
        assert not torch.allclose(actual, network(x))


class Tied(nn.Module):
    """A weight that is also used where masks could not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 4)
        self.third = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(F.relu(self.first(x))) @ self.first.weight)


def test_a_weight_that_is_used_twice_is_refused() -> None:
    assert "also used outside" in found(Tied(), 2, 3).refused["first"]


def test_a_weight_that_another_kind_of_layer_uses_too_is_refused() -> None:
    back = nn.ConvTranspose2d(4, 3, 3, padding=1)
    network = Net(lambda net, x: net.last(net.back(F.relu(x))), back=back, last=nn.Conv2d(3, 4, 1))
    back.weight = network.first.weight
    assert "also used outside" in found(network).refused["first"]
    rows, channels = nn.LayerNorm(4), nn.BatchNorm2d(4)
    channels.weight = rows.weight
    discovery = found(Net(lambda net, x: net.channels(net.rows(x)), rows=rows, channels=channels), 2, 3, 4, 4)
    assert "also used outside" in discovery.refused["channels"]


def test_a_layer_that_gives_back_something_else_than_its_channels_is_refused() -> None:
    class Halved(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[..., ::2]

    refused = found(nn.Sequential(Halved(3, 4), nn.ReLU(), nn.Linear(2, 2)), 2, 3).refused
    assert "one channel per row" in refused["0"]


def test_unused_and_detached_parts_are_explained() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
            self.training_only = nn.Linear(3, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
            with torch.no_grad():
                features = self.frozen(x)
            return {"logits": [self.head(features)]}

    discovery = found(Partly(), 2, 3)
    assert layer_names(discovery) == ["frozen.1"]
    assert "cut off" in discovery.refused["frozen.0"]
    assert "not used" in discovery.refused["training_only"]
    assert "cut off" in discovery.refused["head"]


def test_the_output_is_recognised_in_any_container() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 4, 1)
            self.outer = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> dict[str, tuple[Tensor, None]]:
            inner = self.inner(x)
            return {"inner": (inner, None), "outer": (self.outer(inner), None)}

    refused = found(Features()).refused
    assert refused["inner"] == refused["outer"] == "it gives the network's output"


class Attention(nn.Module):
    """Attention whose heads are blocks of its projection's input, or interleaved in it, or mixed before."""

    def __init__(self, blocks: bool, mixer: nn.Module) -> None:
        super().__init__()
        self.num_heads = 2
        self.blocks = blocks
        self.mixer = mixer
        self.qkv = nn.Linear(6, 18)
        self.proj = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        y = (y.transpose(1, 2) if self.blocks else y.permute(0, 2, 3, 1)).flatten(2)
        return x + self.proj(self.mixer(y))


def test_heads_are_units_only_where_they_are_blocks_of_the_projection() -> None:
    (layer,) = found(Attention(True, nn.Dropout()), 2, 5, 6).layers
    assert (layer.name, layer.kind, layer.count) == ("", "heads", 2)
    assert layer.scale == (Slices("proj.weight", 1, 3),)
    for network in (Attention(False, nn.Identity()), Attention(True, nn.Linear(6, 6))):
        discovery = found(network, 2, 5, 6)
        assert "heads" not in [layer.kind for layer in discovery.layers]
        assert "attention" in discovery.refused["qkv"]


@pytest.mark.parametrize("batch_first", [True, False])
def test_transformer_layers_have_heads_and_hidden_neurons(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first, activation="gelu").double()
    network = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3))
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    network.double().eval()
    x = torch.randn(4, 5, 8, dtype=torch.float64)
    layers = discover(network, x).layers
    assert [(layer.kind, layer.count) for layer in layers] == [("heads", 2), ("linear", 12)] * 2
    units = [Unit(layers[0].name, 1), Unit(layers[3].name, 5)]
    masks = Masks.from_units(layers, units, dtype=torch.float64)
    pruned = prune(network, layers, units)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), masked(network, layers, masks.flat, shift=True):
            torch.testing.assert_close(network(x), pruned(x))


def test_a_linear_layer_before_an_activation_in_place_is_found() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    assert layer_names(found(network, 2, 5, 3)) == ["0"]
    assert network[1].inplace


def test_discovery_works_for_frozen_networks_in_any_mode_and_restores_it() -> None:
    network = Net(lambda net, x: net.norm(x), norm=nn.BatchNorm2d(4)).requires_grad_(False).train()
    network.second.eval()
    example = torch.randn(2, 3, 6, 6)
    untouched = example.clone()
    with torch.no_grad():
        assert layer_names(discover(network, example)) == ["norm"]
    with torch.inference_mode():
        assert layer_names(discover(network, example.clone())) == ["norm"]
    assert torch.equal(example, untouched)
    assert not example.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.first.training
    assert not network.second.training
    assert network.norm.num_batches_tracked == 0


def test_discovery_restores_the_network_after_an_exception() -> None:
    network = Net(lambda net, x: x, norm=nn.BatchNorm2d(4)).requires_grad_(False).train()
    with pytest.raises(RuntimeError):
        found(network, 2, 7, 6, 6)
    assert not any(module._forward_hooks for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_the_network_may_change_its_input() -> None:
    class Normalising(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5))

    example = torch.zeros(1, 3, 6, 6)
    assert layer_names(discover(Normalising(lambda net, x: x), example)) == ["first"]
    assert not example.any()


def test_the_graph_is_released() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def step(_: Net, x: Tensor) -> Tensor:
        kept.append(weakref.ref(x))
        return F.relu(x)

    network = Net(step)
    gc.disable()
    try:
        discovery = found(network)
        assert kept[0]() is None
    finally:
        gc.enable()
    assert discovery.total == 4


def test_integer_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        discover(nn.Embedding(3, 3), torch.zeros(1, dtype=torch.int64))
