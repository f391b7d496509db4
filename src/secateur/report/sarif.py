"""Evidence as SARIF 2.1.0, the format in which scanners report to code hosts and dashboards."""

from typing import Any
from urllib.parse import quote

from secateur.report import wording
from secateur.report.frame import Evidence

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
HOME = "https://pypi.org/project/secateur/"
RULE = "backdoor"
KINDS = {"evidence": "fail", "no evidence": "pass", "inconclusive": "open"}
"""Of the verdict: how SARIF calls what a check came to (section 3.27.9)."""


def sarif(evidence: Evidence) -> dict[str, Any]:
    """Return the evidence of a scan as a SARIF log: the verdict as one result, each check as another.

    A verdict of evidence is a failure of level ``error``; checks that were not run are ``notApplicable``, and
    those that were are ``informational``, so that only the verdict raises an alarm.

    Parameters
    ----------
    evidence
        As `collect_scan` returns it.
    """
    checkpoint = evidence["inputs"]["checkpoint"]
    place = {"uri": quote(checkpoint["file"], safe="")}
    locations = [{"physicalLocation": {"artifactLocation": {**place, "index": 0}}}]
    kind = KINDS[evidence["outcome"]]
    labels = evidence["exposure"] and evidence["exposure"]["labels"]
    verdict = {
        "ruleId": RULE,
        "ruleIndex": 0,
        "kind": kind,
        "level": "error" if kind == "fail" else "none",
        "message": {"text": literal(evidence["statement"])},
        "locations": locations,
        "fingerprints": {"checkpoint/sha256": checkpoint["sha256"]},
        "properties": {
            "verdict": evidence["outcome"],
            "label": evidence["trigger"] and evidence["trigger"]["label"],
            **evidence["verdict"],
            "unlearning": labels and {key: labels[key] for key in ("label", "score", "seconded")},
        },
    }
    checks = [
        {
            "ruleId": RULE,
            "ruleIndex": 0,
            "kind": "informational" if check["ran"] else "notApplicable",
            "level": "none",
            "message": {"text": literal(f"{check['check']}. {check['statement']}")},
            "locations": locations,
            "properties": {"strength": check["strength"]},
        }
        for check in evidence["checks"]
    ]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "secateur",
                        "version": evidence["software"]["secateur"],
                        "informationUri": HOME,
                        "rules": [_rule()],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "endTimeUtc": evidence["created"].replace("+00:00", "Z"),
                        **({"commandLine": evidence["command"]} if evidence["command"] else {}),
                    }
                ],
                "artifacts": [
                    {
                        "location": place,
                        "hashes": {"sha-256": checkpoint["sha256"]},
                    }
                ],
                "results": [verdict, *checks],
            }
        ],
    }


def literal(text: str) -> str:
    """Return text that a SARIF viewer shows as it is: no links (section 3.11.6), no placeholders (3.11.5)."""
    for special in "\\[]":
        text = text.replace(special, f"\\{special}")
    return text.replace("{", "{{").replace("}", "}}")


def _rule() -> dict[str, Any]:
    tags = [f"{reference['source']} {reference['id']}" for reference in wording.REFERENCES]
    return {
        "id": RULE,
        "name": "Backdoor",
        "shortDescription": {"text": "The network shows evidence of a backdoor."},
        "fullDescription": {
            "text": "A small trigger, the same for all images, makes the network answer one class. It was "
            "reconstructed from the network and is smaller than those for other classes."
        },
        "help": {"text": " ".join(wording.SCAN_LIMITS)},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["security", *tags]},
    }
