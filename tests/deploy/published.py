"""What the tests of deploy/ read out of the published templates, and what the code emits."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from telemill import emf, metrics

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "infra" / "templates"
APPLICATIONS = {
    "ingest": "ingest",
    "transform": "transform",
    "anomaly": "anomaly",
    "sink-readings": "sink",
    "sink-scores": "sink",
}
"""Deployment to service."""

Resource = tuple[str, dict[str, Any]]


def load(stack: str) -> dict[str, Any]:
    """A published template."""
    template: dict[str, Any] = json.loads((TEMPLATES / f"telemill-{stack}.json").read_text())
    return template


def resources(stack: str, kind: str) -> Iterator[Resource]:
    """Logical id and properties of the resources of a type."""
    for name, resource in load(stack)["Resources"].items():
        if resource["Type"] == kind:
            yield name, resource["Properties"]


def text(value: Any) -> str:
    """A value with its references written as <what>."""
    if isinstance(value, dict):
        ((function, of),) = value.items()
        if function == "Fn::Join":
            return "".join(text(each) for each in of[1])
        return f"<{of if isinstance(of, str) else '.'.join(map(str, of))}>"
    return str(value)


def emitted(application: str) -> set[tuple[str, frozenset[str]]]:
    """Every (metric, dimension names) that a deployment writes, from a real emission."""
    service = APPLICATIONS[application]
    registry = CollectorRegistry()
    built = metrics.Metrics(registry, service)
    for row in metrics.table():
        if row.labels and service in row.services:
            getattr(built, row.attribute).labels(*("x" for _ in row.labels))
    lines: list[str] = []
    emf.Emitter(registry, application, write=lines.append).emit()
    found = set()
    for line in lines:
        (directive,) = json.loads(line)["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]:
            found |= {(metric["Name"], frozenset(each)) for each in directive["Dimensions"]}
    return found


def unknown(name: str, dimensions: dict[str, str]) -> str:
    """Why the code does not emit such a metric; empty when it does."""
    application = dimensions.get("service", "")
    if application not in APPLICATIONS:
        return f"{name}: no deployment {application!r}"
    if (name, frozenset(dimensions)) not in emitted(application):
        return f"{name} {tuple(dimensions)} is not emitted by {application}"
    row = next(each for each in metrics.table() if name.startswith(each.name))
    values = {value for label, value in dimensions.items() if label != "service"}
    strange = sorted(value for value in values if value not in row.description)
    return f"{name}: {strange} are not among its values" if strange else ""
