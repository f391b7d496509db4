"""Small networks for 32x32 inputs, with the parameter names that published CIFAR checkpoints use."""

from collections.abc import Callable
from functools import partial

from torch import nn

from secateur.models.zoo.cifar_resnet import CifarResNet
from secateur.models.zoo.mobilenet import MobileNetV2
from secateur.models.zoo.preact_resnet import PreActResNet
from secateur.models.zoo.resnet import ResNet
from secateur.models.zoo.vgg import VGG
from secateur.models.zoo.wide_resnet import WideResNet

__all__ = ["VGG", "ZOO", "CifarResNet", "MobileNetV2", "PreActResNet", "ResNet", "WideResNet"]

ZOO: dict[str, Callable[..., nn.Module]] = {
    "mobilenet_v2": MobileNetV2,
    "preact_resnet18": partial(PreActResNet, (2, 2, 2, 2)),
    "preact_resnet34": partial(PreActResNet, (3, 4, 6, 3)),
    "resnet18": partial(ResNet, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, (3, 4, 6, 3)),
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
    "vgg19_bn": partial(VGG, (2, 2, 4, 4, 4)),
    **{
        f"wrn{depth}_{width}": partial(WideResNet, depth, width)
        for depth in (16, 28, 40)
        for width in (1, 2, 4, 8, 10)
    },
}
"""Each takes ``num_classes`` (10) and ``in_channels`` (3) by name."""
