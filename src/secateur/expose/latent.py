"""Inverting latent triggers: the smallest shift of early channels that sends all images to a candidate label.

A trigger that is spread over the image has no small mask, but the network still recognises it by few
channels. Looking for it there needs no idea of what it does to pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from secateur.data import InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.expose.triggers import SLACK, images_of_others
from secateur.expose.unlearning import predict
from secateur.models import Precision, autocast, check_precision, duplicate
from secateur.progress import Progress, Silent
from secateur.units import UnitLayer

EARLY = 0.5
"""Part of the norms, in order, that are shifted: in late ones every class is a small shift away."""
SPREAD = 0.01
"""Standard deviation of a start, in those of the channels: at zero the norm has no gradient."""


@dataclass(frozen=True)
class LatentTrigger:
    """The smallest shift found for one candidate label.

    Attributes
    ----------
    label
        The candidate.
    shifts
        What is added to each norm's bias, by the name of the parameter, each ``(channels,)``.
    norm
        Euclidean, of all shifts, each in standard deviations of its channel, as the norm's weight gives
        them.
    success
        Share of held-out images of other classes that the shifted network gives the label.
    converged
        Whether that share comes near what was asked for. If not, `norm` means nothing.
    """

    label: int
    shifts: Mapping[str, Tensor]
    norm: float
    success: float
    converged: bool

    @property
    def form(self) -> Literal["shift"]:
        """What kind of trigger it is."""
        return "shift"

    def present(self, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
        """Return a shifted copy of the network, and the images as they are."""
        shifted = duplicate(network)
        with torch.no_grad():
            for name, shift in self.shifts.items():
                parameter = shifted.get_parameter(name)
                parameter.add_(shift.to(parameter.device))
        return shifted, images

    def answers(self, network: nn.Module, images: Tensor, convention: InputConvention) -> Tensor:
        """Return what the network answers to the images once it is shifted."""
        inputs = convention.normalise(images.to(next(network.parameters()).device))
        moved = {
            name: network.get_parameter(name) + shift.to(inputs.device) for name, shift in self.shifts.items()
        }
        return shifted_answers(network, moved, inputs)


def shifted_answers(network: nn.Module, moved: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Return the output with other values for some parameters, by name; differentiable in them."""
    # Of a norm that has two names, torch would swap the bias twice and restore it once.
    output: Tensor = functional_call(network, dict(moved), (inputs,), tie_weights=False)
    return output


@dataclass(frozen=True)
class LatentInversion:
    """Minimise the loss of clean images towards a label together with the size of a shift of early channels.

    The biases of the first half of the norms are shifted, all images alike, in units of each channel's
    standard deviation; the loss is the cross-entropy towards the candidate plus a weight times the Euclidean
    norm of the shift. The weight rises while that succeeds and falls otherwise. That a backdoor is a shift of
    few channels, whatever it does to pixels, follows Adversarial Neuron Pruning (Wu & Wang, NeurIPS 2021),
    which disturbs them without a candidate label, and FeatureRE (Wang et al., NeurIPS 2022).

    Attributes
    ----------
    steps
        Of Adam, for each candidate.
    rate
        Of Adam, in standard deviations of a channel.
    batch_size
        Images per step.
    success
        The share of images that must answer the candidate, in ``(0, 1)``.
    weight
        Of the shift's norm at first, above 0.
    factor
        By which the weight rises or falls in one step, above 1.
    precision
        Of forward passes.
    """

    steps: int = 100
    rate: float = 0.05
    batch_size: int = 32
    success: float = 0.97
    weight: float = 1e-2
    factor: float = 1.1
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if min(self.steps, self.batch_size) < 1:
            raise MethodError("latent inversion needs at least one step and one image per batch")
        if self.rate <= 0 or self.weight <= 0 or self.factor <= 1 or not 0 < self.success < 1:
            raise MethodError("latent inversion needs rate > 0, weight > 0, factor > 1 and 0 < success < 1")

    def __call__(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        learn: LabelledImages,
        held_out: LabelledImages,
        convention: InputConvention,
        *,
        generator: torch.Generator,
        labels: Sequence[int],
        progress: Progress | None = None,
    ) -> tuple[LatentTrigger, ...]:
        """Return one latent trigger per candidate label, in the order of `labels`.

        Parameters
        ----------
        network
            Answers with logits, ``(N, K)``, in evaluation mode, without gradients in its parameters.
        layers
            Its layers with units.
        learn, held_out
            Clean images: those that shifts are fitted to, and those that `LatentTrigger.success` is measured
            on. Both need an image of another class than each candidate.
        convention
            How they become network input.
        generator
            Decides starts and batches; one candidate's do not depend on which others are inverted.
        labels
            Candidates.
        progress
            Told about every step.

        Raises
        ------
        MethodError
            There is no image of another class than a candidate.
        """
        progress = progress or Silent()
        seed = int(torch.randint(2**31, (), generator=generator))
        biases = _early(network, layers)
        progress.start("inverting", self.steps * len(labels))
        return tuple(
            self._invert(network, biases, learn, held_out, convention, label, seed + label, progress)
            for label in labels
        )

    def _invert(
        self,
        network: nn.Module,
        biases: Mapping[str, tuple[Tensor, Tensor]],
        learn: LabelledImages,
        held_out: LabelledImages,
        convention: InputConvention,
        label: int,
        seed: int,
        progress: Progress,
    ) -> LatentTrigger:
        source = torch.Generator().manual_seed(seed)
        device = next(network.parameters()).device
        others = images_of_others(learn, label)
        counts = [len(bias) for bias, _ in biases.values()]
        raw = (SPREAD * torch.randn(sum(counts), generator=source)).to(device).requires_grad_()
        target = torch.full((self.batch_size,), label, device=device)
        optimizer = torch.optim.Adam([raw], lr=self.rate, betas=(0.5, 0.9))
        weight, smallest, best = self.weight, math.inf, raw.detach().clone()
        for _ in range(self.steps):
            chosen = torch.randint(len(others), (self.batch_size,), generator=source)
            inputs = convention.normalise(others[chosen].to(device))
            moved = {
                name: bias + deviation * part
                for (name, (bias, deviation)), part in zip(
                    biases.items(), torch.split(raw, counts), strict=True
                )
            }
            with autocast(self.precision, device):
                output = shifted_answers(network, moved, inputs).float()
            norm = raw.norm()
            optimizer.zero_grad(set_to_none=True)
            (F.cross_entropy(output, target) + weight * norm).backward()
            succeeded = float((output.argmax(1) == target).double().mean()) > self.success
            # A run that never succeeded is represented by where it ended.
            size = float(norm.detach())
            if math.isfinite(size) and ((succeeded and size < smallest) or smallest == math.inf):
                best = raw.detach().clone()
                smallest = size if succeeded else smallest
            weight = weight * self.factor if succeeded else weight / self.factor
            optimizer.step()
            progress.advance(label=label, succeeded=int(smallest < math.inf))
        shifts = {
            name: deviation * part
            for (name, (_, deviation)), part in zip(biases.items(), torch.split(best, counts), strict=True)
        }
        found = LatentTrigger(label, shifts, float(best.norm()), 0.0, False)
        shifted, held = found.present(network, images_of_others(held_out, label))
        success = float((predict(shifted, held, convention).argmax(1) == label).double().mean())
        return LatentTrigger(label, shifts, found.norm, success, success > self.success - SLACK)


def _early(network: nn.Module, layers: Sequence[UnitLayer]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return bias and standard deviation of the channels of the first norms, by the bias's name."""
    norms = [layer for layer in layers if layer.kind == "norm"]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    taken: set[int] = set()
    for layer in norms[: max(1, math.ceil(EARLY * len(norms)))]:
        module = network.get_submodule(layer.name)
        for slices in layer.shift:
            bias = network.get_parameter(slices.parameter)
            # A module may be registered under several names.
            if id(bias) not in taken:
                taken.add(id(bias))
                found[slices.parameter] = (bias.detach(), module.get_parameter("weight").detach().abs())
    return found
