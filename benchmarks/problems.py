"""What the study of searches asks: for one network, triggers to take out at the least cost."""

import hashlib
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exposure import Subject
from torch import Tensor

import secateur
from secateur.expose import Case, Exposing, flushed_denormals
from secateur.files import atomic_path
from secateur.progress import Silent
from secateur.repair import RNP
from secateur.repair.dominance import Dominance
from secateur.repair.onp import Agent, Graphing
from secateur.repair.onp.environment import Pruning
from secateur.repair.onp.search import Searching
from secateur.repair.trials import Trials

METHOD = RNP()


@dataclass(frozen=True)
class Problem:
    """What is searched, and what a search may know.

    Attributes
    ----------
    subject, case
        The network; a search sees the case alone.
    trials, held
        Measure choices on learning and on held-out images.
    pointed
        The same on learning images, with what unlearning points to instead of triggers.
    searching
        The graph and what else is known of units.
    carried
        Share of the triggers' margin that each unit carries, ``(total,)``.
    start
        What RNP pruned.
    agent
        With the number of evaluations.
    most
        Units that may be pruned.
    taught
        Weights of a policy that was learned on other networks, if there is one.
    """

    subject: Subject
    case: Case
    trials: Trials
    held: Trials
    pointed: Trials | None
    searching: Searching
    carried: Tensor
    start: frozenset[int]
    agent: Agent
    most: int
    taught: dict[str, Tensor]

    @property
    def total(self) -> int:
        """Number of units."""
        return self.case.discovery.total

    def environment(self, start: Collection[int] = ()) -> Pruning:
        """Return an environment of all units."""
        return Pruning(
            self.trials,
            [[unit] for unit in range(self.total)],
            self.total,
            self.agent,
            most=self.most,
            start=start,
            generator=torch.Generator().manual_seed(0),
        )


@contextmanager
def problem(
    subject: Subject, seed: int, agent: Agent, work: Path, taught: dict[str, Tensor]
) -> Iterator[Problem | None]:
    """Expose and erase, unless that is in `work` already; yield None where no trigger stands out.

    Meanwhile the network answers with logits. For `taught` see `Problem`.
    """
    path = work / f"{subject.name}-{subject.model.checkpoint.sha256[:12]}-{seed}-{version()}.pt"
    network, clean = subject.model.network, subject.clean(seed)
    if not path.exists():
        known = repaired(Case.of(network, clean, torch.Generator().manual_seed(seed), Silent()))
        with atomic_path(path) as temporary:
            torch.save(known, temporary)
    # What this script wrote itself.
    known = torch.load(path, weights_only=False)
    if known is None:
        yield None
        return
    case = Case.of(network, clean, torch.Generator().manual_seed(seed), Silent())
    case.network.requires_grad_(False)
    exposed, found = known["exposed"], known["found"]
    tried_on = partial(METHOD.erasing.trials, case.network, case.discovery.layers, shift=METHOD.shift)
    with (
        flushed_denormals(),
        case.stage("searching"),
        Dominance.beside(found, exposed, case.example) as dominance,
    ):
        trials, held = (
            tried_on(images, known["known"], pointed=dominance)
            for images in (case.clean, replace(case.clean, learn=case.clean.choose))
        )
        pointed = tried_on(case.clean, [dominance]) if dominance else None
        yield Problem(
            subject,
            case,
            trials,
            held,
            pointed,
            Searching(
                case,
                exposed,
                found,
                graphing=Graphing(),
                agent=agent,
                recovering=METHOD.recovering,
                grouped=False,
            ),
            trials.slopes(torch.ones(case.discovery.total))[0].clamp(0, 1),
            frozenset(known["start"]),
            agent,
            math.floor(known["share"] * case.discovery.total),
            taught,
        )


def version() -> str:
    """Return what tells the code that loads, exposes and repairs from that of other versions."""
    folder = Path(secateur.__file__).parent
    parts = ("data", "models", "units", "expose", "repair")
    sources = sorted(path for part in parts for path in (folder / part).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def repaired(case: Case) -> dict[str, Any] | None:
    """Return what RNP exposes, the triggers that it takes units out for, and these units."""
    with flushed_denormals():
        exposed = Exposing(METHOD.unlearning, METHOD.search, METHOD.shift)(case)
        found = exposed.findings.found
        if found is None:
            return None
        chosen = METHOD.choose(case, exposed)
    erased = chosen.erased
    return {
        "exposed": exposed,
        "found": found,
        "known": list(erased.defeated) if erased else [found],
        "start": list(chosen.choice.pruned),
        "share": METHOD.erasing.share if erased else METHOD.silencing.share,
    }
