"""Cognitive distillation: the smallest part of an image that keeps the answer (Huang et al., ICLR 2023)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose.samples.detector import Scorer, register
from secateur.models import kept_modes, without_gradients
from secateur.progress import Progress

VALUES_PER_PASS = 1 << 20
"""Values of images whose masks are learned at once: a pass with gradients keeps every activation."""


@register(
    "distillation",
    title="Distilling Cognitive Backdoor Patterns within an Image",
    paper="arXiv:2301.10908",
    year=2023,
)
@dataclass(frozen=True)
class Distillation:
    """Fade out what an answer does not need: of a triggered image, little more than the trigger stays.

    For each image ``x``, Adam finds the mask ``m = (tanh(w) + 1) / 2``, ``(1, H, W)``, that minimises
    ``|f(x') - f(x)| + sparsity * sum(m) + smoothness * TV(m)`` for ``x' = m * x + (1 - m) * c`` with a random
    colour ``c`` in every step. As in the published code, ``|.|`` is the mean
    absolute difference over the logits, of the paper's two variants the one that needs no features, ``TV`` is
    the mean squared difference of neighbours, and ``w`` starts at 1. The score is the mean of the mask with
    a minus: in ``[-1, 0]``, and comparable between image sizes.

    The published code draws a colour for each image; here all images share those of a step, and the sum of
    their losses is minimised instead of the mean. So no image's mask depends on which others there are.

    Attributes
    ----------
    steps
        Of Adam.
    rate
        Of Adam.
    sparsity
        Weight of the sum of the mask (alpha in the paper), above 0.
    smoothness
        Weight of the variation between neighbouring pixels of the mask (beta in the paper).
    """

    steps: int = 100
    rate: float = 0.1
    sparsity: float = 0.01
    smoothness: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rate <= 0 or self.sparsity <= 0 or self.smoothness < 0:
            raise MethodError("distillation needs a step, rate > 0, sparsity > 0 and smoothness >= 0")

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        sample: Iterable[tuple[Tensor, Tensor]],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Scorer:
        """Draw the colours."""
        convention = clean.convention
        colours = torch.rand(self.steps, convention.channels, 1, 1, generator=generator)

        def score(images: Tensor, labels: Tensor) -> Tensor:
            size = max(1, VALUES_PER_PASS // images[0].numel()) if len(images) else 1
            return torch.cat([score_few(part) for part in torch.split(images, size)])

        def score_few(images: Tensor) -> Tensor:
            device = next(network.parameters()).device
            images = images.to(device)
            with kept_modes(network), without_gradients(network), torch.enable_grad():
                network.eval()
                wanted = network(convention.normalise(images)).detach()
                raw = torch.ones_like(images[:, :1]).requires_grad_()
                optimizer = torch.optim.Adam([raw], lr=self.rate, betas=(0.1, 0.1))
                for colour in colours.to(device):
                    mask = (raw.tanh() + 1) / 2
                    output = network(convention.normalise(mask * images + (1 - mask) * colour))
                    variation = mask.diff(dim=2).square().sum() + mask.diff(dim=3).square().sum()
                    loss = (
                        (output - wanted).abs().mean(1).sum()
                        + self.sparsity * mask.sum()
                        + self.smoothness * variation / mask[0].numel()
                    )
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
            return -((raw.detach().tanh() + 1) / 2).mean((1, 2, 3)).cpu()

        return score
