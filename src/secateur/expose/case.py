"""What the stages of a method share: the network at hand, its units, clean data, time and notes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from secateur.data import CleanData, example_input
from secateur.errors import MethodError
from secateur.models import duplicate, logits, to_fastest_layout
from secateur.progress import Progress, Silent
from secateur.units import Discovery, discover


@dataclass
class Case:
    """A network at hand and what the stages of a method share.

    Attributes
    ----------
    network
        A copy, in evaluation mode and open to gradients, in the fastest memory layout.
    clean
        Trusted images.
    discovery
        Its units.
    example
        One network input, ``(1, C, H, W)``, on the network's device.
    generator
        Source of all randomness.
    progress
        Told about every stage.
    seconds
        Time of every stage so far.
    notes
        What the user should know of this run, as sentences.
    """

    network: nn.Module
    clean: CleanData
    discovery: Discovery
    example: Tensor
    generator: torch.Generator
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        network: nn.Module,
        clean: CleanData,
        generator: torch.Generator | None,
        progress: Progress | None,
    ) -> "Case":
        """Copy `network` for work; without a generator, seed 0 decides.

        Raises
        ------
        MethodError
            The network has no prunable unit, or its weights are not float32.
        """
        _check_precision(network)
        work = duplicate(network).eval().requires_grad_(True)
        example = example_input(clean.convention).to(next(work.parameters()).device)
        to_fastest_layout(work, example)
        discovery = discover(work, example)
        if not discovery.total:
            raise MethodError(
                f"{type(network).__name__} has no unit that can be pruned; `secateur units` says why"
            )
        generator = generator or torch.Generator().manual_seed(0)
        return cls(work, clean, discovery, example, generator, progress or Silent())

    def apart(self) -> "Case":
        """Return another case of the same network, whose numbers, times and notes go on from here."""
        generator = self.generator.clone_state()
        return replace(self, generator=generator, seconds=dict(self.seconds), notes=list(self.notes))

    @contextmanager
    def stage(self, name: str, network: nn.Module | None = None) -> Iterator[None]:
        """Let `network`, by default the one at hand, answer with logits, and take the time."""
        start = time.perf_counter()
        with logits(network or self.network, self.example):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _check_precision(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise MethodError(
                f"the weight {name} is {parameter.dtype}, and repairs work on torch.float32: "
                "call `network.float()` first"
            )


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat subnormal numbers as zero while the block runs: they slow training down tenfold on CPUs."""
    flushing = not bool(torch.tensor([1e-39]).mul(1.0).gt(0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushing)
