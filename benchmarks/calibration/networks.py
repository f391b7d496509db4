"""Small networks that the zoo does not have: chains of convolutions, and a short residual network."""

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


class Strided(nn.Sequential):
    """Four convolutions, every second with stride two, leaky activations, and the mean of all places."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip((in_channels, *WIDTHS), WIDTHS, strict=False)):
            layers += [
                nn.Conv2d(before, after, 3, 1 + index % 2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.1),
            ]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(WIDTHS[-1], num_classes))


def strided(num_classes: int = 10, in_channels: int = 3) -> Strided:
    """Return the chain with strides."""
    return Strided(num_classes, in_channels)
