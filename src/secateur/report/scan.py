"""What a report says of a scan, as plain values."""

from collections.abc import Mapping, Sequence

from secateur.data import CleanData
from secateur.expose import Exposed, Verdict
from secateur.models import LoadedModel
from secateur.report import wording
from secateur.report.exposed import checks_section, exposure_section, trigger_section
from secateur.report.frame import Evidence, frame, plain
from secateur.statistics import Proportion


def collect_scan(
    verdict: Verdict,
    exposed: Exposed,
    model: LoadedModel,
    clean: CleanData,
    *,
    inputs: Mapping[str, object],
    outputs: Mapping[str, str],
    clean_accuracy: Proportion,
    settings: Mapping[str, object],
    command: Sequence[str] = (),
    device: str = "cpu",
) -> Evidence:
    """Assemble the evidence of a scan.

    Parameters
    ----------
    verdict, exposed
        What was concluded, from what.
    settings
        Of the scan, by name.
    model, clean, inputs, outputs, clean_accuracy, command, device
        As `collect` takes them.
    """
    evidence = frame(
        model,
        clean,
        inputs=inputs,
        outputs=outputs,
        clean_accuracy=clean_accuracy,
        command=command,
        device=device,
        method=("scan", settings),
        seconds=exposed.seconds,
        notes=exposed.notes,
    )
    trigger = trigger_section(verdict.trigger, clean.class_names, drawn=verdict.drawn)
    evidence |= {
        "outcome": verdict.conclusion,
        "statement": wording.verdict_statement(verdict, trigger),
        "verdict": {"strength": verdict.strength, "point": verdict.point},
        "trigger": trigger,
        "exposure": exposure_section(exposed.exposure, exposed.labels, verdict.trigger, clean.class_names),
        "checks": [
            *checks_section(exposed.exposure, exposed.labels, verdict, clean.class_names),
            wording.NEVER_RUN,
        ],
        "limits": wording.SCAN_LIMITS,
    }
    return {key: plain(value) for key, value in evidence.items()}
