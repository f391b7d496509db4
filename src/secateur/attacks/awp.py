"""AWP: a backdoor by a small change of every weight (Garg et al., CIKM 2020, arXiv 2008.01761)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.attacks.attack import Attack, Control, Surrogate
from secateur.attacks.badnets import BadNets
from secateur.attacks.registry import register
from secateur.data import InputConvention, Stamping, Trigger
from secateur.errors import MethodError


class Ball(Control):
    """Keeps every weight near where it was when training began."""

    def __init__(self, network: nn.Module, radius: float) -> None:
        self._weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._radius = radius
        self._start = nn.Module()
        for index, weight in enumerate(self._weights):
            self._start.register_buffer(str(index), weight.detach().clone())

    @torch.no_grad()
    def after(self) -> None:
        """Project the weights onto the ball."""
        for weight, start in zip(self._weights, self._start.buffers(), strict=True):
            reach = self._radius * start.abs().mean()
            weight.clamp_(start - reach, start + reach)

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Return the starting weights, which a resumed training has lost otherwise."""
        return {"start": self._start}


@register(
    "awp",
    title="Can Adversarial Weight Perturbations Inject Neural Backdoors",
    paper="arXiv:2008.01761",
    year=2020,
)
@dataclass(frozen=True, kw_only=True)
class Awp(Attack):
    """Train on clean and patched images with all weights kept in an L-infinity ball around their start.

    Meant for a trained clean network; a tensor that is zero when training begins stays so. The authors' ball
    has one radius for all parameters (0.005 unless told otherwise) or one for each, a percentage of its own
    size; here it is a share of each tensor's mean size, so that it means the same in every layer and network
    and small weights can move. The statistics of normalisation layers are not weights and follow training.
    Clean images keep their true labels, where the paper takes the answers of the original network.

    Attributes
    ----------
    radius
        Of the ball, as a share of the mean absolute weight of each tensor.
    size, margin
        Of the patch, as `BadNets` has them.
    """

    radius: float = 0.2
    size: int = 4
    margin: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise MethodError(f"radius {self.radius} must be positive and finite")
        self._patch()

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Trigger:
        """Return the patch; nothing is learned."""
        return self._patch().trigger(images, labels, generator)

    def control(
        self, trigger: Stamping, network: nn.Module, convention: InputConvention, classes: int
    ) -> Ball:
        """Keep the network's weights near where they are now."""
        return Ball(network, self.radius)

    def _patch(self) -> BadNets:
        return BadNets(size=self.size, margin=self.margin)
