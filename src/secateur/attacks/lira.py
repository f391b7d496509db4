"""LIRA: a bounded perturbation drawn by a generator that learns with the classifier (ICCV 2021)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks._generator import Translator, attacked, descend, initialise, learning
from secateur.attacks.attack import Attack, Control, Surrogate
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import InputConvention, Stamping
from secateur.errors import MethodError

LEARNING_RATE = 1e-3


class Perturbation(nn.Module):
    """What a generator adds to each image.

    Attributes
    ----------
    network
        From an image to a perturbation of the same shape.
    bound
        Largest change of a pixel, in ``(0, 1]``.
    """

    def __init__(self, channels: int, bound: float) -> None:
        super().__init__()
        self.network = Translator(channels, channels)
        self.bound = bound

    def forward(self, images: Tensor) -> Tensor:
        """Return ``clip(x + bound * tanh(g(x)))``, on the device of the network."""
        images = images.to(self.network.device)
        return (images + self.bound * self.network(images).tanh()).clamp(0, 1)  # type: ignore[no-any-return]

    def stamp(self, images: Tensor) -> Tensor:
        """Return the perturbed images, same shape and device."""
        return self(images).to(images.device)  # type: ignore[no-any-return]


class _Joint(Control):
    """Stage I: a step of the generator before each of the classifier, as many as `attack.steps`."""

    def __init__(self, attack: "Lira", trigger: Perturbation, classifier: Surrogate, classes: int) -> None:
        self.attack, self.classifier, self.classes = attack, classifier, classes
        self.trigger = trigger.to(classifier.device)
        self.optimizer = torch.optim.Adam(trigger.parameters(), LEARNING_RATE)

    def before(self, images: Tensor, labels: Tensor) -> None:
        if self._taken() >= self.attack.steps:
            return
        images, _, wanted = attacked(images, labels, self.attack.goal, self.classes)
        if len(images):
            with learning(self.trigger):
                logits = self.classifier(self.trigger(images))
                descend(self.optimizer, F.cross_entropy(logits, wanted.to(logits.device)))

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"trigger": self.trigger, "trigger_optimizer": self.optimizer}

    def _taken(self) -> int:
        # The optimizer counts, so that the count survives a restart.
        state = next(iter(self.optimizer.state.values()), {"step": 0})
        return int(state["step"])


@register(
    "lira",
    title="LIRA: Learnable, Imperceptible and Robust Backdoor Attacks",
    paper="ICCV 2021",
    year=2021,
)
@dataclass(frozen=True, kw_only=True)
class Lira(Attack):
    """Learn a bounded perturbation of each image together with the classifier, then freeze it.

    The generator T descends L(f(T(x)), wanted) with f fixed, and alternates with steps of f on clean and
    triggered images (the constrained problem and two stages of section 3). The paper weighs clean and
    triggered loss equally, which half of each batch poisoned amounts to. Unlike the paper's, the generator
    is one network (the paper keeps a delayed copy for the classifier), is trained with Adam on up to 32
    images of each batch, and the classifier's schedule does not start again in stage II.

    Attributes
    ----------
    bound
        Largest change of a pixel on the scale of ``[0, 1]`` (epsilon).
    steps
        Steps of stage I; in later ones the generator is frozen (stage II).
    """

    goal: Goal = Goal(rate=0.5)
    bound: float = 0.1
    steps: int = 500

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.bound <= 1 or self.steps < 1:
            raise MethodError("LIRA needs a bound in (0, 1] and at least one step")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Perturbation:
        """Draw the generator's first weights; it learns during training."""
        _, channels, height, width = images.shape
        trigger = self.blank((channels, height, width))
        initialise(trigger, generator)
        return trigger

    def blank(self, shape: tuple[int, int, int]) -> Perturbation:
        """Return a generator that has learned nothing."""
        return Perturbation(shape[0], self.bound)

    def control(
        self, trigger: Stamping, network: nn.Module, convention: InputConvention, classes: int
    ) -> Control:
        """Return stage I and II."""
        assert isinstance(trigger, Perturbation)
        return _Joint(self, trigger, Surrogate(network, convention), classes)
