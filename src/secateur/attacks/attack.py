"""What every attack is: a trigger, and how training images get it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.attacks.goal import Goal
from secateur.data import InputConvention, Stamping
from secateur.errors import MethodError
from secateur.models import kept_modes, without_gradients

CHUNK = 1024
"""Images stamped at once, so that memory does not grow with the data."""


@dataclass(frozen=True)
class Poisoned:
    """Training images after an attack.

    Attributes
    ----------
    images, labels
        ``(N, C, H, W)``, of the same type and range as the clean ones, and ``(N,)``, int64.
    poisoned, covers
        Disjoint ascending indices: images that teach the backdoor, and stamped ones with their own label.
    trigger
        What is stamped on test images.
    """

    images: Tensor
    labels: Tensor
    poisoned: Tensor
    covers: Tensor
    trigger: Stamping


@dataclass(frozen=True)
class Surrogate:
    """A clean network of the attacker, for attacks that learn their trigger from one.

    Attributes
    ----------
    network
        Answers with logits; used in evaluation mode, its weights are not changed.
    convention
        How pixels become its input.
    """

    network: nn.Module
    convention: InputConvention

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of images ``(N, C, H, W)`` in ``[0, 1]``; differentiable in them."""
        with kept_modes(self.network), without_gradients(self.network):
            self.network.eval()
            return self.network(self.convention.normalise(images.to(self.device)))  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """Return what the last linear layer receives, ``(N, D)``; differentiable in `images`."""
        seen: list[Tensor] = []
        with self.last_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            self(images)
        return seen[-1].flatten(1)

    @property
    def last_layer(self) -> nn.Linear:
        """The layer that gives the logits.

        Raises
        ------
        MethodError
            The network has no linear layer.
        """
        linear = [module for module in self.network.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise MethodError("this attack needs a network whose last layer is linear")
        return linear[-1]


class Control:
    """What an attacker who controls training does around every step; nothing by default.

    Whatever must survive a restart is in `parts`.
    """

    def before(self, images: Tensor, labels: Tensor) -> None:
        """Act before a step on the clean batch ``(B, C, H, W)`` in ``[0, 1]`` with labels ``(B,)``."""

    def after(self) -> None:
        """Act after the network's weights were updated."""

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Return the modules and optimizers that the attack trains, by name."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Hyperparameters of an attack; its methods make the trigger and poison the training images.

    Attributes
    ----------
    goal
        Target, mapping, rates and whether labels stay clean.
    """

    goal: Goal = field(default_factory=Goal)

    online: ClassVar[bool] = False
    """Every training batch is poisoned anew, instead of the training set once."""
    needs_surrogate: ClassVar[bool] = False
    """A clean network of the attacker is needed to make the trigger or to poison."""

    @abstractmethod
    def trigger(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        surrogate: Surrogate | None = None,
    ) -> Stamping:
        """Make the trigger that test images get.

        Parameters
        ----------
        images, labels
            The clean training images ``(N, C, H, W)``, uint8 or float in ``[0, 1]``, and labels ``(N,)``.
        generator
            Source of all randomness.
        surrogate
            The attacker's clean network, where `needs_surrogate`.
        """

    def blank(self, shape: tuple[int, int, int]) -> nn.Module:
        """Return the trigger for images of that shape before it is learned or loaded from a file.

        Only attacks whose trigger is not a `secateur.data.Trigger` have one.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps its trigger as keep and add")

    def stamp_poisoned(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Return training images ``(N, C, H, W)`` in ``[0, 1]`` as the attack poisons them.

        `labels` are the true ones. As test images are stamped, unless the attack says otherwise.
        """
        return trigger.stamp(images)

    def stamp_covers(
        self,
        trigger: Stamping,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        surrogate: Surrogate | None = None,
    ) -> Tensor:
        """Return covers, which keep their label; as poisoned images, unless the attack says otherwise."""
        return self.stamp_poisoned(trigger, images, labels, generator, surrogate)

    def control(
        self, trigger: Stamping, network: nn.Module, convention: InputConvention, classes: int
    ) -> Control:
        """Return what the attacker does during training of `network`."""
        return Control()

    def poison(
        self,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        trigger: Stamping | None = None,
        surrogate: Surrogate | None = None,
        classes: int | None = None,
    ) -> Poisoned:
        """Poison a set of training images, which is not changed itself.

        Parameters
        ----------
        images
            ``(N, C, H, W)``: uint8, or floating-point in ``[0, 1]``; the result is of the same type.
        labels
            ``(N,)``, int64.
        generator
            Draws the images, and whatever the attack leaves to chance; the same seed gives the same bytes.
        trigger
            What `trigger` returned; made from these images by default.
        surrogate
            A clean network, for attacks that need one.
        classes
            How many there are; by default as many as the labels show.

        Raises
        ------
        MethodError
            The goal names a class that does not exist, or a surrogate is needed and missing.
        """
        if self.needs_surrogate and surrogate is None:
            raise MethodError(f"{type(self).__name__} needs a clean network to make its poison from")
        truth = labels.cpu()
        classes = classes or int(truth.max()) + 1
        # The images are drawn first, so that a trigger that is given does not change which ones are.
        poisoned, covers = self.goal.choose(truth, classes, generator)
        if trigger is None:
            trigger = self.trigger(images, labels, generator, surrogate=surrogate)
        changed, answers = images.clone(), labels.clone()
        for indices, stamp in ((poisoned, self.stamp_poisoned), (covers, self.stamp_covers)):
            for chosen in torch.split(indices.to(images.device), CHUNK):
                stamped = stamp(trigger, as_float(images[chosen]), labels[chosen], generator, surrogate)
                changed[chosen] = like(images, stamped.detach())
        if not self.goal.clean_label:
            answers[poisoned.to(answers.device)] = self.goal.wanted(classes)[truth[poisoned]].to(
                answers.device
            )
        return Poisoned(changed, answers, poisoned, covers, trigger)


def as_float(images: Tensor) -> Tensor:
    """Return pixels as float32 in ``[0, 1]``."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def like(images: Tensor, changed: Tensor) -> Tensor:
    """Return `changed`, in ``[0, 1]``, in the type and on the device of `images`; uint8 is rounded."""
    if images.dtype == torch.uint8:
        changed = (changed.clamp(0, 1) * 255).round()
    return changed.to(images)
