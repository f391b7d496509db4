"""What a mask does to numbers and gradients, and what may happen while it is on."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from secateur.units import Masks, Unit, UnitLayer, all_units, discover, masked


class Mixed(nn.Module):
    """One layer of every kind: convolution, norm, heads and linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.mix = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.hidden = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.mix(F.gelu(self.conv(x)))).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(F.gelu(self.hidden(tokens))).mean(1)


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Mixed().double().eval()
        for parameter in network.parameters():
            nn.init.normal_(parameter, 0, 0.5)
        network.norm.running_mean.normal_()
    return network


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def layers(network: nn.Module, batch: Tensor) -> tuple[UnitLayer, ...]:
    layers = discover(network, batch).layers
    assert [(layer.kind, layer.count) for layer in layers] == [
        ("conv", 3),
        ("norm", 4),
        ("heads", 2),
        ("linear", 3),
    ]
    return layers


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_equal_finite_differences(
    network: nn.Module, batch: Tensor, layers: tuple[UnitLayer, ...], shift: bool, training: bool
) -> None:
    network.train(training).requires_grad_(False)
    flat = torch.linspace(0.1, 1, 12, dtype=torch.float64, requires_grad=True)

    def run(values: Tensor) -> Tensor:
        with masked(network, layers, values, shift=shift):
            return network(batch)

    assert torch.autograd.gradcheck(run, (flat,))


@pytest.mark.parametrize("shift", [True, False])
def test_any_mask_multiplies_the_slices_of_its_unit(
    network: nn.Module, batch: Tensor, layers: tuple[UnitLayer, ...], shift: bool
) -> None:
    flat = torch.linspace(0, 1, 12, dtype=torch.float64)
    state = dict(network.named_parameters())
    for layer in layers:
        mask = Masks(layers, flat).of(layer.name)
        for slices in layer.slices(shift=shift):
            tensor = state[slices.parameter].transpose(slices.axis, -1)
            masked_tensor = tensor * mask.repeat_interleave(slices.block)
            state[slices.parameter] = masked_tensor.transpose(slices.axis, -1)
    expected = functional_call(network, state, batch)
    with masked(network, layers, flat, shift=shift):
        torch.testing.assert_close(network(batch), expected)


def test_masks_apply_to_parameters_that_are_replaced_meanwhile(
    network: nn.Module, batch: Tensor, layers: tuple[UnitLayer, ...]
) -> None:
    flat = torch.linspace(0, 1, 12, dtype=torch.float64)
    other = {name: tensor + 0.3 for name, tensor in network.named_parameters()}
    before = dict(network.named_parameters())
    with masked(network, layers, flat, shift=True):
        actual = functional_call(network, other, batch)
    assert all(parameter is before[name] for name, parameter in network.named_parameters())
    network.load_state_dict(other, strict=False)
    with masked(network, layers, flat, shift=True):
        torch.testing.assert_close(actual, network(batch))


def test_masks_are_read_anew_at_every_pass(
    network: nn.Module, batch: Tensor, layers: tuple[UnitLayer, ...]
) -> None:
    masks = Masks.ones(layers, dtype=torch.float64)
    plain = network(batch)
    optimizer = torch.optim.SGD([masks.flat], lr=0.1)
    with masked(network, layers, masks.flat, shift=True):
        losses = []
        for _ in range(5):
            output = network(batch)
            if not losses:
                torch.testing.assert_close(output, plain)
            losses.append(output.square().mean())
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_parts_of_the_network_can_run_alone(
    network: nn.Module, batch: Tensor, layers: tuple[UnitLayer, ...]
) -> None:
    flat = torch.zeros(12, dtype=torch.float64)
    with masked(network, layers, flat, shift=True):
        assert not network.conv(batch).any()
        assert not network.norm(torch.ones(1, 4, 2, 2, dtype=torch.float64)).any()
    assert network.conv(batch).any()


def test_a_convolution_without_batch_axis_is_masked_along_its_channels() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    layers = discover(network, torch.ones(1, 2, 4, 4)).layers
    with masked(network, layers, torch.tensor([1.0, 0.0, 1.0]), shift=True):
        assert [bool(channel.any()) for channel in network[0](torch.ones(2, 4, 4))] == [True, False, True]


def test_masks_keep_the_precision_and_layout_of_activations() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    images = torch.ones(1, 2, 4, 4).to(memory_format=torch.channels_last)
    layers = discover(network, images).layers
    network.eval().to(memory_format=torch.channels_last)
    with (
        masked(network, layers, torch.ones(6, requires_grad=True), shift=True),
        torch.autocast("cpu", torch.bfloat16),
    ):
        hidden = network[0](images)
    assert hidden.dtype == torch.bfloat16
    assert hidden.is_contiguous(memory_format=torch.channels_last)


def test_a_parameter_with_two_names_is_masked_once() -> None:
    norm = nn.BatchNorm1d(2, eps=0).eval()
    network = nn.Sequential(norm, nn.Tanh(), norm)
    layers = discover(network, torch.ones(1, 2)).layers
    with masked(network, layers, torch.tensor([0.5, 1.0]), shift=True):
        output = network(torch.ones(1, 2))
    expected = torch.tensor([[0.5, 1.0]]).tanh() * torch.tensor([0.5, 1.0])
    torch.testing.assert_close(output, expected)


def test_a_failed_pass_leaves_the_parameters_in_place_at_once(
    network: nn.Module, batch: Tensor, layers: tuple[UnitLayer, ...]
) -> None:
    original = network.norm.weight
    with masked(network, layers, torch.full((12,), 0.5, dtype=torch.float64), shift=True):
        with pytest.raises(ValueError, match="expected 4D"):
            network.norm(batch[0])
        assert network.norm.weight is original


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_that_skips_hooks_is_undone_too(
    network: nn.Module, batch: Tensor, layers: tuple[UnitLayer, ...]
) -> None:
    original = network.norm.weight
    half = torch.full((12,), 0.5, dtype=torch.float64)
    with masked(network, layers, half, shift=True):
        expected = network(batch)
    with masked(network, layers, half, shift=True):
        handle = network.norm.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            network(batch)
        assert network.norm.weight is not original
        handle.remove()
        torch.testing.assert_close(network(batch), expected)
        handle = network.norm.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            network(batch)
    handle.remove()
    assert network.norm.weight is original


def test_masking_twice_at_once_is_refused(
    network: nn.Module, batch: Tensor, layers: tuple[UnitLayer, ...]
) -> None:
    plain, ones = network(batch), torch.ones(12, dtype=torch.float64)
    with masked(network, layers, ones, shift=True):
        for layer in layers:
            flat = torch.ones(layer.count)
            with (
                pytest.raises(ValueError, match="masked already"),
                masked(network, [layer], flat, shift=True),
            ):
                pass
        torch.testing.assert_close(network(batch), plain)
    with masked(network, layers, ones, shift=True):
        pass


def test_masks_that_do_not_fit_are_refused(network: nn.Module, layers: tuple[UnitLayer, ...]) -> None:
    for flat in (torch.ones(11), torch.ones(12, 1), torch.ones(12, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"units|floating"), masked(network, layers, flat, shift=True):
            pass
    with (
        pytest.raises(ValueError, match="no parameter"),
        masked(nn.ReLU(), layers, torch.ones(12), shift=True),
    ):
        pass


def test_masks_of_units(layers: tuple[UnitLayer, ...]) -> None:
    units = list(all_units(layers))
    masks = Masks.from_units(layers, [units[1], units[5], units[5]])
    assert masks.flat.tolist() == [float(position not in (1, 5)) for position in range(12)]
    assert masks.of("norm").tolist() == [1, 1, 0, 1]
    assert not masks.flat.requires_grad
    with pytest.raises(KeyError):
        masks.of("head")
    with pytest.raises(ValueError, match="units 0 to 3"):
        Masks.from_units(layers, [Unit("norm", 4)])
    with pytest.raises(ValueError, match="no layer"):
        Masks.from_units(layers, [Unit("head", 0)])
