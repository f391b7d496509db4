"""Trying many masks on the same inputs, recomputing only what a change of masks can reach."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from secateur.units.layers import UnitLayer
from secateur.units.masks import Masks, masked
from secateur.units.passes import Activations, Call, Plan, Recording, Run, intercepted, same, version

TOLERANCE = 1e-5
"""Largest deviation from a full pass, relative to its largest output, with which work is skipped at all."""


class Replay:
    """Forward passes over fixed inputs that recompute only from the first changed layer on.

    The modules that have finished before the first layer with other masks begins cannot be reached by the
    change: if their outputs are stored they return them instead of running, at any depth of the network. Code
    between modules runs every time. Where that would not be sound (in-place changes that somebody else sees,
    modules that remember something, a control flow that depends on the masks), less is skipped or nothing,
    so that the results are those of full passes in any case.

    Parameters
    ----------
    network
        Any network whose output is a tensor ``(N, K)``. Its passes run in evaluation mode without gradients;
        it is unchanged after every method. Its parameters must stay the same while it is replayed.
    layers
        Its layers with units.
    inputs
        Batches of network input, for example ``(N, C, H, W)``, at least one.
    shift
        Whether a norm's bias is masked as well as its weight.
    memory
        Bytes that may be spent on activations, at least 0: the stored ones and those of the last attempt.

    Raises
    ------
    ValueError
        There is no batch or an empty one, `memory` is negative, or a layer does not belong to the network.
        Whatever the network raises on the inputs passes through.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[UnitLayer],
        inputs: Sequence[Tensor],
        *,
        shift: bool,
        memory: int = 1 << 30,
    ) -> None:
        if not inputs or not all(len(batch) for batch in inputs):
            raise ValueError("a replay needs at least one batch, and at least one input in each")
        if memory < 0:
            raise ValueError(f"the memory must be at least 0 bytes, not {memory}")
        self._network, self._layers, self._shift = network, tuple(layers), shift
        self._inputs = tuple(inputs)
        self._flat = Masks.ones(self._layers, requires_grad=False).flat
        self._stored: list[Activations] = [{} for _ in inputs]
        self._saved = 0.0
        self._record(memory // 2)
        self._pending: _Attempt | None = self._run(self._flat, self._inputs, Plan())
        self.accept()
        self._check()

    @property
    def outputs(self) -> Tensor:
        """The network's output under the current masks, shape ``(N, K)``."""
        return self._outputs

    @property
    def saved(self) -> float:
        """Share of the network's module calls that the last attempt did not make, 0 to 1."""
        return self._saved

    def attempt(self, flat: Tensor) -> Tensor:
        """Compute the output under other masks, without making them the current ones.

        Parameters
        ----------
        flat
            Masks of all units, shape ``(total,)``, any values, in the order of the layers.

        Returns
        -------
        Tensor
            Shape ``(N, K)``, without gradient.

        Raises
        ------
        ValueError
            `flat` does not fit the layers.
        """
        self._pending = None
        flat = Masks(self._layers, flat).flat.detach().clone()
        begin = self._first_change(flat)
        if begin is None:
            self._pending, self._saved = _Attempt(flat, self._outputs, self._stored), 1.0
        else:
            self._pending = self._run(flat, self._inputs, Plan.of(self._calls, begin, self._kept))
        return self._pending.outputs

    def accept(self) -> None:
        """Make the masks of the last attempt the current ones.

        Raises
        ------
        RuntimeError
            Nothing was attempted since the last time.
        """
        if self._pending is None:
            raise RuntimeError("there is no attempt to accept: call attempt first")
        self._flat, self._outputs = self._pending.flat, self._pending.outputs
        for stored, recomputed in zip(self._stored, self._pending.activations, strict=True):
            stored.update(recomputed)
        self._pending = None

    def _record(self, budget: int) -> None:
        """Learn from a pass over two images what can be skipped, and choose what is worth its bytes."""
        with self._prepared(self._flat):
            images = self._inputs[0][:2].clone()
            before = _memory(self._network)
            recording = Recording()
            with intercepted(self._network, recording):
                self._network(images)
            recording.finish()
            unchanged = same(before, _memory(self._network))
        self._calls = recording.calls if unchanged else []
        ends = accumulate(layer.count for layer in self._layers)
        self._parts = [
            (self._begin(layer), slice(end - layer.count, end))
            for layer, end in zip(self._layers, ends, strict=True)
        ]
        wanted = [call for call in self._calls if call.skippable]
        begins = {begin for begin, _ in self._parts}
        useful = {call for begin in begins for call in Plan.of(self._calls, begin, wanted).skipped}
        total = sum(len(batch) for batch in self._inputs)
        self._kept = _affordable(useful, budget, total / max(1, len(images)))

    def _begin(self, layer: UnitLayer) -> int:
        """Return the position of the first call that the layer's masks act in."""
        paths = [slices.parameter.rpartition(".")[0] for slices in layer.slices(shift=True)]
        if layer.kind == "heads":
            paths = [path.rpartition(".")[0] for path in paths]
        modules = {self._network.get_submodule(path) for path in paths}
        return next((call.begin for call in self._calls if call.module in modules), 0)

    def _first_change(self, flat: Tensor) -> int | None:
        different = flat.cpu().double() != self._flat.cpu().double()
        changed = (begin for begin, units in self._parts if bool(different[units].any()))
        return min(changed, default=None)

    def _run(self, flat: Tensor, inputs: Sequence[Tensor], plan: Plan) -> "_Attempt":
        outputs, activations = [], []
        for batch, stored in zip(inputs, self._stored, strict=False):
            run = Run(self._calls, self._kept, plan, stored)
            with self._prepared(flat), intercepted(self._network, run) if self._calls else nullcontext():
                # The network may change its input in place.
                outputs.append(self._network(batch.clone()))
            if not run.sound:
                self._stop_skipping()
                return self._run(flat, inputs, Plan())
            activations.append(run.recomputed)
            self._saved = run.saved
        return _Attempt(flat, torch.cat(outputs), activations)

    def _check(self) -> None:
        """Stop skipping if it changes what the first batch gives."""
        begins = sorted({begin for begin, _ in self._parts})
        for begin in {begins[len(begins) // 2], begins[-1]} if begins else ():
            flat = self._flat.clone()
            for _, units in (part for part in self._parts if part[0] == begin):
                # Zeros would hide what comes from before this layer.
                flat[units] = 0.5
            plan = Plan.of(self._calls, begin, self._kept)
            replayed = self._run(flat, self._inputs[:1], plan).outputs
            with self._prepared(flat):
                full = self._network(self._inputs[0].clone())
            if not torch.allclose(replayed, full, rtol=0, atol=TOLERANCE * float(full.abs().max())):
                self._stop_skipping()
        self._saved = 0.0

    def _stop_skipping(self) -> None:
        self._calls, self._kept = [], set()
        self._stored = [{} for _ in self._inputs]

    @contextmanager
    def _prepared(self, flat: Tensor) -> Iterator[None]:
        """Evaluation mode, masks and no gradients; tensors keep the version that tells in-place changes."""
        modes = {module: module.training for module in self._network.modules()}
        masks = masked(self._network, self._layers, flat, shift=self._shift)
        try:
            for module in modes:
                module.training = False
            with torch.inference_mode(False), torch.no_grad(), masks:
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@dataclass(frozen=True, eq=False)
class _Attempt:
    """Masks, the output under them, and the activations of each batch that had to be recomputed."""

    flat: Tensor
    outputs: Tensor
    activations: list[Activations]


def _affordable(useful: Iterable[Call], budget: int, batches: float) -> set[Call]:
    """Choose calls whose outputs fit into the bytes: outer modules first, then small outputs."""
    chosen: set[Call] = set()
    held: set[int] = set()
    for call in sorted(useful, key=lambda call: (call.depth, call.size, call.begin)):
        # A block and its last module often return the same tensor.
        cost = 0 if call.storage in held else call.size * batches
        if cost <= budget:
            budget -= int(cost)
            held.add(call.storage)
            chosen.add(call)
    return chosen


def _memory(network: nn.Module) -> list[object]:
    """List what the modules hold, to compare by identity: a pass that changes it cannot be skipped."""
    held: list[object] = []
    for module in network.modules():
        for values in (vars(module), module._parameters, module._buffers):
            for value in values.values():
                held.append(value)
                if isinstance(value, Tensor):
                    held.append(version(value))
                elif isinstance(value, list | dict | set):
                    held.append(len(value))
    return held
