"""The package's own networks have the published sizes and parameter names."""

import pytest
import torch
from torch import nn

from secateur.models.zoo import ZOO

# Parameters for 10 classes and RGB, as published with the usual CIFAR code bases.
PARAMETERS = {
    "mobilenet_v2": 2_296_922,
    "preact_resnet18": 11_171_146,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "vgg19_bn": 20_040_522,
    "wrn28_10": 36_479_194,
}
NAMES = {
    "mobilenet_v2": (
        "conv1.weight",
        "layers.0.conv3.weight",
        "layers.0.shortcut.1.bias",
        "bn2.weight",
        "linear.bias",
    ),
    "preact_resnet18": ("conv1.weight", "layer2.0.shortcut.0.weight", "layer4.1.bn2.bias", "linear.weight"),
    "resnet18": (
        "conv1.weight",
        "bn1.running_mean",
        "layer2.0.shortcut.1.weight",
        "layer4.1.conv2.weight",
        "linear.bias",
    ),
    "resnet20": ("conv1.weight", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.bias"),
    "vgg19_bn": ("features.0.weight", "features.1.running_var", "features.49.weight", "classifier.weight"),
    "wrn16_1": ("block1.layer.0.bn1.weight", "block2.layer.0.convShortcut.weight", "bn1.bias", "fc.weight"),
}


def on_meta(name: str, **arguments: int) -> nn.Module:
    with torch.device("meta"):
        return ZOO[name](**arguments)


@pytest.mark.parametrize("name", ZOO)
def test_classes_and_channels_are_free(name: str) -> None:
    network = on_meta(name, num_classes=7, in_channels=1)
    assert network(torch.zeros(2, 1, 32, 32, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == count


def test_wide_resnet_has_the_parameters_of_its_layer_list() -> None:
    # Two blocks a stage, each of two 3x3 convolutions and two norms, and a 1x1 shortcut where it widens.
    stem = 3 * 16 * 9
    first = 2 * (2 * 16 * 16 * 9 + 2 * 2 * 16)
    second = 16 * 32 * 9 + 3 * 32 * 32 * 9 + 16 * 32 + 2 * (16 + 3 * 32)
    third = 32 * 64 * 9 + 3 * 64 * 64 * 9 + 32 * 64 + 2 * (32 + 3 * 64)
    head = 2 * 64 + 64 * 10 + 10
    assert sum(p.numel() for p in on_meta("wrn16_1").parameters()) == stem + first + second + third + head


def test_resnet18_has_4800_batchnorm_channels() -> None:
    assert sum(m.num_features for m in on_meta("resnet18").modules() if isinstance(m, nn.BatchNorm2d)) == 4800


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_parameters_have_their_usual_names(name: str, expected: tuple[str, ...]) -> None:
    assert set(expected) <= on_meta(name).state_dict().keys()


def test_only_equal_shapes_pass_through_a_bare_shortcut() -> None:
    """With all convolutions silenced, a residual block of unchanged shape is the identity after its ReLU."""
    block = ZOO["resnet20"]().eval().get_submodule("layer1.0")
    for parameter in block.parameters():
        parameter.data.zero_()
    images = torch.rand(1, 16, 8, 8)
    assert torch.equal(block(images), images)
