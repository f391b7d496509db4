"""Exposing a backdoor: unlearn the clean task, then invert triggers for the labels that this points to."""

from dataclasses import dataclass, field, replace

from torch import nn

from secateur.data import CleanData
from secateur.errors import MethodError
from secateur.expose.case import Case
from secateur.expose.labels import LabelScores, score_labels
from secateur.expose.searching import Findings, Search
from secateur.expose.unlearning import Exposure, Unlearning
from secateur.models import duplicate

GENTLE = Unlearning(
    stride=0.0005, passes=100, milestones=(), weight_decay=0.0, dropout=False, precision="auto"
)


@dataclass(frozen=True)
class Exposed:
    """What a network reveals, for a verdict or for a repair.

    Attributes
    ----------
    exposure
        What unlearning revealed; None where it reveals nothing reliable.
    unlearned
        The unlearned network, where there is an exposure.
    findings
        The triggers that were inverted on the network as it came.
    seconds
        Wall-clock time of each stage.
    notes
        Sentences for a report.
    labels
        What unlearning says of each class; None where there is no exposure, or it diverged.
    """

    exposure: Exposure | None
    unlearned: nn.Module | None
    findings: Findings
    seconds: dict[str, float]
    notes: tuple[str, ...]
    labels: LabelScores | None = None


@dataclass(frozen=True)
class Exposing:
    """Unlearn a copy of the network, then search for triggers on the network as it came.

    Attributes
    ----------
    unlearning
        How the clean task is unlearned. Of a network without normalisation that reveals nothing reliable
        (``docs/decisions/0002-networks-without-normalisation.md``), and with a `search` it is left out there.
    search
        How triggers are looked for; None does not.
    shift
        Whether shifts of channels are among them.
    """

    unlearning: Unlearning = GENTLE
    search: Search | None = field(default_factory=Search)
    shift: bool = True

    def __call__(self, case: Case, known: Exposed | None = None) -> Exposed:
        """Expose the network of a case, unless that is known already; the case keeps stages and notes too.

        Where nothing stood out, what is known may stand out for a search with a lower point.
        """
        if known is not None:
            case.seconds.update(known.seconds)
            case.notes += known.notes
            case.network.requires_grad_(False)
            findings = known.findings
            if self.search and findings.looks and not findings.found:
                findings = findings.beyond(min(self.search.point, findings.point))
            return replace(known, findings=findings)
        if self.search:
            _check_classes(case.clean)
        told = len(case.notes)
        exposure, unlearned = self._unlearn(case)
        labels = None
        if exposure and unlearned:
            labels = score_labels(exposure, case.network, unlearned, case.example)
        findings = self._look(case, labels)
        return Exposed(exposure, unlearned, findings, dict(case.seconds), tuple(case.notes[told:]), labels)

    def _unlearn(self, case: Case) -> tuple[Exposure, nn.Module] | tuple[None, None]:
        """Unlearn on a copy, if that reveals something of the network."""
        if self.search and not any(layer.kind == "norm" for layer in case.discovery.layers):
            return None, None
        unlearned = duplicate(case.network)
        with case.stage("unlearning", unlearned):
            exposure = self.unlearning(
                unlearned,
                case.clean.learn,
                case.clean.convention,
                generator=case.generator,
                progress=case.progress,
            )
        if not exposure.finite:
            case.notes.append("Unlearning diverged and reveals nothing: lower its rate or set a stride.")
        elif not exposure.reached:
            case.notes.append(
                f"Unlearning stopped at clean accuracy {exposure.accuracies[-1]:.3f}, above the "
                f"{self.unlearning.accuracy} asked for; its last state was used."
            )
        return exposure, unlearned

    def _look(self, case: Case, labels: LabelScores | None) -> Findings:
        """Search for triggers."""
        if not self.search:
            return Findings.none("left out")
        case.network.requires_grad_(False)
        with case.stage("inverting"):
            findings = self.search(
                case.network,
                case.discovery.layers,
                case.clean,
                labels=labels,
                classes=case.network(case.example).shape[1],
                shift=self.shift,
                generator=case.generator,
                progress=case.progress,
            )
        if not findings.triggers:
            del case.seconds["inverting"]
        return findings


def _check_classes(clean: CleanData) -> None:
    """Make sure that triggers can be fitted and tested: they need images of other classes."""
    for images, purpose in ((clean.learn, "learned from"), (clean.choose, "held out")):
        if bool((images.labels == images.labels[:1]).all()):
            raise MethodError(
                f"all clean images that are {purpose} ({len(images)}) are of one class: give more images, of "
                "several classes"
            )
