"""The published templates fit the code: metrics, settings, permissions, names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anomaly.settings import AnomalySettings
from ingest.settings import IngestSettings
from sink import catalog, core
from sink.settings import SinkSettings
from telemill import contract, emf, names, settings
from telemill.progress import snapshots, store
from telemill.reader_settings import ReaderSettings
from tests.deploy import published
from transform.settings import TransformSettings

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, type[settings.ServiceSettings]] = {
    "ingest": IngestSettings,
    "transform": TransformSettings,
    "sink": SinkSettings,
    "anomaly": AnomalySettings,
}
STACKS = sorted(
    path.stem.removeprefix("telemill-") for path in (ROOT / "infra" / "templates").iterdir()
)
MAX_TEMPLATE_BYTES = 51_200
"""CloudFormation API reference, CreateStack: more must lie in a bucket."""

Metric = tuple[str, dict[str, str]]


def alarm_metrics(properties: dict[str, Any]) -> Iterator[Metric]:
    """Our metrics that an alarm looks at."""
    stats = [
        each["MetricStat"]["Metric"]
        for each in properties.get("Metrics", [])
        if "MetricStat" in each
    ]
    for each in [properties, *stats]:
        if each.get("Namespace") == emf.NAMESPACE:
            dimensions = {one["Name"]: one["Value"] for one in each.get("Dimensions", [])}
            yield each["MetricName"], dimensions


def widget_metrics() -> Iterator[Metric]:
    """Our metrics that the dashboard shows."""
    ((_, properties),) = published.resources("monitoring", "AWS::CloudWatch::Dashboard")
    for widget in json.loads(published.text(properties["DashboardBody"]))["widgets"]:
        for line in widget["properties"]["metrics"]:
            if line[0] == emf.NAMESPACE:
                _, name, *pairs = [each for each in line if isinstance(each, str)]
                yield name, dict(zip(pairs[::2], pairs[1::2], strict=True))


def alarms() -> Iterator[published.Resource]:
    """Alarms of every stack."""
    for stack in STACKS:
        yield from published.resources(stack, "AWS::CloudWatch::Alarm")


def container(application: str) -> dict[str, Any]:
    """The container of a deployment's task definition."""
    for _, task in published.resources("ecs", "AWS::ECS::TaskDefinition"):
        if task["Family"] == f"telemill-{application}":
            one, _ = task["ContainerDefinitions"]
            return dict(one)
    raise AssertionError(application)


def environment(application: str) -> dict[str, str]:
    """Its settings, as the operator's parameters make them."""
    values = {"<Devices>": "1-100", "<PollIntervalSeconds>": "10", "<SlotCount>": "64"}
    values["<Coordinator>"] = "single"
    values["<FmsBaseUrl>"] = "http://fms.plant.example:9872"
    values["<TraceRatio>"] = "0.01"
    values["<HasCollector.http://127.0.0.1:4318.>"] = "http://127.0.0.1:4318"
    pairs = {
        each["Name"]: published.text(each["Value"])
        for each in container(application)["Environment"]
    }
    return {name: values.get(value, value) for name, value in pairs.items()}


def statements(application: str) -> list[dict[str, Any]]:
    """What the policy of a deployment allows."""
    for _, policy in published.resources("access", "AWS::IAM::ManagedPolicy"):
        if policy["ManagedPolicyName"] == f"telemill-{application}":
            return list(policy["PolicyDocument"]["Statement"])
    raise AssertionError(application)


def listed(value: Any) -> list[str]:
    """One action or resource, or several."""
    return [published.text(each) for each in (value if isinstance(value, list) else [value])]


def documented_operations(service: str) -> set[str]:
    """What docs/operations.md says that a service calls; a test holds it equal to the code."""
    page = (ROOT / "docs" / "operations.md").read_text()
    row = next(each for each in page.splitlines() if each.startswith(f"| `{service}` | "))
    return set(re.findall(r"`([a-z0-9]+:[A-Za-z]+)`", row))


def test_every_alarm_and_scaling_policy_refers_to_a_metric_the_code_emits() -> None:
    """No alarm can stay silent for ever because its metric is called otherwise."""
    used = [metric for _, properties in alarms() for metric in alarm_metrics(properties)]
    assert len(used) > 40
    assert [why for each in used if (why := published.unknown(*each))] == []


def test_every_widget_shows_a_metric_the_code_emits() -> None:
    """No graph of the dashboard stays empty for ever."""
    used = list(widget_metrics())
    assert len(used) > 40
    assert [why for each in used if (why := published.unknown(*each))] == []


def test_watched_metrics_are_those_that_are_looked_at() -> None:
    """`…_EMF_METRICS=watched` leaves out nothing an alarm, a policy or a widget needs, nor more."""
    looked_at: dict[str, set[tuple[str, ...]]] = {}
    metrics = [one for _, each in alarms() for one in alarm_metrics(each)]
    for sample, dimensions in [*metrics, *widget_metrics()]:
        name = sample if sample in emf.LOOKED_AT else sample.rpartition("_")[0]
        labels = tuple(each for each in dimensions if each != "service")
        looked_at.setdefault(name, set()).add(labels)
    assert looked_at == {name: set(sets or ()) for name, sets in emf.LOOKED_AT.items()}


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("telemill_millis_behind", {"service": "transform"}),
        ("telemill_millis_behind_latest", {"service": "ingest"}),
        ("telemill_millis_behind_latest", {"service": "sink"}),
        ("telemill_millis_behind_latest", {"service": "transform", "stream": "readings"}),
        ("telemill_polls_total", {"service": "ingest", "outcome": "okay"}),
    ],
)
def test_a_wrong_metric_is_found(name: str, dimensions: dict[str, str]) -> None:
    """A wrong name, deployment, dimension or value does not pass the two tests above."""
    assert published.unknown(name, dimensions)


@pytest.mark.parametrize(
    "application", [each for each in published.APPLICATIONS if each != "ingest"]
)
def test_readers_scale_by_their_own_lag(application: str) -> None:
    """Two alarms on the lag of the deployment start its two scaling policies."""
    lag = ("telemill_worst_millis_behind_latest", {"service": application})
    policies = {
        name for name, _ in published.resources("ecs", "AWS::ApplicationAutoScaling::ScalingPolicy")
    }
    by_lag = [
        properties
        for _, properties in published.resources("ecs", "AWS::CloudWatch::Alarm")
        if list(alarm_metrics(properties)) == [lag]
    ]
    started = {each["Ref"] for properties in by_lag for each in properties["AlarmActions"]}
    assert len(started) == 2
    assert started <= policies


@pytest.mark.parametrize("application", published.APPLICATIONS)
def test_the_settings_of_a_task_are_the_services(
    application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every variable is a setting of the service, and its value is taken."""
    variables = environment(application)
    assert variables.pop("AWS_DEFAULT_REGION") == "<AWS::Region>"
    if application == "anomaly":
        assert variables["ANOMALY_ALERT_TOPIC"].endswith(f":{names.ALERT_TOPIC}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    service = published.APPLICATIONS[application]
    prefix = f"{service.upper()}_"
    assert all(name.startswith((prefix, "KINESIS_")) for name in variables)
    loaded = settings.read(SETTINGS[service])
    if isinstance(loaded, ReaderSettings):
        assert loaded.kinesis_coordinator == "single"
        (tables,) = [each for each in statements(application) if each["Sid"] == "KclTables"]
        lease_table = loaded.lease_table(application)
        assert {each.rpartition("/")[2] for each in listed(tables["Resource"])} == {
            f"{lease_table}{more}" for more in ("", "-CoordinatorState", "-WorkerMetricStats")
        }
    (port,) = container(application)["PortMappings"]
    assert loaded.http_port == port["ContainerPort"]
    assert f":{loaded.http_port}/healthz" in container(application)["HealthCheck"]["Command"][-1]
    assert loaded.emf_enabled
    assert loaded.http_host == "0.0.0.0"  # noqa: S104
    assert container(application)["StopTimeout"] >= loaded.drain_timeout_seconds + 20
    assert container(application)["ReadonlyRootFilesystem"] is True


@pytest.mark.parametrize("application", published.APPLICATIONS)
def test_a_deployment_may_do_what_its_code_calls_and_no_more(application: str) -> None:
    """Apart from what encryption and the KCL need, the actions are the documented ones.

    `sns:ListTopics` is for a topic given by name; the templates give its ARN.
    """
    allowed = {
        action
        for each in statements(application)
        if not each["Sid"].startswith(("Kcl", "Key"))
        for action in listed(each["Action"])
    }
    calls = documented_operations(published.APPLICATIONS[application])
    assert allowed == calls - {"sns:ListTopics"}


def test_no_service_may_touch_everything() -> None:
    """No statement of a service names all resources or all actions."""
    for application in published.APPLICATIONS:
        for each in statements(application):
            assert each["Effect"] == "Allow"
            assert not any("*" in action for action in listed(each["Action"]))
            for resource in listed(each["Resource"]):
                assert re.fullmatch(r"[^*]+(/\*)?", resource), resource


@pytest.mark.parametrize(
    ("application", "reads", "writes"),
    [
        ("ingest", None, names.RAW_STREAM),
        ("transform", names.RAW_STREAM, names.READINGS_STREAM),
        ("sink-readings", names.READINGS_STREAM, None),
        ("anomaly", names.READINGS_STREAM, names.SCORES_STREAM),
        ("sink-scores", names.SCORES_STREAM, None),
    ],
)
def test_streams_are_read_and_written_by_whom_the_settings_say(
    application: str, reads: str | None, writes: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The streams a deployment may use are those its settings name."""
    by_id = {each["Sid"]: listed(each["Resource"]) for each in statements(application)}
    found = [
        (by_id[sid][0].rpartition("/")[2] if sid in by_id else None) for sid in ("Read", "Write")
    ]
    assert found == [reads, writes]
    for name, value in environment(application).items():
        monkeypatch.setenv(name, value)
    loaded = settings.read(SETTINGS[published.APPLICATIONS[application]])
    assert {getattr(loaded, each, None) for each in ("input_stream", "stream")} & {reads, None}
    if isinstance(loaded, SinkSettings):
        assert loaded.stream == reads
        assert loaded.application == application
        assert any(each.endswith(f"/{loaded.table}/*") for each in by_id["Put"])


@pytest.mark.parametrize(
    "application", [each for each in published.APPLICATIONS if each != "ingest"]
)
def test_state_is_kept_apart(application: str) -> None:
    """No deployment can read or delete the state of another."""
    (state,) = [each for each in statements(application) if each["Sid"] == "State"]
    key = snapshots.object_key(application, "s/1/shardId-000000000000", 1, "7", b"state")
    paths = [each.partition("/")[2] for each in listed(state["Resource"])]
    assert any(key.startswith(each.removesuffix("*")) for each in paths)
    assert all(f"/{application}/" in each for each in paths)


def test_tables_are_the_contracts() -> None:
    """Glue's columns and locations are those the sink would make."""
    reading = contract.load(ROOT / "contracts" / "fms.yaml")
    found = {
        table["TableInput"]["Name"]: table["TableInput"]
        for _, table in published.resources("catalog", "AWS::Glue::Table")
    }
    assert set(found) == {"readings", "scores", "alerts"}
    for name in contract.TABLES:
        wanted = catalog.define(core.form_of(reading, name), names.GLUE_DATABASE, "lake")
        storage = found[name]["StorageDescriptor"]
        assert storage["Columns"] == wanted.columns
        assert published.text(storage["Location"]).endswith(f"/{name}/")
        assert published.text(storage["Location"]).startswith("s3://<")


def test_the_progress_table_is_the_stores() -> None:
    """Key, time to live and recovery are as the progress protocol needs them."""
    ((_, table),) = published.resources("data", "AWS::DynamoDB::Table")
    assert table["TableName"] == names.PROGRESS_TABLE
    assert table["KeySchema"] == store.TABLE_DEFINITION["KeySchema"]
    assert table["TimeToLiveSpecification"]["AttributeName"] == store.TIME_TO_LIVE_ATTRIBUTE
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


def test_live_state_never_expires() -> None:
    """No lifecycle rule of the state bucket covers states of live shards."""
    buckets = dict(published.resources("data", "AWS::S3::Bucket"))
    (state,) = [each for name, each in buckets.items() if name.startswith("BucketsState")]
    expiring = [
        each for each in state["LifecycleConfiguration"]["Rules"] if "ExpirationInDays" in each
    ]
    assert [each["Prefix"] for each in expiring] == [snapshots.ENDED_PREFIX]


@pytest.mark.parametrize("stack", STACKS)
def test_a_template_deploys_without_a_bucket(stack: str) -> None:
    """`aws cloudformation deploy --template-file` is enough."""
    size = len((ROOT / "infra" / "templates" / f"telemill-{stack}.json").read_bytes())
    assert size <= MAX_TEMPLATE_BYTES


def test_every_exception_has_a_reason() -> None:
    """What the checkers found and we meant says why, in the template or in the code."""
    skipped = [
        each
        for stack in STACKS
        for resource in published.load(stack)["Resources"].values()
        for each in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    ]
    assert all(len(each["comment"]) > 20 for each in skipped)
