"""STRIP: perturbing images by others and watching whether the answer stays (Gao et al., ACSAC 2019)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose.samples.detector import Scorer, register
from secateur.expose.unlearning import predict
from secateur.progress import Progress


@register(
    "strip",
    title="STRIP: A Defence Against Trojan Attacks on Deep Neural Networks",
    paper="arXiv:1902.06531",
    year=2019,
)
@dataclass(frozen=True)
class Strip:
    """Superimpose clean images: a trigger that shines through keeps the entropy of the answers low.

    The score is minus the entropy of the answers, averaged over `overlays` clean images (equation 4 of the
    paper, in nats), which are drawn once and are the same for all. The published code adds the two images as
    they are; here both have half their brightness, so that none is clipped.

    Attributes
    ----------
    overlays
        Clean images that are superimposed on each image.
    opacity
        Weight of the clean image in the sum, in ``(0, 1)``.
    """

    overlays: int = 32
    opacity: float = 0.5

    def __post_init__(self) -> None:
        if self.overlays < 1 or not 0 < self.opacity < 1:
            raise MethodError("STRIP needs at least one overlay and an opacity between 0 and 1")

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        sample: Iterable[tuple[Tensor, Tensor]],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Scorer:
        """Draw the overlays among the clean images."""
        images = clean.learn.images
        overlays = images[torch.randperm(len(images), generator=generator)[: self.overlays]]

        def score(images: Tensor, labels: Tensor) -> Tensor:
            total = torch.zeros(len(images))
            for overlay in overlays:
                mixed = (1 - self.opacity) * images + self.opacity * overlay
                log = predict(network, mixed, clean.convention).log_softmax(1)
                total += (log.exp() * log).sum(1)
            return total / len(overlays)

        return score
