"""Small networks that the zoo does not have: chains with and without normalisation, and two with blocks."""

from torch import Tensor, nn

from secateur.models.zoo.cifar_resnet import CifarResNet

WIDTHS = (32, 32, 64, 64)


class Chain(nn.Module):
    """Four convolutions, pooled after every second, and one linear layer."""

    def __init__(self, num_classes: int, in_channels: int, *, normalised: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip((in_channels, *WIDTHS), WIDTHS, strict=False)):
            layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not normalised))
            if normalised:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.ReLU())
            if index % 2:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.classifier = nn.Linear(4 * WIDTHS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def chain(num_classes: int = 10, in_channels: int = 3) -> Chain:
    """Return the chain with batch normalisation."""
    return Chain(num_classes, in_channels, normalised=True)


def plain_chain(num_classes: int = 10, in_channels: int = 3) -> Chain:
    """Return the chain without."""
    return Chain(num_classes, in_channels, normalised=False)


def resnet8(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """Return a residual network with one block in each stage."""
    return CifarResNet(8, num_classes, in_channels)


class Separable(nn.Sequential):
    """Convolutions by channel and across channels in turn, each with batch normalisation."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)]
        for index, (before, after) in enumerate(zip(WIDTHS, (*WIDTHS[1:], 128), strict=True)):
            stride = 1 + index % 2
            layers += [
                nn.BatchNorm2d(before),
                nn.ReLU(),
                nn.Conv2d(before, before, 3, stride, padding=1, groups=before, bias=False),
                nn.BatchNorm2d(before),
                nn.ReLU(),
                nn.Conv2d(before, after, 1, bias=False),
            ]
        layers += [nn.BatchNorm2d(128), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(128, num_classes))


def separable(num_classes: int = 10, in_channels: int = 3) -> Separable:
    """Return the network of separable convolutions."""
    return Separable(num_classes, in_channels)
