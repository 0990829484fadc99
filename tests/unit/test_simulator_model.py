"""The simulator's readings and scenarios: pure functions of seed, device and tick."""

import json
import statistics
from typing import Any

import pytest

from simulator import control, model, scenarios
from simulator.scenarios import SCENARIOS, Active, Fleet, Get

FLEET = Fleet(seed=7, device_count=20)
CLEAN = Fleet(seed=7, device_count=20, noise=(model.Rates(0, 0), model.Rates(0, 0)))


def ask(name: str, tick: int, *, fleet: Fleet = CLEAN, device: int = 1, **more: Any) -> Get:
    """A request to a device whose scenario began at tick 100."""
    nth, now = more.pop("nth", 0), more.pop("now", None)
    return Get(fleet, device, tick, Active(name, since_tick=100, **more), nth, now)


def document(name: str, tick: int, **more: Any) -> dict[str, Any]:
    """The document a request is answered with."""
    answer = scenarios.answer(ask(name, tick, **more))
    assert answer.status == 200
    read: dict[str, Any] = json.loads(answer.body)
    return read


def test_a_reading_is_a_function_of_seed_device_and_tick() -> None:
    """The same three give the same bytes, any other one gives others."""
    first = model.encode(model.reading(7, 3, 100, 1000))
    assert model.encode(model.reading(7, 3, 100, 1000)) == first
    others = [(8, 3, 100), (7, 4, 100), (7, 3, 101)]
    assert all(model.encode(model.reading(*other, 1000)) != first for other in others)


def test_a_reading_is_spelled_as_published() -> None:
    """Names, order, types and the time's format are the published API's."""
    read = json.loads(model.encode(model.reading(7, 3, 100, 1751876489.9)))
    assert list(read) == ["time", "DeviceId", *model.FIELDS, "isFail"]
    assert read["time"] == "2025-07-07T08:21:29Z"
    assert read["DeviceId"] == 3
    assert read["isFail"] is False


def test_readings_do_not_change_between_versions() -> None:
    """One reading is known by heart: recorded seeds stay comparable."""
    assert model.encode(model.reading(1, 1, 1, 0)) == (
        b'{"time":"1970-01-01T00:00:00Z","DeviceId":1,'
        b'"sensor1":81.43,"sensor2":-1,"sensor3":75.94,'
        b'"motor1":1248.35,"motor2":794.84,"motor3":996.55,"isFail":false}'
    )


@pytest.mark.parametrize("device", [1, 5, 17])
def test_values_have_the_profile(device: int) -> None:
    """Without noise each field has its device's mean and deviation."""
    readings = [document("healthy", tick, device=device) for tick in range(100, 2100)]
    for name, normal in model.profile(CLEAN.seed, device).items():
        values = [read[name] for read in readings]
        # Five standard errors of a mean and of a deviation of 2000 values.
        assert abs(statistics.fmean(values) - normal.mean) < 5 * normal.sd / 2000**0.5
        assert abs(statistics.stdev(values) - normal.sd) < 5 * normal.sd / 4000**0.5


def test_published_devices_have_the_published_profile() -> None:
    """Devices 1 to 5 are the published ones whatever the seed; others depend on it."""
    assert model.profile(7, 1)["sensor1"] == (80, 5.0)
    assert model.profile(8, 5)["motor3"] == (1140, 94)
    assert model.profile(7, 6) != model.profile(8, 6)


def test_noise_is_as_published() -> None:
    """Sentinels are 2 % of the sensors' and 1 % of the motors' values, outliers 5 and 3 %."""
    readings = [document("healthy", tick, fleet=FLEET) for tick in range(100, 5100)]
    for names, rates in zip((model.SENSORS, model.MOTORS), model.PUBLISHED_NOISE, strict=True):
        values = [(name, read[name]) for read in readings for name in names]
        normals = model.profile(FLEET.seed, 1)
        sentinels = sum(value == -1 for _, value in values) / len(values)
        far = sum(
            value != -1 and abs(value - normals[name].mean) > 3 * normals[name].sd
            for name, value in values
        )
        assert sentinels == pytest.approx(rates.sentinel, rel=0.2)
        # 0.27 % of the normal values are as far.
        assert far / len(values) == pytest.approx(rates.outlier + 0.0027, rel=0.2)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_a_function_of_its_request(name: str) -> None:
    """Asked again for the same request a scenario answers the same bytes and status."""
    for tick in range(100, 130):
        get = ask(name, tick, fleet=FLEET)
        assert scenarios.answer(get) == scenarios.answer(get)


def test_drift_grows() -> None:
    """A drifting field leaves by its rate each tick, up to ten deviations; others stay."""
    for elapsed, sds in ((0, 0), (10, 1), (50, 5), (1000, 10)):
        healthy, drifting = document("healthy", 100 + elapsed), document("drift", 100 + elapsed)
        assert drifting["sensor1"] - healthy["sensor1"] == pytest.approx(sds * 5.0, abs=0.02)
        assert drifting | {"sensor1": 0} == healthy | {"sensor1": 0}


def test_stuck_repeats_its_first_value() -> None:
    """A stuck field keeps its first value while time and the others go on."""
    stuck = [document("stuck", tick, field="sensor3") for tick in range(100, 110)]
    assert len({read["sensor3"] for read in stuck}) == 1
    assert len({read["sensor1"] for read in stuck}) > 1
    assert len({read["time"] for read in stuck}) == 10


def test_step_has_a_magnitude() -> None:
    """A step is as high as it was asked to be."""
    healthy, high = document("healthy", 105), document("step", 105, magnitude=8, field="motor2")
    assert high["motor2"] - healthy["motor2"] == pytest.approx(8 * 80, abs=0.02)


def test_fault_is_correlated() -> None:
    """In a fault the motors fall and the temperature rises together, and isFail says so."""
    healthy, broken = document("healthy", 110), document("fault", 110)
    assert broken["isFail"] is True
    assert broken["sensor1"] > healthy["sensor1"] + 25
    assert broken["motor1"] < 0.7 * healthy["motor1"]
    assert broken["motor3"] < 0.6 * healthy["motor3"]
    assert document("fault", 100)["sensor1"] < broken["sensor1"]


def test_sentinels_and_outliers_have_a_share() -> None:
    """All fields are sentinels, or outliers, when the share is one."""
    missing, far = document("sentinels", 100, magnitude=1), document("outliers", 100, magnitude=1)
    for name, normal in model.profile(CLEAN.seed, 1).items():
        assert missing[name] == -1
        assert 2.99 < abs(far[name] - normal.mean) / normal.sd < 5.01


def test_bad_answers() -> None:
    """Late, failing, unknown, torn and undecodable answers are what they are called."""
    assert scenarios.answer(ask("slow", 100, magnitude=6.5)).delay_seconds == 6.5
    statuses = {scenarios.answer(ask("error_5xx", tick)).status for tick in range(100, 150)}
    assert statuses == {500, 502, 503, 504}
    assert scenarios.answer(ask("not_found", 100)).status == 404
    for name, error in (
        ("truncated", json.JSONDecodeError),
        ("not_utf8", UnicodeDecodeError),
    ):
        with pytest.raises(error):
            json.loads(scenarios.answer(ask(name, 100)).body)
    assert b"NaN" in scenarios.answer(ask("not_json", 100)).body


def test_shapes() -> None:
    """Extra, missing and wrongly typed fields differ from the healthy document."""
    healthy = document("healthy", 100)
    assert document("extra_fields", 100).keys() - healthy.keys() == {
        "firmware",
        "vibration",
        "location",
    }
    assert len(document("missing_fields", 100)) == len(healthy) - 2
    assert len(document("missing_fields", 100, magnitude=99)) == 0
    changed = [document("wrong_types", tick) for tick in range(100, 150)]
    kinds = {(key, type(value)) for read in changed for key, value in read.items()}
    assert {("sensor1", str), ("DeviceId", str), ("time", float), ("isFail", int)} <= kinds


def test_repeated_says_the_same_again() -> None:
    """Every second tick repeats the bytes, time and all, of the one before."""
    bodies = [scenarios.answer(ask("repeated", tick)).body for tick in range(100, 104)]
    assert bodies[0] == bodies[1] != bodies[2] == bodies[3]


def test_conflict_shares_a_time() -> None:
    """Two ticks, and two GETs in one, have the same time and other values."""
    first, again = document("conflict", 100), document("conflict", 100, nth=1)
    second, third = document("conflict", 101), document("conflict", 102)
    assert first["time"] == again["time"] == second["time"] != third["time"]
    assert len({first["sensor1"], again["sensor1"], second["sensor1"]}) == 3


@pytest.mark.parametrize(("name", "seconds"), [("clock_ahead", 300), ("clock_behind", -300)])
def test_wrong_clocks(name: str, seconds: int) -> None:
    """A wrong clock changes the time and nothing else."""
    wrong = document(name, 100)
    assert wrong["time"] == model.timestamp(1000 + seconds)
    assert wrong | {"time": ""} == document("healthy", 100) | {"time": ""}


def test_random_per_get() -> None:
    """As the published server: another reading on each GET, with the time of the clock."""
    first, again = document("healthy", 100, now=1003.5), document("healthy", 100, now=1004.5, nth=1)
    assert (first["time"], again["time"]) == ("1970-01-01T00:16:43Z", "1970-01-01T00:16:44Z")
    assert first["sensor1"] != again["sensor1"]


def test_chaos_is_a_schedule() -> None:
    """Chaos gives about its share of the device-ticks a scenario, the same at every asking."""
    fleet = Fleet(seed=7, device_count=200, chaos=0.25, chaos_episode_ticks=10)
    seen = {
        (device, tick): scenarios.scheduled(fleet, device, tick)
        for device in range(1, 201)
        for tick in range(300)
    }
    wrong = [active for active in seen.values() if active.name != "healthy"]
    assert len(wrong) / len(seen) == pytest.approx(0.25, rel=0.1)
    assert {active.name for active in wrong} == set(scenarios.CHAOS)
    for (device, tick), active in list(seen.items())[::97]:
        assert active.until_tick == active.since_tick + 10
        assert active.since_tick <= tick < active.until_tick
        assert scenarios.scheduled(fleet, device, tick) == active


def test_no_chaos_unless_asked_for() -> None:
    """Without chaos every device is healthy."""
    assert {scenarios.scheduled(FLEET, 1, tick).name for tick in range(100)} == {"healthy"}


def test_a_put_is_read() -> None:
    """What the control API takes becomes a scenario from the present tick on."""
    body = b'{"scenario":"drift","for_ticks":5,"magnitude":0.5,"field":"motor1"}'
    assert control.parse(body, 100, FLEET) == Active("drift", 100, 105, 0.5, "motor1")
    until = b'{"scenario":"slow","until":"1970-01-01T01:00:00+01:00"}'
    assert control.parse(until, 100, FLEET).until_tick == 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"nonsense", "Expecting value"),
        (b"[]", "takes an object with scenario"),
        (b'{"scenario":"drift","speed":1}', "takes an object with scenario"),
        (b'{"scenario":"dirft"}', "got 'dirft'; takes healthy, drift, stuck"),
        (b'{"scenario":["drift"]}', "takes healthy"),
        (b'{"scenario":"drift","field":"x"}', "field: got 'x'; takes sensor1"),
        (b'{"scenario":"drift","for_ticks":"5"}', "for_ticks: got '5'; takes a whole number"),
        (b'{"scenario":"drift","for_ticks":0}', "for_ticks: got 0; takes a whole number from 1"),
        (b'{"scenario":"slow","magnitude":NaN}', "magnitude: got nan; takes a finite number"),
        (b'{"scenario":"slow","magnitude":-1}', "magnitude: got -1; takes a number from 0"),
        (b'{"scenario":"drift","until":"2026-01-01T00:00:00"}', "takes a time with its zone"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_bad_put_says_why(body: bytes, says: str) -> None:
    """What the control API refuses is named, with what it takes."""
    with pytest.raises(ValueError, match=r".") as refused:
        control.parse(body, 100, FLEET)
    assert says in str(refused.value)
