"""Dockerfile, Compose file and Prometheus rules fit the code."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomaly.settings import AnomalySettings
from ingest.settings import IngestSettings
from simulator.settings import SimulatorSettings
from sink.settings import SinkSettings
from telemill import metrics, settings
from tests.deploy import published
from tools.images import prune
from transform.settings import TransformSettings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
SCRAPES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
SETTINGS: dict[str, type[settings.HttpSettings]] = {
    "ingest": IngestSettings,
    "transform": TransformSettings,
    "transform-kcl": TransformSettings,
    "sink-readings": SinkSettings,
    "sink-scores": SinkSettings,
    "anomaly": AnomalySettings,
    "fms": SimulatorSettings,
}
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def environment(name: str) -> dict[str, str]:
    """The variables of a container, with the defaults of what the user may say."""
    return {
        variable: VARIABLE.sub(r"\2", str(value))
        for variable, value in COMPOSE["services"][name]["environment"].items()
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_of_a_container_are_its_services(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every variable is a setting, its value is taken, and the health check asks the port."""
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)
        prefixes = (f"{SETTINGS[name].model_config['env_prefix']}", "AWS_", "KINESIS_")
        assert variable.startswith(prefixes)
    read = settings.read(SETTINGS[name])
    assert read.http_host == "0.0.0.0"  # noqa: S104
    built = COMPOSE["services"][name].get("build", {}).get("args", {})
    default = re.search(r"ARG HEALTH_PORT=(\d+)", DOCKERFILE)
    assert default is not None
    assert read.http_port == int(built.get("HEALTH_PORT", default[1]))
    if isinstance(read, settings.ServiceSettings):
        grace = COMPOSE["services"][name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= read.drain_timeout_seconds + 20


def test_ingest_polls_the_fleet_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Address, devices and interval are the simulator's."""
    for name in ("fms", "ingest"):
        for variable, value in environment(name).items():
            monkeypatch.setenv(variable, value)
    fleet, ingest = settings.read(SimulatorSettings), settings.read(IngestSettings)
    assert ingest.base_url == f"http://fms:{fleet.http_port}"
    assert ingest.devices == f"1-{fleet.device_count}"
    assert ingest.poll_interval_seconds == fleet.interval_seconds


def test_every_deployment_has_a_container() -> None:
    """Compose runs the same five as infra/ and k8s/."""
    assert set(published.APPLICATIONS) <= set(COMPOSE["services"])
    for name, service in published.APPLICATIONS.items():
        assert COMPOSE["services"][name]["image"] == f"telemill/{service}:local"


def test_containers_are_shut_in() -> None:
    """No container may write its root file system or has a capability."""
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name


def test_the_image_is_as_orchestrators_want_it() -> None:
    """Exec-form entry point, a user that is not root, a health check, the base by argument."""
    stages = dict(
        re.findall(r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    )
    # Who builds without a target gets the last stage.
    assert list(stages)[-1] == "slim"
    alike = stages["service-base"]
    assert alike.rstrip().endswith('ENTRYPOINT ["/app/.venv/bin/service"]')
    assert "HEALTHCHECK" in alike
    assert "/healthz" in alike
    for name in ("slim", "kcl", "emulator"):
        assert "USER 10001:10001" in stages[name]
        assert "USER" not in stages[name].partition("USER 10001:10001")[2]
    froms = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(froms) <= {"${PYTHON_IMAGE}", *stages}
    makefile = (ROOT / "Makefile").read_text()
    pinned = re.search(r"^UV_VERSION := (\S+)", makefile, re.MULTILINE)
    assert pinned is not None
    assert f"ARG UV_VERSION={pinned[1]}\n" in DOCKERFILE


def test_the_profile_kcl_replaces_the_single_transform() -> None:
    """Two workers on the KCL's image, found under the name that Prometheus asks for."""
    workers = COMPOSE["services"]["transform-kcl"]
    assert workers["profiles"] == ["kcl"]
    assert workers["image"] == "telemill/transform:kcl"
    assert workers["scale"] == 2
    assert environment("transform-kcl")["KINESIS_COORDINATOR"] == "kcl"
    assert "transform" in workers["networks"]["default"]["aliases"]
    assert COMPOSE["services"]["transform"]["scale"] == "${TRANSFORMS:-1}"
    kcl = DOCKERFILE.partition(" AS jre\n")[2].partition("\nFROM ")[0]
    assert "KINESIS_COORDINATOR=kcl" in kcl


def expressions() -> dict[str, str]:
    """Alert to expression."""
    return {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}


def test_every_rule_refers_to_a_metric_the_services_show() -> None:
    """Names, labels and label values are the code's; histograms by their sum and count."""
    shown = {row.name: row for row in metrics.table()}
    for alert, expression in expressions().items():
        used = re.findall(
            r"(telemill_\w+?)(?:_sum|_count)?(?=[{\[)\s])(?:\{([^}]*)\})?", expression
        )
        assert used, alert
        for name, selectors in used:
            assert name in shown, f"{alert}: {name}"
            for label, values in re.findall(r'(\w+)=~?"([^"]*)"', selectors):
                if label == "service":
                    assert published.APPLICATIONS[values] in shown[name].services, alert
                else:
                    assert label in shown[name].labels, alert
                    assert all(each in shown[name].description for each in values.split("|")), alert


def test_prometheus_scrapes_every_deployment() -> None:
    """By the names that Compose gives them, on their port."""
    ((job,),) = [SCRAPES["scrape_configs"]]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) == set(published.APPLICATIONS)
    assert {environment(name).get("SINK_HTTP_PORT", "8080") for name in found["names"]} == {
        str(found["port"])
    }
    assert SCRAPES["rule_files"] == ["rules.yml"]


def test_the_thresholds_are_those_of_the_alarms() -> None:
    """Prometheus and CloudWatch call at the same figures."""
    alarms = {
        each["AlarmName"]: each
        for _, each in published.resources("monitoring", "AWS::CloudWatch::Alarm")
    }
    for alert, alarm, factor in (
        ("TelemillLatencyHigh", "telemill-latency-high", 1),
        ("TelemillBehind", "telemill-transform-behind", 1),
        ("TelemillRejectedHigh", "telemill-rejected-high", 100),
        ("TelemillPollsFailing", "telemill-polls-failing", 100),
        ("TelemillCompletenessLow", "telemill-completeness-low", 100),
        ("TelemillAccuracyLow", "telemill-accuracy-low", 100),
        ("TelemillConsistencyLow", "telemill-consistency-low", 100),
        ("TelemillFmsUnreachable", "telemill-fms-unreachable", 1),
        ("TelemillPoison", "telemill-transform-poison", 1),
    ):
        called = float(re.split(r"[<>]", expressions()[alert])[-1])
        assert called * factor == pytest.approx(alarms[alarm]["Threshold"]), alert


def test_images_keep_what_botocore_needs_for_our_clients() -> None:
    """Descriptions of AWS services are taken out of the images, but not of those we call."""
    code = "".join(
        path.read_text()
        for folder in ("shared/src/telemill", "services")
        for path in (ROOT / folder).rglob("*.py")
        if "testing" not in path.parts
    )
    clients = set(re.findall(r"\bclient\(\s*\"([a-z0-9-]+)\"", code))
    for listed in re.findall(r"\bclients\(([^)]*)\)", code):
        clients |= set(re.findall(r"\"([a-z0-9-]+)\"", listed))
    assert {"kinesis", "s3", "dynamodb", "glue", "sns"} <= clients
    assert clients <= prune.AWS_SERVICES


def test_pruning_takes_what_is_listed_and_nothing_else(tmp_path: Path) -> None:
    """Files and folders of the list go, others stay, and the bytes are counted."""
    for name in (
        "pyarrow/include/api.h",
        "pyarrow/libarrow_flight.so.1",
        "pyarrow/libarrow.so.1",
        "botocore/data/ec2/x.json",
        "botocore/data/kinesis/x.json",
        "botocore/data/endpoints.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234567")
    assert prune.prune(tmp_path) == 21
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        "pyarrow/libarrow.so.1",
        "botocore/data/kinesis/x.json",
        "botocore/data/endpoints.json",
    }
