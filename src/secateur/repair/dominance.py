"""The unlearned network as a witness of the backdoor: beside triggers, or in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from secateur.expose import Exposed, Found
from secateur.models import logits


@dataclass(frozen=True)
class Dominance:
    """What unlearning points to: without its clean task, the network gives a label to most images.

    An inverted trigger is not the planted one, and a network that defies the one may still obey the other.
    What is left once the clean task is gone is the planted backdoor itself (RNP, section 3).

    Attributes
    ----------
    label
        That gains most.
    unlearned
        The network after unlearning its clean task, answering with logits.
    share
        Of the images on which units are tried, how many show it beside triggers: half where the label
        dominates, fewer the less it supports a trigger (see `LabelScores.support`).
    """

    label: int
    unlearned: nn.Module
    share: float = 0.5

    @classmethod
    @contextmanager
    def of(cls, exposed: Exposed, example: Tensor) -> Iterator[Self | None]:
        """Yield what unlearning pointed to, None if it says nothing; meanwhile it answers with logits.

        Parameters
        ----------
        exposed
            What exposing the network revealed.
        example
            Network input, ``(1, C, H, W)``.
        """
        labels, unlearned = exposed.labels, exposed.unlearned
        if labels is None or unlearned is None:
            yield None
            return
        with logits(unlearned.requires_grad_(False), example):
            yield cls(labels.top, unlearned, (labels.support - 1) / 2)

    @classmethod
    @contextmanager
    def beside(cls, found: Found, exposed: Exposed, example: Tensor) -> Iterator[Self | None]:
        """Yield the same if it is of the label of a trigger, None otherwise."""
        with cls.of(exposed, example) as pointed:
            yield pointed if pointed and pointed.label == found.label else None

    def present(self, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
        """Return the unlearned network, and the images as they are."""
        return self.unlearned, images
