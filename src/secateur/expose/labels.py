"""Label detection: which class takes the answers that a network loses while it forgets its clean task."""

import statistics
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.expose.triggers import CONSISTENT, TINY
from secateur.expose.unlearning import Exposure
from secateur.models import last_layer

DOMINANT = 0.5
"""A label that gains more than this part of all lost answers dominates."""
MOVED = 3.5
"""A row of the last layer moved apart if its movement is an outlier by more than this (ULRL's bound)."""
FEWEST_CLASSES = 3
"""Of two classes, one gains whatever the other loses."""
FEWEST_ROWS = 5
"""Among fewer rows none is an outlier."""


@dataclass(frozen=True)
class LabelScores:
    """What unlearning says of each class.

    Attributes
    ----------
    gained
        ``(K,)``, each at most 1: of the answers that are no longer right, the part that goes to the class
        beyond what it loses itself. An average over the path of unlearning, in which every answer that is
        lost on the way counts once, so that it does not depend on the pace or on where the path ends.
        All together add up to 0, and each is 0 if errors are spread as the images are.
    moved
        ``(K,)``, how far the class's row of the last layer moved, in robust standard deviations beyond the
        median row (ULRL, arXiv 2405.14781); None if there is no such layer, or too few rows.
    """

    gained: tuple[float, ...]
    moved: tuple[float, ...] | None

    @property
    def top(self) -> int:
        """The class that gains most."""
        return max(range(len(self.gained)), key=self.gained.__getitem__)

    @property
    def score(self) -> float:
        """How much that class gains; comparable between numbers of classes."""
        return self.gained[self.top]

    @property
    def strength(self) -> float:
        """That score as a multiple of the one beyond which a label dominates."""
        return self.score / DOMINANT

    @property
    def support(self) -> float:
        """What the strength of a trigger for `top` is multiplied by, from 1 to 2 for a label that dominates.

        It grows with the square of the score: most clean networks give up to a third of what they lose to
        some class.
        """
        if len(self.gained) < FEWEST_CLASSES:
            return 1.0
        return 1.0 + min(1.0, max(0.0, self.strength)) ** 2

    @property
    def label(self) -> int | None:
        """That class, if it dominates; None says that no label does.

        Backdoors that send each class elsewhere, or that act on images of few classes, have none.
        """
        return self.top if self.score > DOMINANT and len(self.gained) >= FEWEST_CLASSES else None

    @property
    def seconded(self) -> bool | None:
        """Whether the row of `top` moved apart, and farthest; None if that is not known."""
        if self.moved is None:
            return None
        return self.moved[self.top] == max(self.moved) > MOVED


def score_labels(
    exposure: Exposure, network: nn.Module, unlearned: nn.Module, example: Tensor
) -> LabelScores | None:
    """Score each class by what unlearning did.

    Parameters
    ----------
    exposure
        What unlearning recorded.
    network, unlearned
        The network before and after.
    example
        Network input, ``(N, C, H, W)``, on the device of `network`.

    Returns
    -------
    LabelScores or None
        None if unlearning diverged or no answer was lost.
    """
    if not exposure.finite:
        return None
    images = sum(exposure.labels)
    gained = [0.0] * len(exposure.labels)
    lost, lowest = 0.0, exposure.accuracy
    for accuracy, answers in zip(exposure.accuracies, exposure.path, strict=True):
        weight = max(0.0, lowest - accuracy)
        lowest = min(lowest, accuracy)
        lost += weight * (exposure.accuracy - accuracy)
        for label, (now, once) in enumerate(zip(answers, exposure.began, strict=True)):
            gained[label] += weight * (now - once) / images
    if lost <= 0:
        return None
    return LabelScores(
        tuple(gain / lost for gain in gained), _moved(network, unlearned, example, len(gained))
    )


def _moved(
    network: nn.Module, unlearned: nn.Module, example: Tensor, classes: int
) -> tuple[float, ...] | None:
    """Return by how much each row of the last layer moved apart."""
    name = last_layer(network, example)
    if name is None:
        return None
    before, after = (_weight(found, name) for found in (network, unlearned))
    if len(before) != classes or classes < FEWEST_ROWS:
        return None
    moves = (after - before).flatten(1).abs().sum(1).tolist()
    middle = statistics.median(moves)
    spread = CONSISTENT * statistics.median(abs(move - middle) for move in moves)
    return tuple((move - middle) / max(spread, TINY) for move in moves)


def _weight(network: nn.Module, name: str) -> Tensor:
    # Not a parameter itself where it is put together from others.
    weight = network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()
