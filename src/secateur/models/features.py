"""What the last layer of a network sees."""

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def answers_and_features(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the network's output, ``(N, K)``, and what the last layer with weights received, ``(N, D)``.

    Of a convolution, that is the mean over all places.

    The last layer is the linear layer or convolution that runs last; of a network that has none, the output
    stands for its features. Both are differentiable in `inputs`. Hooks are removed, also when the network
    raises.
    """
    received: list[Tensor] = []

    def remember(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        received[:] = arguments[:1]

    layers = [module for module in network.modules() if isinstance(module, nn.Linear | _ConvNd)]
    hooks = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        output: Tensor = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    features = received[0] if received else output
    return output, features.flatten(2).mean(2) if features.ndim > 2 else features
