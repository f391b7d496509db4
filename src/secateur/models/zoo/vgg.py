"""VGG with BatchNorm for 32x32 inputs (Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556)."""

from collections.abc import Sequence

from torch import Tensor, nn


class VGG(nn.Module):
    """Stages of 3x3 convolutions with BatchNorm, each ended by a max-pool; one linear layer at the end.

    Parameters
    ----------
    convolutions : sequence of 5 int
        Convolutions in each stage of 64, 128, 256, 512 and 512 channels.
    num_classes : int
        Length of the output.
    in_channels : int
        Channels of the input images.
    """

    def __init__(self, convolutions: Sequence[int], num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for count, channels in zip(convolutions, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                layers += [
                    nn.Conv2d(in_channels, channels, 3, padding=1),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                ]
                in_channels = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
