"""The pages of docs/ say what the code does: tables and examples are compared with it."""

import json
import re
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from anomaly import alerting, settings, state, wording
from anomaly.detection.interface import Batch
from anomaly.messages import Alert
from telemill import contract, errors, settings_help
from transform import reasons

ROOT = Path(__file__).parents[2]
SERVICES = ("ingest", "transform", "sink", "anomaly")
OPERATION = re.compile(r'map_exceptions\(\s*"([a-z0-9]+:[A-Za-z]+)"')
FMS = contract.load(ROOT / "contracts" / "fms.yaml")
COLUMNS = [each.column for each in FMS.measures]
FIRST_US = 1_751_876_489_000_000


def section(page: str, heading: str) -> str:
    """What stands under a heading of a page, up to the next of its level."""
    text = (ROOT / "docs" / page).read_text()
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The cells of a Markdown table's rows, without its two head lines."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def operations_in(folder: Path) -> set[str]:
    """The AWS operations that the code of a folder names."""
    return {name for path in folder.rglob("*.py") for name in OPERATION.findall(path.read_text())}


def documented_operations() -> dict[str, set[str]]:
    """Service to the operations its row in docs/operations.md names."""
    rows = table(section("operations.md", "Permissions"))
    return {
        row[0].strip("`"): set(re.findall(r"`([a-z0-9]+:[A-Za-z]+)`", " ".join(row[1:])))
        for row in rows
    }


def alerts_of_a_fault() -> list[Alert]:
    """Device 17 runs normally, sensor3 rises for 20 readings, then all is well again."""
    rows = np.arange(460)[:, None]
    phases = np.arange(len(COLUMNS))[None, :]
    values = 50.0 + 2.0 * np.sin(1.7 * rows + phases * (1.0 + 0.3 * rows))
    values[300:330, COLUMNS.index("sensor3")] += 8.0
    chosen = settings.AnomalySettings()
    detector = chosen.detector(FMS)
    begun = state.empty(partial(detector.begin, fields=len(COLUMNS)), len(COLUMNS))
    begun.row_of("17", 0)
    event_us = FIRST_US + np.arange(len(values)) * 10_000_000
    batch = Batch(values, np.zeros(len(values), np.int64), event_us)
    scores, begun.detector = detector.score(batch, begun.detector)

    def lineage(row: int) -> tuple[str, str, int]:
        return "shardId-000000000001", str(49664 * 10**51 + row), 3

    anomalous = scores.score >= chosen.threshold
    following = alerting.Alerting(chosen.policy, COLUMNS, FMS.name, detector.identity)
    scored = alerting.Scored(batch, scores, anomalous, event_us, lineage)
    return [each for each in following.take(scored, begun).messages if isinstance(each, Alert)]


def test_every_quarantine_reason_is_documented_and_no_other() -> None:
    """The reasons in docs/operations.md are transform's and those of the record errors."""
    documented = [row[0].strip("`") for row in table(section("operations.md", "The quarantine"))]
    raised = {each.reason for each in errors.RecordError.__subclasses__()}
    assert len(documented) == len(set(documented))
    assert set(documented) == {*reasons.ALL, *raised}


def test_every_aws_operation_is_in_the_permissions_and_no_other() -> None:
    """The permissions are those of the calls the code makes."""
    documented = documented_operations()
    made = set.union(
        *(operations_in(ROOT / each) for each in ("shared/src", "services", "offline"))
    )
    assert made
    assert set.union(*documented.values()) == made


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_own_operations_are_in_its_row(service: str) -> None:
    """What a service's own code calls is permitted to that service."""
    own = operations_in(ROOT / "services" / service / "src")
    assert own <= documented_operations()[service]


def test_the_anomaly_settings_are_documented_with_their_defaults() -> None:
    """Each setting the anomaly service declares is in docs/anomaly.md, with default and unit."""
    chosen = settings.AnomalySettings
    wanted = [
        [
            f"`{settings_help.env_name(chosen, name)}`",
            settings_help.default_of(chosen.model_fields[name]),
            str(settings_help.unit_of(chosen.model_fields[name])),
        ]
        for name in chosen.__annotations__
    ]
    documented = [row[:3] for row in table(section("anomaly.md", "Settings"))]
    assert sorted(documented) == sorted(wanted)


def test_the_alert_in_the_documents_is_what_the_code_makes() -> None:
    """The JSON in docs/anomaly.md is an opening alert of the code, but for the last digits."""
    shown = re.search(r"```json\n(.*?)```", section("anomaly.md", "Alerts"), re.DOTALL)
    assert shown is not None
    opened, *_, closed = alerts_of_a_fault()
    documented = json.loads(shown[1])
    made = json.loads(msgspec.json.encode(opened))
    fields = documented.pop("fields"), made.pop("fields")
    scores = documented.pop("score"), made.pop("score")
    for name in ("seen", "expected", "peak_fields"):
        assert documented.pop(name) == pytest.approx(made.pop(name), abs=1e-3)
    assert documented.pop("peak_score") == pytest.approx(made.pop("peak_score"), abs=1e-6)
    # The page shows the last one alone.
    (recent,), last = documented.pop("recent"), made.pop("recent")[-1]
    assert recent["event_time"] == last["event_time"]
    assert recent["values"] == pytest.approx(last["values"], abs=1e-3)
    assert documented == made
    assert list(fields[0]) == list(fields[1])
    assert fields[0] == pytest.approx(fields[1], abs=1e-3)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    words = re.search(r"```text\n(.*?)```", section("anomaly.md", "Alerts"), re.DOTALL)
    assert words is not None
    units = {each.column: each.unit for each in FMS.measures}
    # The last digits of scores are the machine's.
    figure = re.compile(r" *\d\.\d{6,}")
    assert figure.sub("", words[1]) == figure.sub("", wording.mail(opened, units))
    assert (closed.state, closed.alert_id) == ("closed", opened.alert_id)
