"""Units that meet at an addition form a group, and no others, on the smallest network for each way to add."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from connected import connected, conv, l1, matrix, named_groups, same
from secateur.models.zoo import ZOO


def test_a_stage_of_basic_blocks_makes_a_group_of_each_channel() -> None:
    network = ResNet(BasicBlock, [2, 2, 1, 1], num_classes=3)
    connections, units = connected(network, 3, 32, 32)
    stages = {
        64: ["bn1", "layer1.0.bn2", "layer1.1.bn2"],
        128: ["layer2.0.bn2", "layer2.0.downsample.1", "layer2.1.bn2"],
        256: ["layer3.0.bn2", "layer3.0.downsample.1"],
        512: ["layer4.0.bn2", "layer4.0.downsample.1"],
    }
    assert named_groups(connections, units) == {
        frozenset((name, channel) for name in names)
        for width, names in stages.items()
        for channel in range(width)
    }
    same(matrix(connections, units["bn1"], units["layer1.0.bn1"]), l1(network.layer1[0].conv1))
    # Beyond the addition the block's last norm feeds the same weights as its shortcut.
    for name in stages[64]:
        same(matrix(connections, units[name], units["layer2.0.bn1"]), l1(network.layer2[0].conv1))
        same(
            matrix(connections, units[name], units["layer2.0.downsample.1"]),
            l1(network.layer2[0].downsample[0]),
        )
    assert not matrix(connections, units["layer1.0.bn1"], units["layer1.1.bn1"]).any()


def test_the_shortcut_of_a_bottleneck_joins_its_last_norm_only() -> None:
    connections, units = connected(ResNet(Bottleneck, [1, 1, 1, 1], num_classes=3), 3, 32, 32)
    layers = [frozenset(name for name, _ in group) for group in named_groups(connections, units)]
    assert set(layers) == {frozenset({f"layer{n}.0.bn3", f"layer{n}.0.downsample.1"}) for n in range(1, 5)}
    assert len(layers) == 256 + 512 + 1024 + 2048


def test_a_shortcut_of_sliced_pixels_and_padded_channels_joins_the_channels_in_its_middle() -> None:
    connections, units = connected(ZOO["resnet20"](), 3, 32, 32)
    narrow = ["bn1", "layer1.0.bn2", "layer1.1.bn2", "layer1.2.bn2"]
    expected = set()
    for channel in range(64):
        group = {(f"layer3.{block}.bn2", channel) for block in range(3)}
        if 16 <= channel < 48:
            group |= {(f"layer2.{block}.bn2", channel - 16) for block in range(3)}
        if 24 <= channel < 40:
            group |= {(name, channel - 24) for name in narrow}
        expected.add(frozenset(group))
    assert named_groups(connections, units) == expected


class Spatial(nn.Module):
    """A block whose output is gated pixel by pixel, with one channel that is computed from all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = conv(3, 4), nn.BatchNorm2d(4)
        self.conv, self.norm = conv(4, 4), nn.BatchNorm2d(4)
        self.look, self.gate = conv(2, 1), nn.BatchNorm2d(1)
        self.last, self.end = conv(4, 2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        y = self.norm(self.conv(x))
        seen = torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True).values], 1)
        return self.end(self.last(x + y * self.gate(self.look(seen)).sigmoid()))


def test_a_gate_over_pixels_does_not_join_the_channels() -> None:
    network = Spatial()
    connections, units = connected(network)
    assert named_groups(connections, units) == {
        frozenset({("first", channel), ("norm", channel)}) for channel in range(4)
    }
    same(matrix(connections, units["norm"], units["gate"]), l1(network.look).sum().expand(1, 4))
    same(matrix(connections, units["gate"], units["end"]), l1(network.last).sum(1, keepdim=True))


class Selective(nn.Module):
    """Two branches that are stacked and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Sequential(conv(3, 4), nn.BatchNorm2d(4)) for _ in range(2))
        self.last = conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.stack([self.one(x), self.two(x)], 1).sum(1))


def test_a_sum_over_stacked_branches_is_an_addition() -> None:
    connections, units = connected(Selective())
    assert named_groups(connections, units) == {
        frozenset({("one.1", channel), ("two.1", channel)}) for channel in range(4)
    }


class Joining(nn.Module):
    """Two branches, joined by `join`."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.join = join
        self.one = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.two = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.join(self.one(x), self.two(x)))


@pytest.mark.parametrize(
    ("join", "width", "pairs"),
    [
        (lambda one, two: one - two, 4, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        (lambda one, two: one + two.flip(1), 4, [(0, 3), (1, 2), (2, 1), (3, 0)]),
        (lambda one, two: torch.lerp(one, F.pad(two, (2, 0)), 0.5), 2, [(2, 0), (3, 1)]),
        (lambda one, two: one * two, 4, []),
        (lambda one, two: torch.maximum(one, two), 4, []),
        (lambda one, two: one + two, 1, []),
        (lambda one, two: two + one.mean(1, keepdim=True).expand(-1, 4), 1, []),
        (lambda one, two: torch.addmm(one, two, torch.eye(4)), 4, []),
    ],
)
def test_groups_are_units_that_are_added_channel_by_channel(
    join: Callable[[Tensor, Tensor], Tensor], width: int, pairs: list[tuple[int, int]]
) -> None:
    connections, units = connected(Joining(join, width), 3)
    assert named_groups(connections, units) == {
        frozenset({("one.1", one), ("two.1", two)}) for one, two in pairs
    }
