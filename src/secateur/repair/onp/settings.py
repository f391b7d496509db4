"""Settings of ONP, and the names of what they choose among; nothing here needs the extra."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from secateur.errors import MethodError

ConvolutionName = Literal["gcn", "sage", "gat", "none"]


@dataclass(frozen=True)
class Graphing:
    """Which units are joined.

    Units of different layers are joined where one feeds the other, by their `strongest` connections. Units
    of one layer are joined with those whose connection strengths, towards all units before and after, differ
    from the layer's mean in the same way: a cosine above `similar`, each among the `neighbours` that the
    other is most like. A unit without any connection strength, dormant, is joined with none.

    Attributes
    ----------
    strongest
        Connections of each unit that are kept, before it and after it.
    similar
        Of the cosine, in ``[0, 1]``.
    neighbours
        Of each unit within its layer.
    """

    strongest: int = 8
    similar: float = 0.2
    neighbours: int = 4

    def __post_init__(self) -> None:
        if min(self.strongest, self.neighbours) < 1 or not 0 <= self.similar <= 1:
            raise MethodError("a graph needs a connection, a neighbour and a cosine in [0, 1]")


@dataclass(frozen=True)
class Agent:
    """Learn which units to prune and which to restore (PPO, Schulman et al., arXiv 1707.06347).

    Attributes
    ----------
    convolution, hidden, layers
        Of the policy's graph network, see `secateur.repair.onp.policy.Encoder`; ``none`` passes no messages.
    evaluations
        After so many learning ends: one for each state that is measured, and several for each look at what
        changes of one would do (see `secateur.repair.onp.environment.EXPECTING`), the last of which may go
        beyond.
    patience
        Learning ends when so many evaluations brought no better state.
    candidates
        Groups of units that the agent chooses among.
    steps, reach
        Proposals in an episode, and how many of them at most are measured together.
    tolerated
        By how much a state that an episode goes on from may be worth less than the best.
    trust
        Logit, before anything is learned, of a proposal that is known or expected to gain all that can be
        gained; 0 leaves everything to what is learned.
    price, thrift
        Of a nat by which clean answers diverge, and of a pruned unit, in defeats of the triggers.
    rollout, epochs, batch_size, rate, entropy, discount, smoothing
        Of the optimisation: steps between updates, passes over them, steps per batch, learning rate of Adam,
        weight of the entropy, gamma and lambda of the advantages (Schulman et al., arXiv 1506.02438).
    """

    convolution: ConvolutionName = "sage"
    hidden: int = 64
    layers: int = 2
    evaluations: int = 400
    patience: int = 150
    candidates: int = 1024
    steps: int = 16
    reach: int = 4
    tolerated: float = 0.002
    trust: float = 200.0
    price: float = 1.0
    thrift: float = 0.0005
    rollout: int = 64
    epochs: int = 6
    batch_size: int = 64
    rate: float = 1e-3
    entropy: float = 0.01
    discount: float = 0.9
    smoothing: float = 0.95

    def __post_init__(self) -> None:
        names = get_args(ConvolutionName)
        if self.convolution not in names:
            raise MethodError(f"no convolution is called {self.convolution!r}; there are: {', '.join(names)}")
        whole = (self.hidden, self.layers, self.evaluations, self.patience, self.candidates, self.steps)
        if min(*whole, self.reach, self.epochs, self.batch_size) < 1 or self.rollout < 2:
            raise MethodError("an agent needs at least one of everything it counts, and two steps a rollout")
        # The library divides the advantages of a batch by their deviation.
        if self.batch_size < 2 or self.rollout % self.batch_size == 1:
            raise MethodError("an agent needs batches of at least two steps, the last of a rollout as well")
        if not (0 < self.price < math.inf and 0 < self.rate < math.inf):
            raise MethodError("an agent needs a finite price > 0 and rate > 0")
        if not (0 <= self.entropy < math.inf and 0 <= self.thrift < math.inf):
            raise MethodError("an agent needs a finite entropy >= 0 and thrift >= 0")
        if not (0 <= self.tolerated < math.inf and 0 <= self.trust < math.inf):
            raise MethodError("an agent needs finite tolerated >= 0 and trust >= 0")
        if not (0 <= self.discount <= 1 and 0 <= self.smoothing <= 1):
            raise MethodError("an agent needs discount and smoothing in [0, 1]")
