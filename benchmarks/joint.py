"""RNP and ONP of one network: what they share is done once, and its time counts for both."""

from functools import cached_property

import torch
from torch import nn

from secateur.data import CleanData
from secateur.expose import Case, Exposed, Exposing, flushed_denormals
from secateur.progress import Silent
from secateur.repair import ONP, RNP, Repair
from secateur.repair.chosen import Chosen


class Joint:
    """Repairs one network in both ways, as each does alone.

    Parameters
    ----------
    network
        It stays as it is.
    clean
        Its clean images.
    seed
        Of either repair.
    exposed
        What exposing it revealed; by default it is exposed first.
    """

    def __init__(
        self, network: nn.Module, clean: CleanData, seed: int, exposed: Exposed | None = None
    ) -> None:
        self._network, self._rnp, self._onp = network, RNP(), ONP()
        generator = torch.Generator().manual_seed(seed)
        self._case = Case.of(network, clean, generator, Silent())
        expose = Exposing(self._rnp.unlearning, self._rnp.search, self._rnp.shift)
        with flushed_denormals():
            self._exposed = expose(self._case, exposed)

    def rnp(self) -> Repair:
        """Repair with RNP."""
        with flushed_denormals():
            chosen, case = self._chosen, self._case.apart()
            return self._rnp.finish(self._network, case, self._exposed, chosen)

    def onp(self) -> Repair:
        """Repair with ONP, which goes on from what RNP chose."""
        with flushed_denormals():
            chosen, case = self._chosen, self._case.apart()
            better = self._onp.improve(case, self._exposed, chosen)
            return self._onp.finish(self._network, case, self._exposed, better)

    @cached_property
    def _chosen(self) -> Chosen:
        return self._rnp.choose(self._case, self._exposed)
