"""Optimized Neuron Pruning (Li et al., 2024, arXiv 2405.17746)."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch

from secateur.expose import Case, Exposed, Found, InvertedTrigger
from secateur.repair.choosing import Choice, HeldOut
from secateur.repair.chosen import Chosen
from secateur.repair.dominance import Dominance
from secateur.repair.erased import Erased
from secateur.repair.measured import Shown
from secateur.repair.onp.extra import check_extra, importing_extra
from secateur.repair.onp.settings import Agent, Graphing
from secateur.repair.registry import register
from secateur.repair.rnp import RNP

if TYPE_CHECKING:
    from secateur.repair.onp.search import Searching


@register(
    "onp",
    title="Rethinking Pruning for Backdoor Mitigation: An Optimization Perspective",
    paper="arXiv:2405.17746",
    year=2024,
    presets={"grouped": {"grouped": True}},
)
@dataclass(frozen=True)
class ONP(RNP):
    """Let an agent on the graph of the network's units choose what to prune.

    Of the paper its abstract is known, no internals and no code: the network becomes a graph, graph networks
    trained by reinforcement learning find the pruning policy, and units that meet at a residual addition
    are pruned in groups (preset ``grouped``, in which the agent proposes whole groups). The rest is our
    design, argued in ``docs/onp.md``. Exposing, the rounds of inverting triggers again, and polishing are
    those of `RNP`; the agent goes on from the units that it comes to.

    Attributes
    ----------
    graphing
        How the graph is built.
    agent
        How the agent learns.
    grouped
        Whether units that meet at an addition are proposed together.

    Raises
    ------
    MissingExtraError
        The libraries of the extra ``onp`` are not installed.
    """

    name: ClassVar[str] = "onp"

    graphing: Graphing = field(default_factory=Graphing)
    agent: Agent = field(default_factory=Agent)
    grouped: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Not after minutes of exposing.
        check_extra()

    def choose(self, case: Case, exposed: Exposed) -> Chosen:
        """Choose the units to prune: see `RNP.choose` and `improve`."""
        return self.improve(case, exposed, super().choose(case, exposed))

    def improve(self, case: Case, exposed: Exposed, chosen: Chosen) -> Chosen:
        """Let the agent go on from what RNP chose.

        Parameters
        ----------
        case, exposed
            See `RNP.choose`.
        chosen
            By that, with the settings of RNP that this has as well; stays as it is.
        """
        found = exposed.findings.found
        if found and chosen.erased:
            return self._go_on(case, exposed, found, chosen.erased)
        if isinstance(found, InvertedTrigger):
            return self._go_on(case, exposed, found, self._silenced(case, exposed, found, chosen))
        if found is None and self._points(exposed):
            with Dominance.of(exposed, case.example) as pointed:
                return self._search_once(case, exposed, pointed, chosen) if pointed else chosen
        return chosen

    def _go_on(self, case: Case, exposed: Exposed, found: Found, erased: Erased) -> Chosen:
        """Go on from units that were taken out for triggers."""
        searching = self._searching(case, exposed, found)
        with case.stage("improving"), Dominance.beside(found, exposed, case.example) as pointed:
            better = self.erasing.improved(
                case, erased, searching, budget=self._budget, shift=self.shift, pointed=pointed
            )
        return searching.told(Chosen(better.choice, better.scores, better))

    def _silenced(self, case: Case, exposed: Exposed, found: InvertedTrigger, chosen: Chosen) -> Erased:
        """Return what silencing came to as if it were by erasing."""
        with case.stage("improving"):
            return self.erasing.taken_over(
                case,
                found,
                chosen.choice.pruned,
                triggers=exposed.findings.triggers,
                budget=self._budget,
                shift=self.shift,
            )

    def _search_once(self, case: Case, exposed: Exposed, pointed: Dominance, chosen: Chosen) -> Chosen:
        """Go on from what masks chose, for what unlearning points to: there is no trigger to invert again."""
        case.notes.append(
            "An agent went on from the units that masks chose, for those without which the unlearned "
            f"network gives label {pointed.label} to fewer images."
        )
        searching = self._searching(case, exposed, pointed)
        total, layers, kept = case.discovery.total, case.discovery.layers, chosen.choice.pruned
        tried_on = partial(self.erasing.trials, case.network, layers, triggers=[pointed], shift=self.shift)
        with case.stage("learning"):
            trials = tried_on(clean=case.clean)
            carried, _ = trials.slopes(torch.ones(total, device=case.example.device))
            choices = searching(
                trials,
                partial(tried_on, clean=replace(case.clean, learn=case.clean.choose)),
                kept,
                carried,
                most=max(math.floor(self.share * total), len(kept)),
            )
            held = HeldOut(case.network, layers, case.clean, shift=self.shift)
            measured = (
                Choice.within(self._budget, units, held.curve(units, self.erasing.taken)) for units in choices
            )
            # What RNP chose is among them: a part of a better choice was not measured, and may be worse.
            choice = next((one for one in measured if len(one.pruned) == len(one.kept)), chosen.choice)
        return searching.told(Chosen(choice, (1 - carried.clamp(0, 1)).cpu()))

    def _searching(self, case: Case, exposed: Exposed, found: Shown) -> "Searching":
        with importing_extra():
            from secateur.repair.onp.search import Searching

        with case.stage("building the graph"):
            return Searching(
                case,
                exposed,
                found,
                graphing=self.graphing,
                agent=self.agent,
                recovering=self.recovering,
                grouped=self.grouped,
            )
