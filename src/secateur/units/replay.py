"""Trying many masks on the same inputs, recomputing only what a change of masks can reach."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.units.layers import UnitLayer
from secateur.units.masks import Masks, masked

Forward = Callable[..., Any]
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
        self._stored: list[_Activations] = [{} for _ in inputs]
        self._saved = 0.0
        self._record(memory // 2)
        self._pending: _Attempt | None = self._run(self._flat, self._inputs, _Plan())
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
            self._pending = self._run(flat, self._inputs, _Plan.of(self._calls, begin, self._kept))
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
            recording = _Recording()
            with _intercepted(self._network, recording):
                self._network(images)
            recording.finish()
            unchanged = _same(before, _memory(self._network))
        self._calls = recording.calls if unchanged else []
        ends = accumulate(layer.count for layer in self._layers)
        self._parts = [
            (self._begin(layer), slice(end - layer.count, end))
            for layer, end in zip(self._layers, ends, strict=True)
        ]
        wanted = [call for call in self._calls if call.skippable]
        begins = {begin for begin, _ in self._parts}
        useful = {call for begin in begins for call in _Plan.of(self._calls, begin, wanted).skipped}
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

    def _run(self, flat: Tensor, inputs: Sequence[Tensor], plan: "_Plan") -> "_Attempt":
        outputs, activations = [], []
        for batch, stored in zip(inputs, self._stored, strict=False):
            run = _Run(self._calls, self._kept, plan, stored)
            with self._prepared(flat), _intercepted(self._network, run) if self._calls else nullcontext():
                # The network may change its input in place.
                outputs.append(self._network(batch.clone()))
            if not run.sound:
                self._stop_skipping()
                return self._run(flat, inputs, _Plan())
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
            plan = _Plan.of(self._calls, begin, self._kept)
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


@dataclass(eq=False)
class _Call:
    """One call of a module's forward in the pass, with the calls that it makes.

    It mutates when it changes an input in place, and is mutated when its output is changed in place later.
    In a chain every child gives its output to the next one and to nobody else.
    """

    module: nn.Module
    parent: "_Call | None"
    begin: int
    depth: int
    end: int = 0
    children: "list[_Call]" = field(default_factory=list)
    chain: bool = False
    mutates: bool = False
    mutated: bool = False
    skippable: bool = False
    storage: int = 0
    size: int = 0


@dataclass(frozen=True, eq=False)
class _Kept:
    """A tensor, and the version that it had."""

    tensor: Tensor
    version: int

    @property
    def intact(self) -> bool:
        return _version(self.tensor) == self.version


_Activations = dict[_Call, _Kept]


@dataclass(frozen=True, eq=False)
class _Attempt:
    """Masks, the output under them, and the activations of each batch that had to be recomputed."""

    flat: Tensor
    outputs: Tensor
    activations: list[_Activations]


class _Recording:
    """Watches a forward pass: who calls whom, and who changes what in place."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._open: list[_Call] = []
        self._results: list[tuple[_Call, _Kept, bool]] = []

    def __call__(self, module: nn.Module, forward: Forward, /, *args: Any, **kwargs: Any) -> Any:
        parent = self._open[-1] if self._open else None
        call = _Call(module, parent, len(self.calls), len(self._open))
        self.calls.append(call)
        if parent is not None:
            parent.children.append(call)
        inputs = [_keep(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._open.append(call)
        output = forward(*args, **kwargs)
        self._open.pop()
        call.end = len(self.calls)
        call.mutates = not all(kept.intact for kept in inputs)
        call.chain = (
            getattr(forward, "__func__", None) is nn.Sequential.forward
            and not call.mutates
            and _same([child.module for child in call.children], list(module._modules.values()))
        )
        if isinstance(output, Tensor):
            call.storage = output.untyped_storage().data_ptr()
            call.size = output.untyped_storage().nbytes()
            shares = any(kept.tensor.untyped_storage().data_ptr() == call.storage for kept in inputs)
            self._results.append((call, _keep(output), shares))
        return output

    def finish(self) -> None:
        """Decide what may be skipped, now that all in-place changes have happened."""
        for call, kept, shares_input in self._results:
            call.mutated = not kept.intact
            if call.mutated:
                call.storage = -1 - call.begin
            # Whoever holds the input would miss a change that comes through the output, or from the call.
            unseen = not call.mutates or (call.parent is not None and call.parent.chain)
            call.skippable = call.parent is not None and unseen and not (shares_input and call.mutated)
        self._results.clear()


@dataclass(frozen=True, eq=False)
class _Plan:
    """What need not run: calls that return their stored output, and children that a chain starts after."""

    skipped: frozenset[_Call] = frozenset()
    starts: dict[_Call, int] = field(default_factory=dict)

    @classmethod
    def of(cls, calls: Sequence[_Call], begin: int, available: Collection[_Call]) -> "_Plan":
        """Skip the available calls that end before the one at position `begin` starts."""
        skipped: set[_Call] = set()
        starts: dict[_Call, int] = {}
        opened = list(calls[:1])
        while opened:
            call = opened.pop()
            finished = [child for child in call.children if child.end <= begin]
            opened += call.children[len(finished) : len(finished) + 1]
            if call.chain:
                stored = [index for index, child in enumerate(finished) if child in available]
                if stored:
                    starts[call] = stored[-1]
                    skipped.add(finished[stored[-1]])
                    finished = finished[stored[-1] + 1 :]
                opened += finished
            else:
                skipped.update(child for child in finished if child in available)
                opened += [child for child in finished if child not in available]
        return cls(frozenset(skipped), starts)


class _Run:
    """Carries out a plan during one pass, and collects the outputs to store of what runs."""

    def __init__(
        self, calls: Sequence[_Call], kept: Collection[_Call], plan: _Plan, stored: _Activations
    ) -> None:
        self.recomputed: _Activations = {}
        self._calls, self._kept, self._plan, self._stored = calls, kept, plan, stored
        self._position = self._made = 0
        self._lost = False

    @property
    def sound(self) -> bool:
        """Whether the pass made the calls that were expected and left stored tensors alone."""
        used = [self._stored[call] for call in self._plan.skipped]
        intact = all(kept.intact for kept in (*used, *self.recomputed.values()))
        return intact and not self._lost and self._position == len(self._calls)

    @property
    def saved(self) -> float:
        return 1 - self._made / len(self._calls) if self._calls else 0.0

    def __call__(self, module: nn.Module, forward: Forward, /, *args: Any, **kwargs: Any) -> Any:
        call = self._calls[self._position] if self._position < len(self._calls) else None
        if self._lost or call is None or call.module is not module:
            self._lost = True
            return forward(*args, **kwargs)
        if call in self._plan.skipped:
            self._position = call.end
            tensor = self._stored[call].tensor
            return tensor.clone() if call.mutated else tensor
        self._position += 1
        self._made += 1
        if call in self._plan.starts:
            start = self._plan.starts[call]
            self._position = call.children[start].begin
            first, *others = [child.module for child in call.children[start:]]
            # The first one returns what is stored whatever it is given.
            output = first(*args, **kwargs)
            for other in others:
                output = other(output)
        else:
            output = forward(*args, **kwargs)
        if self._position != call.end or (call in self._kept and not isinstance(output, Tensor)):
            self._lost = True
        elif call in self._kept:
            self.recomputed[call] = _keep(output.clone() if call.mutated else output)
        return output


@contextmanager
def _intercepted(network: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Pass every module's forward through ``call(module, forward, *args, **kwargs)``.

    Hooks are not touched: they see, and may change, what `call` returns.
    """
    modules = [module for module in network.modules() if not isinstance(module, torch.jit.ScriptModule)]
    own = {module: vars(module)["forward"] for module in modules if "forward" in vars(module)}
    try:
        for module in modules:
            vars(module)["forward"] = partial(call, module, module.forward)
        yield
    finally:
        for module in modules:
            if module in own:
                vars(module)["forward"] = own[module]
            else:
                vars(module).pop("forward", None)


def _affordable(useful: Iterable[_Call], budget: int, batches: float) -> set[_Call]:
    """Choose calls whose outputs fit into the bytes: outer modules first, then small outputs."""
    chosen: set[_Call] = set()
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
                    held.append(_version(value))
                elif isinstance(value, list | dict | set):
                    held.append(len(value))
    return held


def _same(first: Sequence[object], second: Sequence[object]) -> bool:
    return len(first) == len(second) and all(
        one is other or (type(one) is int is type(other) and one == other)
        for one, other in zip(first, second, strict=True)
    )


def _keep(tensor: Tensor) -> _Kept:
    return _Kept(tensor, _version(tensor))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
