"""A scan: expose a network and say whether what shows is evidence of a backdoor."""

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from secateur.data import CleanData
from secateur.expose.case import Case, flushed_denormals
from secateur.expose.exposing import GENTLE, Exposed, Exposing
from secateur.expose.searching import Search
from secateur.expose.triggers import Found, Inversion, InvertedTrigger
from secateur.expose.unlearning import Unlearning
from secateur.expose.verdict import Verdict, judge
from secateur.progress import Progress

OPERATING_POINT = 1.6
"""Strength beyond which a scan speaks of evidence; docs/scan.md says how often clean networks exceed it."""


@dataclass(frozen=True)
class Scan:
    """Unlearn the clean task, search for triggers of every kind, and judge the smallest.

    Attributes
    ----------
    unlearning
        How the clean task is unlearned.
    search
        How triggers are looked for, and beyond which strength one is evidence.
    sharpening
        How a patch that is evidence is inverted once more, for its label alone: finding it takes few steps,
        and with more, and in one piece, it becomes more like the planted one. None leaves it.
    drawing
        How a pattern of pixels is inverted where the evidence is a shift of channels, which no image shows.
        None does not.
    """

    unlearning: Unlearning = GENTLE
    search: Search = field(default_factory=lambda: Search(point=OPERATING_POINT))
    sharpening: Inversion | None = field(
        default_factory=lambda: Inversion(steps=200, restarts=3, form="compact")
    )
    drawing: Inversion | None = field(default_factory=lambda: Inversion(restarts=3, form="additive"))

    def __call__(
        self,
        network: nn.Module,
        clean: CleanData,
        *,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> tuple[Verdict, Exposed]:
        """Scan `network`, which is not changed.

        Parameters
        ----------
        network
            A classifier, ``(N, C, H, W)`` to ``(N, K)`` logits or probabilities, on any device.
        clean
            Trusted images: triggers are fitted to ``clean.learn`` and tested on ``clean.choose``.
        generator
            Source of all randomness; seed 0 when none is given.
        progress
            Told about every stage.

        Returns
        -------
        tuple
            The verdict and what it rests on, which a repair can take as well.

        Raises
        ------
        MethodError
            The network has no prunable unit, or its weights are not float32.
        """
        with flushed_denormals():
            case = Case.of(network, clean, generator, progress)
            exposed = Exposing(self.unlearning, self.search)(case)
            verdict = judge(exposed.findings)
            found = verdict.trigger
            if found and found.label is not None:
                if self.sharpening and found.form == "patch":
                    sharper = self._again(case, "sharpening", self.sharpening, found)
                    if sharper and sharper.norm < found.norm:
                        verdict = replace(verdict, trigger=sharper)
                elif self.drawing and found.form == "shift":
                    verdict = replace(verdict, drawn=self._again(case, "drawing", self.drawing, found))
        exposed.seconds.update(case.seconds)
        return verdict, exposed

    def _again(self, case: Case, stage: str, inversion: Inversion, found: Found) -> InvertedTrigger | None:
        """Return the smallest of several triggers for the same label; None if none converged."""
        with case.stage(stage):
            (trigger,) = inversion(
                case.network,
                case.clean.learn,
                case.clean.choose,
                case.clean.convention,
                generator=case.generator,
                labels=[found.label],
                progress=case.progress,
            )
        return trigger if trigger.converged else None
