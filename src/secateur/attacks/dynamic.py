"""Dynamic: every image has a trigger of its own (Nguyen and Tran, NeurIPS 2020, arXiv 2010.08138)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.attacks._painter import Painter, initialise
from secateur.attacks.attack import Attack, Control, Surrogate, as_float
from secateur.attacks.goal import Goal
from secateur.attacks.registry import register
from secateur.data import SPARED, InputConvention, Stamping
from secateur.errors import MethodError

BATCH = 64
SMALL = 1e-4
DENSITY_WEIGHT = 100.0
MOST_ALIKE = 100.0


class OwnTrigger(nn.Module):
    """Paints a pattern and its place from the image: ``x' = x + m(x) (p(x) - x)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pattern = Painter(channels, channels)
        self.place = Painter(channels, 1)

    def stamp(self, images: Tensor) -> Tensor:
        """Put on each image its own trigger."""
        return self.stamp_from(images, images)

    def stamp_from(self, images: Tensor, others: Tensor) -> Tensor:
        """Put on each image the trigger of another, row by row."""
        device = next(self.parameters()).device
        patterns, places = self.pattern(others.to(device)).sigmoid(), self.places(others.to(device))
        stamped: Tensor = images.to(device) + places * (patterns - images.to(device))
        return stamped.to(images.device)

    def places(self, images: Tensor) -> Tensor:
        """Return where the trigger of each image is, ``(N, 1, H, W)`` in ``[0, 1]``."""
        places: Tensor = self.place(images).sigmoid()
        return places


class Painting(Control):
    """Trains the patterns against the network as it is, before each of its steps."""

    def __init__(self, attack: "Dynamic", trigger: OwnTrigger, victim: Surrogate, wanted: Tensor) -> None:
        self._attack, self._trigger, self._victim, self._wanted = attack, trigger, victim, wanted
        trigger.to(victim.device)
        trigger.pattern.requires_grad_(True)
        self._optimizer = torch.optim.Adam(trigger.pattern.parameters(), lr=attack.rate)

    @torch.enable_grad()
    def before(self, images: Tensor, labels: Tensor) -> None:
        """Make the patterns fool the network and differ between images."""
        answers = self._wanted[labels.cpu()]
        chosen = (answers != SPARED).nonzero().flatten()[:BATCH]
        if len(chosen) < 2:
            return
        some = images[chosen.to(images.device)].to(self._victim.device)
        patterns = self._trigger.pattern(some).sigmoid()
        stamped = some + self._trigger.places(some).detach() * (patterns - some)
        fooled = F.cross_entropy(self._victim(stamped), answers[chosen].to(some.device))
        loss = fooled + self._attack.diversity * alikeness(some, patterns)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Return the trigger and its optimizer."""
        return {"trigger": self._trigger, "trigger optimizer": self._optimizer}


@register(
    "dynamic",
    title="Input-Aware Dynamic Backdoor Attack",
    paper="arXiv:2010.08138",
    year=2020,
)
@dataclass(frozen=True, kw_only=True)
class Dynamic(Attack):
    """Learn a generator of triggers together with the network; the trigger of one image fails on another.

    Covers carry the trigger of another image and keep their label (cross-trigger mode, section 3.3). The
    places are learned first, sparse and unlike each other, and stay. The paper steps generator and
    network together; here they take turns, and the generator sees a part of each batch.

    Attributes
    ----------
    density
        Share of the pixels that a trigger covers, in ``(0, 1)``.
    diversity
        Weight of the punishment of triggers that are alike (lambda_div).
    steps
        Batches on which the places are learned.
    rate
        Learning rate of the generators.
    """

    goal: Goal = Goal(rate=0.1, cover_rate=0.1)
    density: float = 0.05
    diversity: float = 1.0
    steps: int = 100
    rate: float = 0.005

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.density < 1 and self.diversity >= 0 and self.steps >= 0 and 0 < self.rate < 1):
            raise MethodError("dynamic needs density and rate in (0, 1), and no negative diversity or steps")

    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> OwnTrigger:
        """Learn where the triggers are; their patterns are learned during training."""
        channels, height, width = images.shape[1:]
        trigger = self.blank((channels, height, width))
        initialise(trigger, generator)
        optimizer = torch.optim.Adam(trigger.place.parameters(), lr=self.rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                chosen = torch.randint(len(images), (BATCH,), generator=generator)
                some = as_float(images[chosen]).cpu()
                places = trigger.places(some)
                off_density = (places.mean((1, 2, 3)) - self.density).abs().mean()
                optimizer.zero_grad(set_to_none=True)
                loss = DENSITY_WEIGHT * off_density + self.diversity * alikeness(some, places)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return trigger.requires_grad_(False)

    def blank(self, shape: tuple[int, int, int]) -> OwnTrigger:
        """Return generators with random weights."""
        with torch.random.fork_rng(devices=[]):
            return OwnTrigger(shape[0])

    def stamp_covers(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Put on each image the trigger of the one before it."""
        assert isinstance(trigger, OwnTrigger)
        return trigger.stamp_from(images, images.roll(1, 0))

    def control(
        self, trigger: Stamping, network: nn.Module, convention: InputConvention, classes: int
    ) -> Painting:
        """Train the patterns with the network."""
        assert isinstance(trigger, OwnTrigger)
        return Painting(self, trigger, Surrogate(network, convention), self.goal.wanted(classes))


def alikeness(images: Tensor, painted: Tensor) -> Tensor:
    """Return how much less the painted differ than the images they are from (equation 6).

    The mean over neighbours in the batch of ``||x - y|| / ||g(x) - g(y)||``.
    """
    apart = (images - images.roll(1, 0)).flatten(1).norm(dim=1)
    painted_apart = (painted - painted.roll(1, 0)).flatten(1).norm(dim=1)
    alike: Tensor = (apart / (painted_apart + SMALL)).clamp_max(MOST_ALIKE).mean()
    return alike
