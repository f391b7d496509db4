"""The architecture of the embedded specimen."""

from torch import nn

WIDTHS = (16, 32, 64, 96)


def specimen(num_classes: int = 10) -> nn.Sequential:
    """Return a small network for 28x28 grey images, with random weights.

    Four convolutions, each with batch normalisation; the first three halve the image.

    Parameters
    ----------
    num_classes
        Length of the output.

    Returns
    -------
    nn.Sequential
        Takes ``(N, 1, H, W)``, answers logits ``(N, num_classes)``.
    """
    network = nn.Sequential()
    channels = 1
    for number, width in enumerate(WIDTHS, start=1):
        network.add_module(f"conv{number}", nn.Conv2d(channels, width, 3, padding=1, bias=False))
        network.add_module(f"norm{number}", nn.BatchNorm2d(width))
        network.add_module(f"relu{number}", nn.ReLU())
        if number < len(WIDTHS):
            network.add_module(f"pool{number}", nn.MaxPool2d(2))
        channels = width
    network.add_module("average", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear", nn.Linear(channels, num_classes))
    return network
