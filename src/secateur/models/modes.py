"""Changes to a network that last as long as a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(network: nn.Module) -> Iterator[None]:
    """Give every module its training mode back when the block ends, each for itself."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def without_gradients(network: nn.Module) -> Iterator[None]:
    """Compute no gradients for the network's weights while the block runs."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
