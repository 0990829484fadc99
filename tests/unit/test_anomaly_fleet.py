"""The synthetic fleet: its labels are true, and the figures count what they say."""

import csv
from pathlib import Path

import numpy as np
import pytest

from bench.anomaly import faults, fleet, fleet_bench, fleet_figures, forecast_bench, plant
from bench.anomaly.faults import Event
from bench.anomaly.fleet import Fleet
from bench.anomaly.service_path import Change, FleetScored

STEADY = np.zeros(6, bool)


@pytest.fixture(scope="module")
def hundred() -> Fleet:
    """The fleet of the bench."""
    return fleet.three_days()


def normal(ticks: int = 1200, seed: int = 1) -> plant.Normal:
    """Six steady machines, all well."""
    return plant.run(ticks, STEADY, fleet.INTERVAL_SECONDS, np.random.default_rng(seed))


def small(events: list[Event], ticks: int = 1500) -> Fleet:
    """Six machines with some events."""
    made = normal(ticks)
    for event in events:
        faults.apply(event, made, np.random.default_rng(2))
    present = np.isfinite(made.values).any(axis=2)
    group = ["faults", "faults", "well", "well", "changing", "late"]
    return Fleet(made.values, present, group, STEADY, events)


def alert(state: str, device: int, since: int, tick: int, number: int = 1) -> Change:
    """An opening or closing that names motor1."""
    times = [fleet.START_US + each * 10_000_000 for each in (since, tick)]
    return Change(str(number), state, str(device + 1), *times, "motor1")


def scored(changes: list[Change], ticks: int = 1500) -> FleetScored:
    """What the service might have said of six machines."""
    shape = (ticks, 6)
    flags, leading = np.zeros(shape, bool), np.full(shape, -1, np.int8)
    return FleetScored(np.zeros(shape, np.float32), flags, leading, changes, [], [], 0.0)


def test_the_fleet_is_seeded_and_every_fault_is_on_every_channel(hundred: Fleet) -> None:
    """Equal every time; no kind of fault and no channel is left out."""
    first, again = hundred, fleet.three_days()
    assert np.array_equal(first.values, again.values, equal_nan=True)
    assert first.events == again.events
    pairs = {(each.kind, each.field) for each in first.events if each.fault}
    assert {(kind, field) for kind in faults.FAULTS for field in range(6)} <= pairs
    together = [each for each in first.events if each.kind == faults.FLEET_WIDE]
    assert len({each.device for each in together}) == 20
    assert len({each.first for each in together}) == 1


def test_faults_of_one_device_do_not_overlap(hundred: Fleet) -> None:
    """Each has its time, and the device rests before the next."""
    made = hundred
    for device in made.of_group("faults").tolist():
        own = sorted(each for each in made.events if each.device == device)
        ordered = sorted(own, key=lambda each: each.first)
        ends = [each.last + 2 * fleet.HOUR for each in ordered[:-1]]
        assert all(end < each.first for end, each in zip(ends, ordered[1:], strict=True))


@pytest.mark.parametrize("kind", [*faults.FAULTS, faults.FLEET_WIDE])
def test_a_fault_changes_its_own_channel_while_it_lasts_and_nothing_else(kind: str) -> None:
    """What the label says is what was done to the values."""
    well, ill = normal(), normal()
    last = 500 + faults.FAULTS.get(kind, 360) - 1
    faults.apply(Event(kind, 3, 2, 500, last, True), ill, np.random.default_rng(3))
    changed = ~((well.values == ill.values) | (np.isnan(well.values) & np.isnan(ill.values)))
    ticks, devices, fields = np.nonzero(changed)
    assert set(devices) == {3}
    assert set(fields) == {2}
    assert 500 <= ticks.min() <= ticks.max() <= last
    assert len(ticks) > 0.95 * (last - 500)


@pytest.mark.parametrize("kind", ["maintenance", "set point", "gap", "restart", "field missing"])
def test_a_change_leaves_other_devices_and_the_past_alone(kind: str) -> None:
    """What is no fault is labelled as truly, too."""
    well, changed = normal(), normal()
    faults.apply(Event(kind, 3, 1, 500, 900, False), changed, np.random.default_rng(3))
    same = (well.values == changed.values) | (np.isnan(well.values) & np.isnan(changed.values))
    assert same[:500].all()
    assert same[901:].all()
    assert same[:, [0, 1, 2, 4, 5]].all()
    assert not same[500:901, 3].all()


def test_shift_machines_work_by_day_and_steady_ones_round_the_clock() -> None:
    """The load of a shift machine is far higher at noon than at night."""
    shift = np.array([False, True] * 4)
    load = plant.load_of(fleet.DAY, shift, fleet.INTERVAL_SECONDS, np.random.default_rng(4))
    noon, night = load[10 * fleet.HOUR : 14 * fleet.HOUR], load[: 4 * fleet.HOUR]
    rise = noon.mean(axis=0) - night.mean(axis=0)
    assert (rise[shift] > 1.0).all()
    assert np.abs(rise[~shift]).max() < 1.0


def test_a_fault_is_found_by_an_alert_that_opens_in_its_time() -> None:
    """Not by one that was open before, of another device, or long after."""
    event = Event("step, large", 3, 3, 500, 859, True)
    raised = {
        "in time": [alert("open", 3, 505, 507), alert("closed", 3, 505, 880)],
        "before": [alert("open", 3, 480, 482), alert("closed", 3, 480, 880)],
        "other": [alert("open", 2, 505, 507)],
        "after": [alert("open", 3, 905, 907)],
    }
    said = {name: scored(alerts) for name, alerts in raised.items()}
    found = {
        name: fleet_figures.judge(event, each, fleet_figures.episodes_of(each))
        for name, each in said.items()
    }
    assert found["in time"].delay == 7
    assert found["in time"].named
    assert [found[name].delay for name in ("before", "other", "after")] == [-1, -1, -1]
    elsewhere = event._replace(field=0)
    assert not fleet_figures.judge(
        elsewhere, said["in time"], fleet_figures.episodes_of(said["in time"])
    ).named


def test_a_flagged_reading_is_counted_also_without_an_alert() -> None:
    """A spike is in the scores, and its channel is that of its reading."""
    event = Event("spike", 1, 4, 700, 700, True)
    said = scored([])
    said.flags[700, 1], said.leading[700, 1] = True, 4
    found = fleet_figures.judge(event, said, [])
    assert (found.flagged, found.delay, found.named) == (0, -1, True)


def test_false_alarms_are_counted_where_nothing_was_wrong() -> None:
    """Alerts in the time of a fault, and the hour after, are not false; others are."""
    made = small([Event("step, large", 0, 3, 300, 500, True)])
    alerts = [
        alert("open", 0, 310, 312, 1),
        alert("open", 0, 600, 602, 2),
        alert("open", 0, 1000, 1002, 3),
        alert("open", 2, 100, 102, 4),
    ]
    said = scored(alerts)
    calm = ~fleet_figures.affected(made)
    raised = fleet_figures.episodes_of(said)
    rate = fleet_figures.false_alarms("all", range(6), made, said, raised, calm)
    assert rate.alerts == 2
    assert rate.device_days == pytest.approx((6 * 1500 - 561) / fleet.DAY, abs=0.01)
    (own,) = (
        fleet_figures.false_alarms(str(each), [each], made, said, raised, calm) for each in [2]
    )
    assert own.per_device_day == pytest.approx(fleet.DAY / made.present[:, 2].sum())


def test_a_change_is_settled_when_the_last_alert_before_the_rest_closed() -> None:
    """Alerts in a row count together; one after hours of rest does not."""
    event = Event("set point", 4, -1, 1000, 9999, False)
    pairs = [(1005, 1200), (1300, 1700), (1700 + fleet_figures.QUIET + 10, 9000)]
    alerts = [
        each
        for number, (first, last) in enumerate(pairs)
        for each in (
            alert("open", 4, first, first, number),
            alert("closed", 4, first, last, number),
        )
    ]
    raised = fleet_figures.episodes_of(scored(alerts, 10_000))
    found = fleet_figures.settle(event, raised, 9_999)
    assert (found.alerts, found.quiet) == (2, 700)
    unsettled = fleet_figures.episodes_of(scored(alerts[:1], 10_000))
    assert fleet_figures.settle(event, unsettled, 9_999).quiet == -1


def test_a_fleet_goes_through_the_service_and_its_fault_is_found(tmp_path: Path) -> None:
    """From values to tables, CSV files and pictures, with the service's default settings."""
    event = Event("step, large", 0, 3, 900, 1259, True)
    made = small([event, Event("set point", 4, -1, 600, 1499, False)])
    made.values[:300, 5] = np.nan
    made.present[:300, 5] = False
    tables = {each.name: each for each in fleet_bench.three_days(tmp_path, made)}
    (row,) = tables["by-kind"].rows
    assert row[:3] == ["step, large", "1", "100 %"]
    with (tmp_path / "faults.csv").open() as file:
        (found,) = csv.DictReader(file)
    assert 0 <= int(found["alert"]) <= 30
    assert (found["field"], found["named"]) == ("motor1", "1")
    assert tables["changes"].rows[0][:2] == ["set point", "1"]
    for name in ("channels.png", "device.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_forecasts_are_compared_with_what_came() -> None:
    """On a walk nothing beats the last value; on noise the mean does, by a root of two."""
    random = np.random.default_rng(5)
    noise = random.normal(size=(2500, 4, 1))
    event_us = fleet.START_US + np.arange(2500)[:, None] * 10_000_000 + np.zeros((1, 4), np.int64)
    for values, expected in ((noise, 1 / np.sqrt(2)), (np.cumsum(noise, axis=0), 1.0)):
        series = forecast_bench.Series(values, event_us, 10.0, 7, daily=True)
        found = forecast_bench.accuracy(series)
        assert found[1].ours.mean() == pytest.approx(expected, abs=0.08)
        assert np.isnan(found[1].seasonal).all()
        assert found[0].inside == pytest.approx([0.8, 0.95], abs=0.04)


def test_the_forecast_bench_says_which_folder_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without recordings is one line and status 2."""
    assert forecast_bench.main(["--nab", str(tmp_path), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("forecast-bench: ")
    assert error.count("\n") == 1
