"""`telemill cost`: the load follows from the fleet, the bill from load and prices."""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from telemill import emf, metrics
from telemill.cli import __main__ as cli
from telemill.cost import load, model, prices
from tests.deploy import published

ROOT = Path(__file__).parents[2]
SMALL = load.Fleet(devices=100, interval_seconds=10)
PLAIN = model.Choices()


def bill(fleet: load.Fleet, chosen: model.Choices = PLAIN) -> dict[tuple[str, str], model.Line]:
    """The lines by service and what is paid for."""
    lines = model.estimate(fleet, chosen, prices.load())
    found = {(line.service, line.what): line for line in lines}
    assert len(found) == len(lines)
    return found


def usd(fleet: load.Fleet, chosen: model.Choices = PLAIN) -> float:
    """The whole bill."""
    return model.total(model.estimate(fleet, chosen, prices.load()))


def test_a_shards_price_is_hours_times_shards() -> None:
    """By hand: three streams of one shard, 730 hours, $0.015 and, for days 2 to 7, $0.02."""
    lines = bill(SMALL)
    assert lines["kinesis", "shards"].usd == pytest.approx(3 * 730 * 0.015)
    assert lines["kinesis", "days 2 to 7 of retention"].usd == pytest.approx(3 * 730 * 0.02)


def test_tasks_are_paid_by_the_hour() -> None:
    """By hand: five tasks of half a core and a gigabyte."""
    lines = bill(SMALL)
    assert lines["fargate", "CPU"].usd == pytest.approx(5 * 730 * 0.5 * 0.04048)
    assert lines["fargate", "memory"].usd == pytest.approx(5 * 730 * 0.004445)


def test_records_put_are_counted_in_units() -> None:
    """By hand: 10 readings a second make as many records on each stream, one unit each."""
    million = 3 * 10 * 730 * 3600 / 1e6
    assert bill(SMALL)["kinesis", "records put"].quantity == pytest.approx(million)


@pytest.mark.parametrize(
    ("devices", "interval", "shards"),
    [(100, 10, 1), (10_000, 1, 1), (50_000, 1, 3), (200_000, 1, 10)],
)
def test_shards_follow_the_load(devices: int, interval: float, shards: int) -> None:
    """No shard of the raw stream is more than 60 % full, and none is for nothing."""
    raw = load.streams(load.Fleet(devices, interval))["readings-raw"]
    assert raw.shards == shards
    full = raw.bytes_per_second / raw.shards / load.SHARD_BYTES_PER_SECOND
    assert full <= load.FILL
    if shards > 1:
        assert raw.bytes_per_second / (raw.shards - 1) / load.SHARD_BYTES_PER_SECOND > load.FILL


def test_a_larger_fleet_never_costs_less() -> None:
    """Whatever the choices."""
    sizes = (1, 10, 100, 1_000, 10_000, 100_000)
    for flags in itertools.product((False, True), repeat=4):
        on_demand, fan_out, private_link, archive = flags
        chosen = model.Choices(on_demand, fan_out, private_link, archive)
        totals = [usd(load.Fleet(each, 5), chosen) for each in sizes]
        assert totals == sorted(totals), chosen


def test_storage_gathers() -> None:
    """A later month costs more, until objects go as fast as they come."""
    totals = [usd(SMALL, model.Choices(month=month)) for month in (1, 3, 12, 36)]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


def test_small_objects_stay_in_standard_storage() -> None:
    """S3 does not move what is below 128 KB; of a large fleet everything is moved."""
    small, large = bill(SMALL), bill(load.Fleet(50_000, 1))
    assert ("s3", "readings, standard") in small
    assert ("s3", "readings, infrequent") not in small
    assert ("s3", "readings, glacier instant") in large
    assert ("s3", "readings, moved to infrequent") in large


def test_every_price_is_used() -> None:
    """No number in the price list is there for nothing."""
    listed = prices.load()
    used: set[tuple[str, str]] = set()

    class Watched(dict[str, float]):
        def __init__(self, service: str) -> None:
            super().__init__(listed.usd[service])
            self.service = service

        def __getitem__(self, name: str) -> float:
            used.add((self.service, name))
            return super().__getitem__(name)

    watched = prices.Prices("", "", "", {service: Watched(service) for service in listed.usd})
    for on_demand, private_link in itertools.product((False, True), repeat=2):
        chosen = model.Choices(on_demand, fan_out=True, private_link=private_link, month=36)
        for devices in (100, 100_000):
            model.estimate(load.Fleet(devices, 1), chosen, watched)
    assert used == {(service, name) for service, names in listed.usd.items() for name in names}


def test_the_price_list_is_dated() -> None:
    """Who reads an estimate sees how old its prices are, and where they hold."""
    listed = prices.load()
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", listed.as_of)
    assert re.fullmatch(r"[a-z]{2}-[a-z]+-\d", listed.region)
    assert all(price > 0 for each in listed.usd.values() for price in each.values())


def emitted_metrics(fleet: load.Fleet, selection: emf.Selection | None = None) -> int:
    """What the exporter writes when every label has the values the estimate assumes."""
    found = set()
    by_stream = load.streams(fleet)
    for application, service in model.APPLICATIONS.items():
        registry = CollectorRegistry()
        built = metrics.Metrics(registry, service)
        stream = load.READERS.get(application)
        for row in metrics.table():
            if row.labels and service in row.services and row.attribute not in model.UNUSED:
                choices = [
                    range(by_stream[stream].shards if stream and label == "shard" else values)
                    for label in row.labels
                    for values in [model.LABEL_VALUES.get(label, model.OTHER_LABEL_VALUES)]
                ]
                for values in itertools.product(*choices):
                    getattr(built, row.attribute).labels(*map(str, values))
        lines: list[str] = []
        emf.Emitter(registry, application, write=lines.append, selection=selection).emit()
        for line in lines:
            document: dict[str, Any] = json.loads(line)
            (directive,) = document["_aws"]["CloudWatchMetrics"]
            for metric, dimensions in itertools.product(
                directive["Metrics"], directive["Dimensions"]
            ):
                found.add((metric["Name"], tuple((each, document[each]) for each in dimensions)))
    return len(found)


def test_metrics_are_counted_as_the_exporter_writes_them() -> None:
    """CloudWatch bills each name with each set of dimension values; the estimate counts them so."""
    fleet = load.Fleet(1000, 10, min_shards=3)
    assert model.metric_count(fleet) == emitted_metrics(fleet)
    watched = emitted_metrics(fleet, emf.LOOKED_AT)
    assert model.metric_count(fleet, watched=True) == watched < emitted_metrics(fleet) / 4


def test_the_estimate_is_of_the_templates() -> None:
    """Tasks, endpoints and alarms are as many and as large as infra/templates makes them."""
    tasks = {
        each["Family"].removeprefix("telemill-"): (int(each["Cpu"]), int(each["Memory"]))
        for _, each in published.resources("ecs", "AWS::ECS::TaskDefinition")
    }
    assert set(tasks) == set(load.CPU_SECONDS_PER_MILLION) == set(model.APPLICATIONS)
    assert set(tasks.values()) == {(int(load.TASK_VCPU * 1024), int(load.TASK_GB * 1024))}
    endpoints = [
        each
        for _, each in published.resources("network", "AWS::EC2::VPCEndpoint")
        if each["VpcEndpointType"] == "Interface"
        # That of the traces is a choice of its own.
        and not published.text(each["ServiceName"]).endswith(".xray")
    ]
    assert len(endpoints) == model.ENDPOINTS
    assert {len(each["SubnetIds"]) for each in endpoints} == {model.ZONES}
    looked_at = [
        len([one for one in each.get("Metrics", [{}]) if "Expression" not in one])
        for stack in ("ecs", "monitoring")
        for _, each in published.resources(stack, "AWS::CloudWatch::Alarm")
    ]
    assert sum(looked_at) == model.ALARM_METRICS
    composites = list(published.resources("monitoring", "AWS::CloudWatch::CompositeAlarm"))
    assert len(composites) == model.COMPOSITES


def test_the_examples_of_the_page_are_what_the_command_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/cost.md's table is of the prices and the code that are here."""
    page = (ROOT / "docs" / "cost.md").read_text()
    examples = re.findall(r"^\| `telemill cost (.+?)` \|.*\| ([\d,]+) \|$", page, re.MULTILINE)
    assert len(examples) >= 5
    for arguments, shown in examples:
        assert cli.main(["cost", *arguments.split(), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert f"{round(document['usd_a_month']):,}" == shown, arguments
    assert prices.load().as_of in page


def test_the_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    """The total a person reads is the sum of the lines, and the prices' day stands below."""
    assert cli.main(["cost", "--devices", "100", "--interval", "10"]) == 0
    shown = capsys.readouterr().out
    amounts = [float(line.split()[-1].replace(",", "")) for line in shown.splitlines()[1:-2]]
    assert math.isclose(sum(amounts[:-1]), amounts[-1], abs_tol=0.2)
    assert prices.load().as_of in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--devices", "0", "--interval", "1"],
        ["--devices", "1", "--interval", "-1"],
        ["--devices", "1", "--interval", "nan"],
        ["--devices", "ten", "--interval", "1"],
        ["--devices", "1"],
        ["--devices", "1", "--interval", "1", "--month", "37"],
    ],
)
def test_bad_input_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and a line that names the argument."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["cost", *arguments])
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
