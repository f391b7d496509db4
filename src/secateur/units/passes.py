"""One forward pass, module call by module call: watched first, then repeated without what need not run."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Forward = Callable[..., Any]


@dataclass(eq=False)
class Call:
    """One call of a module's forward in the pass, with the calls that it makes.

    It mutates when it changes an input in place, and is mutated when its output is changed in place later.
    In a chain every child gives its output to the next one and to nobody else.
    """

    module: nn.Module
    parent: "Call | None"
    begin: int
    depth: int
    end: int = 0
    children: "list[Call]" = field(default_factory=list)
    chain: bool = False
    mutates: bool = False
    mutated: bool = False
    skippable: bool = False
    storage: int = 0
    size: int = 0


@dataclass(frozen=True, eq=False)
class Kept:
    """A tensor, and the version that it had."""

    tensor: Tensor
    version: int

    @property
    def intact(self) -> bool:
        """Whether nothing changed it in place."""
        return version(self.tensor) == self.version


Activations = dict[Call, Kept]


class Recording:
    """Watches a forward pass: who calls whom, and who changes what in place."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._open: list[Call] = []
        self._results: list[tuple[Call, Kept, bool]] = []

    def __call__(self, module: nn.Module, forward: Forward, /, *args: Any, **kwargs: Any) -> Any:
        """Run a module's forward, and note the call."""
        parent = self._open[-1] if self._open else None
        call = Call(module, parent, len(self.calls), len(self._open))
        self.calls.append(call)
        if parent is not None:
            parent.children.append(call)
        inputs = [keep(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._open.append(call)
        output = forward(*args, **kwargs)
        self._open.pop()
        call.end = len(self.calls)
        call.mutates = not all(kept.intact for kept in inputs)
        call.chain = (
            getattr(forward, "__func__", None) is nn.Sequential.forward
            and not call.mutates
            and same([child.module for child in call.children], list(module._modules.values()))
        )
        if isinstance(output, Tensor):
            call.storage = output.untyped_storage().data_ptr()
            call.size = output.untyped_storage().nbytes()
            shares = any(kept.tensor.untyped_storage().data_ptr() == call.storage for kept in inputs)
            self._results.append((call, keep(output), shares))
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
class Plan:
    """What need not run: calls that return their stored output, and children that a chain starts after."""

    skipped: frozenset[Call] = frozenset()
    starts: dict[Call, int] = field(default_factory=dict)

    @classmethod
    def of(cls, calls: Sequence[Call], begin: int, available: Collection[Call]) -> "Plan":
        """Skip the available calls that end before the one at position `begin` starts."""
        skipped: set[Call] = set()
        starts: dict[Call, int] = {}
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


class Run:
    """Carries out a plan during one pass, and collects the outputs to store of what runs."""

    def __init__(
        self, calls: Sequence[Call], kept: Collection[Call], plan: Plan, stored: Activations
    ) -> None:
        self.recomputed: Activations = {}
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
        """Share of the calls that were not made."""
        return 1 - self._made / len(self._calls) if self._calls else 0.0

    def __call__(self, module: nn.Module, forward: Forward, /, *args: Any, **kwargs: Any) -> Any:
        """Run a module's forward, or what of it the plan does not skip."""
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
            self.recomputed[call] = keep(output.clone() if call.mutated else output)
        return output


@contextmanager
def intercepted(network: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
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


def same(first: Sequence[object], second: Sequence[object]) -> bool:
    """Say whether the same objects, or equal integers, are in both."""
    return len(first) == len(second) and all(
        one is other or (type(one) is int is type(other) and one == other)
        for one, other in zip(first, second, strict=True)
    )


def keep(tensor: Tensor) -> Kept:
    """Remember a tensor as it is now."""
    return Kept(tensor, version(tensor))


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place; 0 where PyTorch does not count."""
    return 0 if tensor.is_inference() else tensor._version
