"""Device lists, phases and the timetable."""

from pathlib import Path

import pytest

from ingest import devices
from telemill import contract, errors

FMS = contract.load(Path("contracts/fms.yaml"))
SKAB = contract.load(Path("contracts/skab.yaml"))


def test_reads_ids_and_ranges() -> None:
    """Ranges are inclusive, blanks do no harm, and a device listed twice is polled once."""
    assert devices.parse(" 1-3, 205,2 ,", FMS) == ("1", "2", "3", "205")
    assert devices.parse("", FMS) == ()


@pytest.mark.parametrize("text", ["x", "5-1", "1-", "1-999999999", "1.5", "-", "1--2"])
def test_names_the_entry_that_is_wrong(text: str) -> None:
    """A bad list is a configuration error which quotes the entry."""
    with pytest.raises(errors.ConfigurationError, match=r"^INGEST_DEVICES: got"):
        devices.parse(text, FMS)


def test_text_devices_are_listed() -> None:
    """Ids of a contract with text devices stand as they are, with hyphens and digits in them."""
    assert devices.parse("pump-1, 7,3-B", SKAB) == ("pump-1", "7", "3-B")


@pytest.mark.parametrize("entry", ["1-100", "1 - 100", "5-1"])
def test_a_range_is_no_text_device(entry: str) -> None:
    """A range among text devices is an error, unless quotes say that a device is called so."""
    with pytest.raises(errors.ConfigurationError, match=r"^INGEST_DEVICES: got .* are text"):
        devices.parse(f"pump-1,{entry}", SKAB)
    assert devices.parse(f'pump-1,"{entry}"', SKAB) == ("pump-1", entry)


def test_each_device_keeps_its_phase() -> None:
    """A device is due once an interval, always at its own phase, whatever the others are."""
    alone = devices.Timetable(["7"], 10.0)
    among = devices.Timetable([str(n) for n in range(100)], 10.0)
    due, _ = alone.stop(alone.place_after(1000.0))
    place = among.place_after(1000.0)
    stops = [among.stop(place + n) for n in range(200)]
    assert [at for at, key in stops if key == "7"] == [due, due + 10.0]
    assert sorted(key for _, key in stops[:100]) == sorted(str(n) for n in range(100))


def test_phases_are_spread_over_the_interval() -> None:
    """No tenth of the interval has much more than its share of a large fleet."""
    phases = [devices.phase_of(str(n), 10.0) for n in range(1000)]
    assert all(0 <= phase < 10.0 for phase in phases)
    assert max(sum(int(phase) == second for phase in phases) for second in range(10)) < 150


def test_the_next_stop_is_later_than_now() -> None:
    """Stops come in order of time, and starting at a stop's own time does not repeat it."""
    table = devices.Timetable([str(n) for n in range(50)], 1.0)
    place = table.place_after(1000.0)
    times = [table.stop(place + n)[0] for n in range(120)]
    assert times == sorted(times)
    assert times[0] > 1000.0
    assert table.stop(table.place_after(times[3]))[0] > times[3]


def test_an_unknown_device_is_asked_ever_less_often() -> None:
    """Waits double from one interval up to the longest, and end when the device is known."""
    unknown = devices.UnknownDevices(10.0, longest_seconds=60.0)
    assert [unknown.add("7", 0.0) for _ in range(5)] == [10.0, 20.0, 40.0, 60.0, 60.0]
    assert not unknown.may_ask("7", 50.0)
    assert unknown.may_ask("7", 60.0)
    assert unknown.may_ask("8", 0.0)
    assert unknown.discard("7")
    assert unknown.may_ask("7", 0.0)
    assert not unknown.discard("7")
