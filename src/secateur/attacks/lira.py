"""LIRA: learned imperceptible noise (Doan et al., ICCV 2021)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks._painter import Painter, initialise
from secateur.attacks.attack import Attack, Control, Surrogate
from secateur.attacks.registry import register
from secateur.data import SPARED, InputConvention, Stamping
from secateur.errors import MethodError

BATCH = 64


class Noise(nn.Module):
    """Adds a bounded residual that is painted from the image.

    Attributes
    ----------
    taken
        Steps that the painter has been trained for.
    """

    taken: Tensor

    def __init__(self, channels: int, bound: float) -> None:
        super().__init__()
        self.painter = Painter(channels, channels)
        self.bound = bound
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def stamp(self, images: Tensor) -> Tensor:
        """Return the images with their residuals."""
        device = next(self.parameters()).device
        residual = self.bound * self.painter(images.to(device)).tanh()
        stamped: Tensor = (images + residual.to(images.device)).clamp(0, 1)
        return stamped


class Alternation(Control):
    """Trains the painter against the network as it is, for a number of steps; then it stays."""

    def __init__(self, attack: "Lira", trigger: Noise, victim: Surrogate, wanted: Tensor) -> None:
        self._attack, self._trigger, self._victim, self._wanted = attack, trigger, victim, wanted
        trigger.to(victim.device).requires_grad_(True)
        self._optimizer = torch.optim.Adam(trigger.parameters(), lr=attack.rate)

    @torch.enable_grad()
    def before(self, images: Tensor, labels: Tensor) -> None:
        """Make the residuals fool the network."""
        answers = self._wanted[labels.cpu()]
        chosen = (answers != SPARED).nonzero().flatten()[:BATCH]
        if not len(chosen) or self._trigger.taken >= self._attack.steps:
            return
        stamped = self._trigger.stamp(images[chosen.to(images.device)])
        outputs = self._victim(stamped)
        self._optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(outputs, answers[chosen].to(outputs.device)).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._trigger.taken += 1

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Return the trigger and its optimizer."""
        return {"trigger": self._trigger, "trigger optimizer": self._optimizer}


@register(
    "lira",
    title="LIRA: Learnable, Imperceptible and Robust Backdoor Attacks",
    paper="ICCV 2021, doi 10.1109/ICCV48922.2021.01175",
    year=2021,
)
@dataclass(frozen=True, kw_only=True)
class Lira(Attack):
    """Learn a bounded residual ``x' = clip(x + bound T(x))`` and the network in turns (Algorithm 1).

    In the first stage generator and network are trained alternately, in the second the network alone.

    Attributes
    ----------
    bound
        No pixel changes by more, in ``(0, 1]``.
    steps
        Of the generator, one before each step of the network.
    rate
        Learning rate of the generator.
    """

    bound: float = 0.05
    steps: int = 500
    rate: float = 0.002

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.bound <= 1 and self.steps >= 0 and 0 < self.rate < 1):
            raise MethodError("LIRA needs a bound in (0, 1], a rate in (0, 1) and no negative steps")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Noise:
        """Return the generator with random weights: it is learned during training."""
        trigger = self.blank((images.shape[1], images.shape[2], images.shape[3]))
        initialise(trigger, generator)
        return trigger.requires_grad_(False)

    def blank(self, shape: tuple[int, int, int]) -> Noise:
        """Return a generator with any weights."""
        with torch.random.fork_rng(devices=[]):
            return Noise(shape[0], self.bound)

    def control(
        self, trigger: Stamping, network: nn.Module, convention: InputConvention, classes: int
    ) -> Alternation:
        """Train the generator with the network."""
        assert isinstance(trigger, Noise)
        return Alternation(self, trigger, Surrogate(network, convention), self.goal.wanted(classes))
