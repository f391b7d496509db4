"""What an agent searches and with what: the graph of one network, and the triggers to take out."""

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor
from torch_geometric.data import Data

from secateur.expose import Case, Exposed
from secateur.models import duplicate, logits
from secateur.repair.activity import activity
from secateur.repair.choosing import network_inputs
from secateur.repair.chosen import Chosen
from secateur.repair.measured import Shown
from secateur.repair.onp.environment import ranked_elsewhere
from secateur.repair.onp.features import features, with_carried
from secateur.repair.onp.graph import build_graph
from secateur.repair.onp.learning import learn
from secateur.repair.onp.settings import Agent, Graphing
from secateur.repair.recovering import Recovering
from secateur.repair.result import Learning
from secateur.repair.trials import Trials
from secateur.units import all_units, connect


class Searching:
    """Improves on a choice of units, round after round, for one network.

    Parameters
    ----------
    case
        The network and its clean data.
    exposed
        What exposing it revealed.
    found
        The trigger, or what stands in for one, that shows units at work.
    graphing, agent, recovering
        How the graph is built, how the agent learns, and how masks are recovered for its features.
    grouped
        Whether units that meet at an addition are proposed together.

    Attributes
    ----------
    activity
        What units pass on, on clean images and with the trigger at work.
    masks
        Mean masks of RNP's recovery, ``(total,)``; None where nothing was unlearned.
    groups
        Units that are pruned together.
    learning
        How the agent's search went in each round.
    """

    def __init__(
        self,
        case: Case,
        exposed: Exposed,
        found: Shown,
        *,
        graphing: Graphing,
        agent: Agent,
        recovering: Recovering,
        grouped: bool,
    ) -> None:
        self._case, self._agent = case, agent
        self._policy: dict[str, Tensor] | None = None
        # Numbers of its own: what is exposed, erased and polished is what RNP does with the same seed.
        self._generator = torch.Generator().manual_seed(case.generator.initial_seed())
        network, layers, clean = case.network, case.discovery.layers, case.clean
        device = next(network.parameters()).device
        self._connections = connect(network, case.discovery, case.example, strongest=graphing.strongest)
        changed, stamped = found.present(network, clean.learn.images)
        self.activity = activity(
            network,
            layers,
            network_inputs(clean.learn.images, clean.convention, device),
            network_inputs(stamped, clean.convention, device),
            changed=changed,
        )
        self.masks: Tensor | None = None
        if exposed.unlearned is not None:
            forgetful = duplicate(exposed.unlearned)
            with logits(forgetful, case.example):
                path = recovering(
                    forgetful,
                    layers,
                    clean.learn,
                    clean.convention,
                    generator=self._generator,
                    progress=case.progress,
                )
            self.masks = path.mean
        known = features(
            network,
            layers,
            case.example,
            self._connections,
            self.activity,
            unlearned=exposed.unlearned,
            masks=self.masks,
        )
        self._graph = build_graph(graphing, layers, self._connections, known)
        self.groups = self.grouped() if grouped else [[unit] for unit in range(case.discovery.total)]
        self.learning: list[Learning] = []

    def __call__(
        self, trials: Trials, held: Callable[[], Trials], kept: Sequence[int], carried: Tensor, *, most: int
    ) -> list[list[int]]:
        """Return choices found, the best first; see `secateur.repair.erased.Improving`."""
        case, start = self._case, time.perf_counter()
        learned = learn(
            self._agent,
            trials,
            self.graph(carried),
            kept,
            groups=self.groups,
            suspicion=carried.cpu(),
            most=most,
            policy=self._policy,
            generator=self._generator,
            progress=case.progress,
        )
        self._policy = learned.policy
        self.learning.append(Learning(learned.evaluations, time.perf_counter() - start, learned.curve))
        flat = torch.ones(case.discovery.total, device=case.example.device)
        choices = [kept, *(state.pruned for state in learned.states if len(state.pruned) <= most)]
        ranked = ranked_elsewhere(held(), choices, flat, self._agent.price)
        # In the order of suspicion: a budget may cut the end off.
        suspicion = carried.tolist()
        return [sorted(choice, key=lambda unit: (-suspicion[unit], unit)) for choice, _ in ranked]

    def told(self, chosen: Chosen) -> Chosen:
        """Return what was chosen with how it was found."""
        units = list(all_units(self._case.discovery.layers))
        pruned = torch.zeros(len(units), dtype=torch.bool)
        pruned[list(chosen.choice.pruned)] = True
        edges = self._graph.edge_index
        near = edges[:, (edges[0] < edges[1]) & pruned[edges].any(0)].T.tolist()
        return replace(
            chosen,
            learning=tuple(self.learning),
            joined=tuple((units[one], units[other]) for one, other in near),
        )

    def grouped(self) -> list[list[int]]:
        """Return all units, those that meet at an addition together."""
        groups: dict[int, list[int]] = {}
        for unit, group in enumerate(self._connections.groups.tolist()):
            groups.setdefault(group, []).append(unit)
        return list(groups.values())

    def graph(self, carried: Tensor) -> Data:
        """Return the graph as the policy sees it, with the share of the margin that each unit carries."""
        graph = copy(self._graph)
        graph.x = with_carried(graph.x, self._case.discovery.layers, carried)
        return graph
