"""Features of hand-made networks are those computed by hand."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from secateur.repair.activity import activity
from secateur.repair.onp.features import CARRIED, FARTHEST, NAMES, features, feeding, with_carried
from secateur.units import connect, discover

EXAMPLE = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(2, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * channels, 4),
            nn.ReLU(),
            nn.Linear(4, 3),
        )
        .eval()
        .requires_grad_(False)
    )


def told(
    net: nn.Module, unlearned: nn.Module | None = None, masks: torch.Tensor | None = None
) -> tuple[torch.Tensor, list[str]]:
    discovery = discover(net, EXAMPLE)
    passed = activity(net, discovery.layers, [IMAGES], [IMAGES.flip(0)])
    connections = connect(net, discovery, EXAMPLE)
    known = features(net, discovery.layers, EXAMPLE, connections, passed, unlearned=unlearned, masks=masks)
    return known, [layer.name for layer in discovery.layers]


def column(known: torch.Tensor, name: str, count: int = 3) -> list[float]:
    return pytest.approx(known[:count, NAMES.index(name)].tolist(), abs=1e-4)  # type: ignore[return-value]


def standard(values: torch.Tensor) -> list[float]:
    return ((values - values.mean()) / values.std(correction=0)).tolist()


def test_norms_scales_and_statistics_by_hand() -> None:
    net = network()
    net[1].weight.copy_(torch.tensor([1.0, 2.0, -3.0]))
    net[1].bias.copy_(torch.tensor([0.1, 0.2, 0.6]))
    net[1].running_mean.copy_(torch.tensor([0.0, 1.0, 5.0]))
    net[1].running_var.copy_(torch.tensor([1.0, 4.0, 9.0]))
    known, names = told(net)
    assert names == ["1", "4"]
    assert standard(net[0].weight.flatten(1).norm(dim=1).log1p()) == column(known, "weights (Euclidean norm)")
    assert standard(torch.tensor([1.0, 2.0, -3.0])) == column(known, "scale")
    assert standard(torch.tensor([0.1, 0.2, 0.6])) == column(known, "shift")
    assert standard(torch.tensor([0.0, 1.0, 5.0])) == column(known, "running mean")
    assert standard(torch.tensor([1.0, 2.0, 3.0])) == column(known, "running deviation")
    # The largest singular value of a channel's kernel, two inputs by nine places, times the norm's factor.
    singular = torch.linalg.svdvals(net[0].weight.flatten(2))[:, 0]
    bound = singular * torch.tensor([1.0, 2.0, 3.0]) / (torch.tensor([1.0, 2.0, 3.0]) + 1e-5)
    assert standard(bound.log1p()) == column(known, "Lipschitz bound")
    assert known[:, NAMES.index("depth")].tolist() == [-1.0] * 3 + [1.0] * 4


def test_what_a_norm_is_fed_by_counts_as_its_change() -> None:
    net = network()
    unlearned = deepcopy(net)
    unlearned[0].weight[1] += 0.5
    unlearned[1].weight[2] += 0.25
    # Eighteen weights by a half, and one scale by a quarter.
    expected = torch.tensor([0.0, 9.0, 0.25]).log1p()
    known, _ = told(net, unlearned)
    assert standard(expected) == column(known, "change of weights while unlearning")


def test_a_norm_is_fed_by_what_it_takes_as_it_is() -> None:
    net = network()
    discovery = discover(net, EXAMPLE)
    assert feeding(net, discovery.layers, EXAMPLE) == {"1": net[0]}
    for inplace in (False, True):
        between = nn.Sequential(net[0], nn.ReLU(inplace), *list(net)[1:]).eval()
        assert feeding(between, discover(between, EXAMPLE).layers, EXAMPLE) == {}


def test_masks_are_told_and_what_is_unknown_is_zero() -> None:
    net, masks = network(), torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.2])
    known, _ = told(net, masks=masks)
    assert standard(masks[:3]) == column(known, "mask while recovering")
    unknown, _ = told(net)
    for name in ("change of weights while unlearning", "mask while recovering"):
        assert not unknown[:, NAMES.index(name)].any()


def test_features_are_cut_and_do_not_depend_on_a_layers_scale() -> None:
    net = network(40)
    net[1].bias[7] = 1e6
    known, _ = told(net)
    shift = known[:40, NAMES.index("shift")]
    assert shift[7] == FARTHEST
    assert known.isfinite().all()
    scaled = network(40)
    scaled[1].bias[7] = 1e6
    scaled[1].weight.mul_(3.0)
    again, _ = told(scaled)
    place = NAMES.index("scale")
    assert torch.allclose(again[:40, place], known[:40, place])


def test_the_share_of_the_margin_alone_changes_with_triggers() -> None:
    net = network()
    known, _ = told(net)
    layers = discover(net, EXAMPLE).layers
    carried = torch.tensor([0.0, 0.3, 0.9, 0.0, 0.0, 0.0, 0.0])
    full = with_carried(known, layers, carried)
    assert standard(carried[:3]) == column(full, "share of the trigger's margin")
    others = [place for place in range(len(NAMES)) if place != CARRIED]
    assert torch.equal(full[:, others], known[:, others])


def test_features_of_a_network_with_extreme_numbers_are_finite() -> None:
    """A checkpoint may hold any finite number, and what overflows must not reach the policy."""
    net = network()
    net[1].running_mean.copy_(torch.tensor([3e38, -3e38, 3e38]))
    net[1].running_var.fill_(3e38)
    net[1].weight.zero_()
    known, _ = told(net)
    assert known.isfinite().all()
    assert known.abs().max() <= FARTHEST
    carried = with_carried(
        known, discover(net, EXAMPLE).layers, torch.tensor([3e38, -3e38, *[torch.inf] * 5])
    )
    assert carried.isfinite().all()
