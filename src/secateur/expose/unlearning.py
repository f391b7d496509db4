"""Unlearning the clean task: RNP's first stage, and what its outcome reveals (arXiv 2305.14876, Algorithm 1).

What is left when a network has forgotten its clean task is what did not depend on clean neurons. A backdoored
network then tends to answer its target label whatever it sees.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.data import InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.models import Precision, autocast, check_precision, kept_modes
from secateur.progress import Progress, Silent


@dataclass(frozen=True)
class Exposure:
    """What unlearning the clean task revealed.

    Attributes
    ----------
    state
        State dict of the unlearned network.
    reached
        Whether the clean accuracy fell to the level asked for; if not, `state` is the last one.
    accuracies
        Clean accuracy on the learning images after every pass, as the stop rule saw it, in ``[0, 1]``.
    path
        How often the network answers each class on those images, after every pass, ``(passes, K)`` counts.
        Meant to be read against `labels`.
    labels
        How often each class occurs among those images, ``(K,)`` counts.
    accuracy
        Clean accuracy before the first pass.
    began
        How often the network answered each class then, ``(K,)`` counts.
    finite
        Whether the unlearned network's answers are numbers. If not, the ascent diverged and its answers
        reveal nothing.
    """

    state: dict[str, Tensor]
    reached: bool
    accuracies: tuple[float, ...]
    path: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]
    accuracy: float
    began: tuple[int, ...]
    finite: bool = True

    @property
    def answers(self) -> tuple[int, ...]:
        """How often the unlearned network answers each class, ``(K,)`` counts."""
        return self.path[-1]

    @property
    def label(self) -> int:
        """The class that the unlearned network answers most (RNP, Algorithm 1, line 2)."""
        return max(range(len(self.answers)), key=self.answers.__getitem__)

    @property
    def share(self) -> float:
        """How much of the answers that class takes, in ``[0, 1]``."""
        return self.answers[self.label] / max(1, sum(self.answers))


@dataclass(frozen=True)
class Unlearning:
    """Maximise the clean loss of every weight until the clean accuracy is low enough.

    Stochastic gradient ascent on the cross-entropy. After every pass over the images the network is
    evaluated on them, which is the accuracy that Algorithm 1 of the paper compares with CA_min; the
    published code compares the running accuracy of the training batches instead, and writes no model at all
    when that never falls far enough.

    Attributes
    ----------
    accuracy
        Stop at or below this clean accuracy (CA_min), in ``[0, 1]``, or at the share of the most frequent
        class if that is larger: a network that answers one class only cannot fall below it.
    rate, momentum, weight_decay
        Of the ascent.
    passes
        At most so many passes over the images.
    milestones
        Passes before which the rate is divided by ten.
    batch_size
        Images per step at most; a pass is divided evenly.
    stride
        Longest step, relative to the length of all weights together, once momentum has built up; longer
        gradients are scaled down. The loss of a network that is forgetting has no upper bound: without this,
        its weights can leave the region where their answers mean anything. None follows the paper, whose
        code clips the gradient before there is one.
    dropout
        Whether dropout is active, as it is when the whole network is put in training mode. Normalisation
        always uses the statistics of the batch.
    precision
        Of forward passes.
    """

    accuracy: float = 0.2
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    passes: int = 20
    milestones: tuple[int, ...] = (10, 20)
    batch_size: int = 128
    stride: float | None = None
    dropout: bool = True
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if not 0 <= self.accuracy < 1:
            raise MethodError(f"unlearning to accuracy {self.accuracy}: it must be at least 0 and below 1")
        if not (0 < self.rate < math.inf and 0 <= self.momentum < 1 and 0 <= self.weight_decay < math.inf):
            raise MethodError("unlearning needs rate > 0, 0 <= momentum < 1, weight_decay >= 0, all finite")
        if self.passes < 1 or self.batch_size < 2:
            raise MethodError("unlearning needs at least one pass and two images per batch")
        if self.stride is not None and not 0 < self.stride < math.inf:
            raise MethodError(f"stride {self.stride} must be above 0 and finite")

    def __call__(
        self,
        network: nn.Module,
        images: LabelledImages,
        convention: InputConvention,
        *,
        generator: torch.Generator,
        progress: Progress | None = None,
        watch: Callable[[nn.Module, float], None] | None = None,
    ) -> Exposure:
        """Unlearn a network in place and return what that reveals.

        Parameters
        ----------
        network
            A classifier that answers with logits, ``(N, K)``. It is changed: give a copy.
        images
            Clean images that the network should forget.
        convention
            How they become network input.
        generator
            Decides the order of the images and dropout.
        progress
            Told about every pass.
        watch
            Given the network and its clean accuracy after every pass.
        """
        progress = progress or Silent()
        device = next(network.parameters()).device
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(
            parameters,
            lr=self.rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        longest = None
        if self.stride is not None:
            length = float(nn.utils.get_total_norm([p.detach() for p in parameters]))
            longest = self.stride * length * (1 - self.momentum) / self.rate
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(self.milestones), 0.1)
        floor = max(self.accuracy, torch.bincount(images.labels).max().item() / len(images))
        progress.start("unlearning", self.passes)
        accuracies: list[float] = []
        path: list[tuple[int, ...]] = []
        output = predict(network, images.images, convention, precision=self.precision)
        classes, finite = output.shape[1], True
        accuracy, began = _counted(output, images.labels)
        with dropout_seed(generator):
            for _ in range(self.passes):
                with batch_statistics(network, dropout=self.dropout):
                    for batch, labels in even_batches(images, self.batch_size, generator):
                        with autocast(self.precision, device):
                            output = network(convention.normalise(batch.to(device))).float()
                        loss = -F.cross_entropy(output, labels.to(device))
                        optimizer.zero_grad(set_to_none=True)
                        loss.backward()  # type: ignore[no-untyped-call]
                        if longest is not None:
                            nn.utils.clip_grad_norm_(parameters, longest)
                        optimizer.step()
                schedule.step()
                output = predict(network, images.images, convention, precision=self.precision)
                now, answers = _counted(output, images.labels)
                accuracies.append(now)
                path.append(answers)
                progress.advance(accuracy=accuracies[-1])
                if watch is not None:
                    watch(network, accuracies[-1])
                finite = bool(torch.isfinite(output).all())
                if accuracies[-1] <= floor or not finite:
                    break
        return Exposure(
            {name: tensor.detach().clone() for name, tensor in network.state_dict().items()},
            finite and accuracies[-1] <= floor,
            tuple(accuracies),
            tuple(path),
            tuple(torch.bincount(images.labels, minlength=classes).tolist()),
            accuracy,
            began,
            finite,
        )


def _counted(output: Tensor, labels: Tensor) -> tuple[float, tuple[int, ...]]:
    """Return the accuracy, and how often each class is answered."""
    answers = output.argmax(1)
    counts = torch.bincount(answers, minlength=output.shape[1])
    return (answers == labels).double().mean().item(), tuple(counts.tolist())


@torch.inference_mode()
def predict(
    network: nn.Module,
    images: Tensor,
    convention: InputConvention,
    batch_size: int = 256,
    precision: Precision = "float32",
) -> Tensor:
    """Return the network's output in evaluation mode for images ``(N, C, H, W)`` in ``[0, 1]``, on the CPU.

    The network's training modes are as before afterwards.
    """
    device = next(network.parameters()).device
    starts = range(0, len(images), batch_size)
    batches = (convention.normalise(images[i : i + batch_size].to(device)) for i in starts)
    with kept_modes(network), autocast(precision, device):
        network.eval()
        return torch.cat([network(batch).float().cpu() for batch in batches])


def even_batches(
    images: LabelledImages, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches of nearly equal sizes, about `size`, none of a single image among several."""
    order = torch.randperm(len(images), generator=generator)
    for chosen in order.tensor_split(max(1, min(-(-len(images) // size), len(images) // 2))):
        yield images.images[chosen], images.labels[chosen]


@contextmanager
def batch_statistics(network: nn.Module, *, dropout: bool) -> Iterator[None]:
    """Normalise with the statistics of the batch while the block runs, the rest in evaluation mode.

    With `dropout` the whole network is in training mode. Modes are restored afterwards.
    """
    with kept_modes(network):
        network.train(dropout)
        # Some networks answer with more than logits while the whole of them is in training mode.
        network.training = False
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.train()
        yield


@contextmanager
def dropout_seed(generator: torch.Generator) -> Iterator[None]:
    """Make dropout and its like, which only know the global generator, follow `generator` in the block."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        yield
