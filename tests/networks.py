"""Networks that every part must work on, with the units that they have by their published layer lists."""

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from secateur.models.zoo import ZOO

SHARED = Path(__file__).resolve().parents[2] / "shared" / "checkpoints" / "architectures.py"


@dataclass(frozen=True)
class Case:
    """A network, the shape of one input without the batch axis, and its units by kind."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    units: dict[str, int]

    def network(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Build the network in evaluation mode, with nothing left at a value that hides mistakes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.build().to(dtype)
            randomise(network)
        return network.eval()

    def batch(self, seed: int = 0, size: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(size, *self.shape, generator=generator, dtype=dtype)


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Give norms random statistics, and random values to parameters that are constant at the start."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in network.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            parameter.uniform_(0.5, 1.5) if parameter.dim() == 1 else parameter.normal_(0, 0.2)


def _densenet_channels() -> int:
    channels, total = 64, 64
    for number, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            total += channels + 4 * 32
            channels += 32
        total += channels
        if number < 3:
            channels //= 2
    return total


def _mobilenet_v3_small() -> dict[str, int]:
    blocks = [(16, 16, 8), (72, 24, 0), (88, 24, 0), (96, 40, 24), (240, 40, 64), (240, 40, 64)]
    blocks += [(120, 48, 32), (144, 48, 40), (288, 96, 72), (576, 96, 144), (576, 96, 144)]
    norms, width = 16 + 576, 16
    for expanded, out, _ in blocks:
        norms += (expanded if expanded != width else 0) + expanded + out
        width = out
    return {"norm": norms, "conv": sum(squeezed for *_, squeezed in blocks), "linear": 1024}


def _efficientnet_b0() -> dict[str, int]:
    stages = [(1, 16, 1), (6, 24, 2), (6, 40, 2), (6, 80, 3), (6, 112, 3), (6, 192, 4), (6, 320, 1)]
    norms, squeezed, width = 32 + 1280, 0, 32
    for expansion, out, repeats in stages:
        for _ in range(repeats):
            expanded = width * expansion
            norms += (expanded if expansion > 1 else 0) + expanded + out
            squeezed += width // 4
            width = out
    return {"norm": norms, "conv": squeezed}


def _mobilenet_v2() -> int:
    stages = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    projected = 16 + 24 + 96 + 320  # stride 1 and another width: the shortcut has a norm as well
    total, width = 32 + 1280 + projected, 32
    for expansion, out, repeats in stages:
        for _ in range(repeats):
            total += 2 * expansion * width + out
            width = out
    return total


def _preact(widths: tuple[int, ...], blocks: int, stem: int) -> int:
    """Each block normalises its input and its hidden channels."""
    total, width = 0, stem
    for out in widths:
        total += width + out + (blocks - 1) * 2 * out
        width = out
    return total


def _small_head(network: nn.Module) -> nn.Module:
    """Keep a VGG's two hidden linear layers, but not their hundred million weights."""
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Sequential(
        *(nn.Linear(512, 24), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(24, 16), nn.ReLU(inplace=True), nn.Dropout()),
        nn.Linear(16, 10),
    )
    return network


def _vgg(name: str) -> nn.Module:
    layers = {"vgg11": "A", "vgg16_bn": "D"}[name]
    features = models.vgg.make_layers(models.vgg.cfgs[layers], batch_norm=name.endswith("_bn"))
    return _small_head(models.VGG(features, num_classes=1, init_weights=False))


def _shared(name: str) -> Callable[[], nn.Module]:
    return lambda: runpy.run_path(str(SHARED))[name]()


IMAGE = (3, 32, 32)
TORCHVISION = [
    Case("torchvision:resnet18", models.resnet18, IMAGE, {"norm": 64 * 5 + (128 + 256 + 512) * 5}),
    Case("torchvision:vgg16_bn", lambda: _vgg("vgg16_bn"), IMAGE, {"norm": 4224, "linear": 40}),
    Case("torchvision:vgg11", lambda: _vgg("vgg11"), IMAGE, {"conv": 64 + 128 + 512 + 2048, "linear": 40}),
    Case("torchvision:mobilenet_v3_small", models.mobilenet_v3_small, IMAGE, _mobilenet_v3_small()),
    Case("torchvision:densenet121", models.densenet121, IMAGE, {"norm": _densenet_channels()}),
    Case("torchvision:efficientnet_b0", models.efficientnet_b0, IMAGE, _efficientnet_b0()),
    Case(
        "torchvision:convnext",
        lambda: ConvNeXt([CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)], layer_scale=0.7),
        IMAGE,
        {"linear": 4 * (16 * 2 + 24)},
    ),
    Case(
        "torchvision:vit",
        lambda: models.VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=10),
        IMAGE,
        {"heads": 2 * 4, "linear": 2 * 48},
    ),
]
TIMM = [
    Case("timm:resnet18", lambda: timm.create_model("resnet18"), IMAGE, {"norm": 4800}),
    Case(
        "timm:convnext_atto",
        lambda: timm.create_model("convnext_atto", ls_init_value=0.7),
        IMAGE,
        {"conv": 4 * (40 * 2 + 80 * 2 + 160 * 6 + 320 * 2)},
    ),
    Case(
        "timm:vit_tiny",
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2),
        IMAGE,
        {"heads": 2 * 3, "linear": 2 * 768},
    ),
    Case(
        "timm:swin",
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(1, 1), num_heads=(2, 4)
        ),
        IMAGE,
        {"heads": 2 + 4, "linear": 4 * (96 + 192)},
    ),
]
OURS = [
    Case("preact_resnet18", ZOO["preact_resnet18"], IMAGE, {"norm": _preact((64, 128, 256, 512), 2, 64)}),
    Case("wrn16_1", ZOO["wrn16_1"], IMAGE, {"norm": _preact((16, 32, 64), 2, 16) + 64}),
    Case("mobilenet_v2", ZOO["mobilenet_v2"], IMAGE, {"norm": _mobilenet_v2()}),
]
PUBLISHED = [
    Case("shared:wrn16_1", _shared("wrn16_1"), IMAGE, {"norm": _preact((16, 32, 64), 2, 16) + 64}),
    Case("shared:smallvgg_cifar10", _shared("smallvgg_cifar10"), IMAGE, {"norm": 2 * (32 + 64 + 128)}),
    Case("shared:smallvgg_gtsrb", _shared("smallvgg_gtsrb"), IMAGE, {"norm": 2 * (32 + 64 + 128)}),
    Case("shared:cnn_mnist", _shared("cnn_mnist"), (1, 28, 28), {"conv": 16 + 32, "linear": 512}),
    Case("shared:cnn_cifar10", _shared("cnn_cifar10"), IMAGE, {"conv": 16 + 32, "linear": 512}),
    Case("shared:resnet20", _shared("resnet20"), IMAGE, {"norm": 16 + 6 * (16 + 32 + 64)}),
]


ALL = [pytest.param(case, id=case.name) for case in TORCHVISION + TIMM + OURS] + [
    pytest.param(
        case, id=case.name, marks=pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")
    )
    for case in PUBLISHED
]
"""Every network as a pytest parameter; those of the shared folder are skipped where it is absent."""
