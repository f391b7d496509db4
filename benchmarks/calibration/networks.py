"""Two small networks that the zoo does not have: a chain of convolutions, with and without normalisation."""

from torch import Tensor, nn

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
