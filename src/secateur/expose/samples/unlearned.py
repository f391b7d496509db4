"""How firmly an answer stands while the clean task is unlearned (after Li et al., ICML 2023)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.data import CleanData, LabelledImages
from secateur.errors import InconclusiveError, MethodError
from secateur.expose.exposing import GENTLE
from secateur.expose.samples.detector import Scorer, register
from secateur.expose.unlearning import Unlearning, predict
from secateur.models import duplicate
from secateur.progress import Progress


@register(
    "unlearned",
    title="Reconstructive Neuron Pruning for Backdoor Defense",
    paper="arXiv:2305.14876",
    year=2023,
)
@dataclass(frozen=True)
class Unlearned:
    """Unlearn the clean task and see which answers stand: those that a trigger gives are not forgotten.

    RNP's authors say that the unlearned network exposes backdoored samples and give no score. Here a copy of
    the network is unlearned, and kept whenever its clean accuracy has fallen to the next of `levels`. The
    score of an image is the margin of its label, its logit less the largest of the others, averaged over
    these networks. At the end of the path nearly every image is answered with the target label, so that
    images of that class stand too; what is left of the clean task on the way tells them from triggered ones.

    Attributes
    ----------
    unlearning
        How the clean task is unlearned.
    levels
        Parts of the first clean accuracy, falling, in ``(0, 1)``. The network at the end of unlearning is
        looked at as well.
    """

    unlearning: Unlearning = GENTLE
    levels: tuple[float, ...] = (0.8, 0.6, 0.4)

    def __post_init__(self) -> None:
        if not all(0 < level < 1 for level in self.levels) or list(self.levels) != sorted(
            self.levels, reverse=True
        ):
            raise MethodError(f"levels {self.levels} must be between 0 and 1 and fall")

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        sample: Iterable[tuple[Tensor, Tensor]],
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Scorer:
        """Unlearn a copy of the network.

        Raises
        ------
        InconclusiveError
            Unlearning diverged.
        """
        path = self._path(network, clean, generator, progress)

        def score(images: Tensor, labels: Tensor) -> Tensor:
            margins = [margin(predict(stage, images, clean.convention), labels) for stage in path]
            return torch.stack(margins).mean(0)

        return score

    def _path(
        self, network: nn.Module, clean: CleanData, generator: torch.Generator, progress: Progress
    ) -> list[nn.Module]:
        first = accuracy(network, clean.learn, clean)
        levels, path = list(self.levels), []
        work = duplicate(network).eval().requires_grad_(True)

        def watch(changed: nn.Module, reached: float) -> None:
            if levels and reached <= levels[0] * first:
                path.append(duplicate(changed))
                while levels and reached <= levels[0] * first:
                    del levels[0]

        exposure = self.unlearning(
            work, clean.learn, clean.convention, generator=generator, progress=progress, watch=watch
        )
        if not exposure.finite:
            raise InconclusiveError(
                "unlearning diverged, so that what stands of an answer tells nothing: choose another detector"
            )
        return [*path, work]


def accuracy(network: nn.Module, images: LabelledImages, clean: CleanData) -> float:
    """Return the share of images that a network answers with their label."""
    answers = predict(network, images.images, clean.convention).argmax(1)
    return float((answers == images.labels).double().mean())


def margin(output: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the logit of each label, ``(N,)``, exceeds the largest other one of ``(N, K)``."""
    own = output.gather(1, labels[:, None])
    return (own - output.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)).squeeze(1)
