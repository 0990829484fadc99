"""The synthetic fleet through the service's code: tables, CSV files and pictures."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.anomaly import faults, fleet, fleet_figures, pictures, plant, service_path
from bench.anomaly.fleet import DAY, Fleet
from bench.anomaly.fleet_figures import Found, Rate
from bench.anomaly.service_path import FleetScored
from telemill import contract

FMS = Path(__file__).parents[2] / "contracts" / "fms.yaml"
PASSING = ("gap", "restart", "field missing")


class Table(NamedTuple):
    """One table: of the terminal, and a CSV file."""

    name: str
    title: str
    head: Sequence[str]
    rows: list[Sequence[str]]


def three_days(results: Path, made: Fleet | None = None) -> list[Table]:
    """Score a fleet, by default that of a hundred machines; write what was found."""
    made = made or fleet.three_days()
    scored = _scored(made)
    raised = fleet_figures.episodes_of(scored)
    found = [fleet_figures.judge(each, scored, raised) for each in made.events if each.fault]
    tables = [
        _by_kind(made, scored, raised, found),
        _by_channel(found),
        _quiet(made, scored, raised),
        _changes(made, raised),
        _newcomers(made, scored, raised, found),
    ]
    _write(results, [*tables, _all_faults(made, found)])
    pictures.channels(found, results / "channels.png")
    pictures.device(made, scored, raised, results / "device.png")
    return tables


def month(results: Path) -> list[Table]:
    """Score eight machines for thirty days; write what was found."""
    made = fleet.month()
    scored = _scored(made)
    raised = fleet_figures.episodes_of(scored)
    found = [fleet_figures.judge(each, scored, raised) for each in made.events if each.fault]
    table = _by_week(made, scored, raised, found)
    changes = _changes(made, raised)._replace(
        name="month-changes", title="A month: set points changed for good on day 10"
    )
    _write(results, [table, changes])
    pictures.month(made, scored, raised, results / "month.png")
    return [table, changes]


def _scored(made: Fleet) -> FleetScored:
    readings = contract.load(FMS)
    values = made.values
    for index, field in enumerate(readings.measures):
        # As transform does: what the contract does not allow is missing.
        series = values[:, :, index]
        low = -np.inf if field.low is None else field.low
        high = np.inf if field.high is None else field.high
        series[(series < low) | (series > high)] = np.nan
    ticks = np.arange(len(values), dtype=np.int64)
    event_us = fleet.START_US + ticks * int(fleet.INTERVAL_SECONDS * 1e6)
    return service_path.score_fleet(
        values, made.present, event_us, readings, snapshot_every=fleet.DAY
    )


def _percent(part: float, whole: float) -> str:
    return f"{100.0 * part / whole:.0f} %" if whole else "-"


def _spread(values: Iterable[int]) -> str:
    known = [each for each in values if each >= 0]
    if not known:
        return "-"
    return f"{np.median(known):.0f} ({np.quantile(known, 0.9):.0f})"


def _of_kind(found: Iterable[Found]) -> dict[str, list[Found]]:
    by_kind: dict[str, list[Found]] = {kind: [] for kind in [*faults.FAULTS, faults.FLEET_WIDE]}
    for each in found:
        by_kind[each.event.kind].append(each)
    return {kind: each for kind, each in by_kind.items() if each}


def _by_kind(
    made: Fleet,
    scored: FleetScored,
    raised: list[fleet_figures.Episode],
    found: list[Found],
) -> Table:
    calm = fleet_figures.settled(made) & ~fleet_figures.affected(made)
    rates = [
        fleet_figures.false_alarms(
            "", np.flatnonzero(made.shift == works), made, scored, raised, calm
        ).per_device_day
        for works in (False, True)
    ]
    own = set(made.of_group("faults", "well").tolist())
    own_faults = [each for each in found if each.event.device in own]
    rows = [_kind(kind, each, made, rates) for kind, each in _of_kind(own_faults).items()]
    head = (
        "fault",
        "number",
        "alert, steady",
        "alert, shift",
        "by chance",
        "flagged",
        "readings until the alert, median (90 %)",
        "right channel",
    )
    return Table("by-kind", "Faults by kind", head, rows)


def _kind(kind: str, found: list[Found], made: Fleet, rates: list[float]) -> list[str]:
    told = [each for each in found if each.delay >= 0]
    seen = [each for each in found if each.flagged >= 0]
    length = found[0].event.last - found[0].event.first + 1 + fleet_figures.GRACE
    chance = np.mean([1.0 - np.exp(-rate * length / DAY) for rate in rates])
    shares = []
    for works in (False, True):
        own = [each for each in found if made.shift[each.event.device] == works]
        shares.append(_percent(sum(each.delay >= 0 for each in own), len(own)))
    return [
        kind,
        str(len(found)),
        *shares,
        _percent(float(chance), 1.0),
        _percent(len(seen), len(found)),
        _spread(each.delay for each in found),
        _percent(sum(each.named for each in told or seen), len(told or seen)),
    ]


def _by_channel(found: list[Found]) -> Table:
    rows = []
    for kind, each in _of_kind(found).items():
        row = [kind]
        for field in range(len(plant.FIELDS)):
            own = [one for one in each if one.event.field == field]
            row.append(_percent(sum(one.delay >= 0 for one in own), len(own)))
        rows.append(row)
    return Table("by-channel", "Alerts by channel", ("fault", *plant.FIELDS), rows)


def _quiet(made: Fleet, scored: FleetScored, raised: list[fleet_figures.Episode]) -> Table:
    calm = fleet_figures.settled(made) & ~fleet_figures.affected(made)
    first = ~fleet_figures.settled(made) & ~fleet_figures.affected(made)
    kinds = [("steady", ~made.shift), ("shift", made.shift)]
    rates = []
    for group, what in (
        ("well", "well"),
        ("faults", "between faults"),
        ("changing", "before and after a change"),
        ("patchy", "a tenth of the values missing"),
    ):
        for works, chosen in kinds:
            devices = [each for each in made.of_group(group).tolist() if chosen[each]]
            rates.append(
                fleet_figures.false_alarms(f"{what}, {works}", devices, made, scored, raised, calm)
            )
    everyone = range(made.present.shape[1])
    rates.append(
        fleet_figures.false_alarms(
            "the first twelve hours of a device", everyone, made, scored, raised, first
        )
    )
    for kind in PASSING:
        within = np.zeros(made.present.shape, bool)
        for event in made.events:
            if event.kind == kind:
                within[event.first : event.last + fleet.HOUR + 1, event.device] = True
        patchy = made.of_group("patchy")
        rates.append(
            fleet_figures.false_alarms(
                f"{kind}, and the hour after", patchy, made, scored, raised, within
            )
        )
    head = ("false alarms", "device-days", "alerts", "a device and day", "readings flagged")
    return Table("false-alarms", "Alerts without a fault", head, [_rate(each) for each in rates])


def _rate(rate: Rate) -> list[str]:
    return [
        rate.name,
        f"{rate.device_days:.1f}",
        str(rate.alerts),
        f"{rate.per_device_day:.2f}",
        f"{100.0 * rate.flagged:.2f} %",
    ]


def _changes(made: Fleet, raised: list[fleet_figures.Episode]) -> Table:
    rows = []
    last = len(made.present) - 1
    for kind in fleet_figures.PERMANENT:
        events = [each for each in made.events if each.kind == kind]
        if not events:
            continue
        found = []
        for event in events:
            later = [
                each.first
                for each in made.events
                if each.fault and each.device == event.device and each.first > event.first
            ]
            found.append(fleet_figures.settle(event, raised, min([last, *later])))
        rows.append(
            [
                kind,
                str(len(found)),
                f"{np.mean([each.alerts for each in found]):.1f}",
                _spread(each.quiet for each in found),
                str(max(each.quiet for each in found)),
                str(sum(each.quiet < 0 for each in found)),
            ]
        )
    head = (
        "change",
        "number",
        "alerts each",
        "readings until quiet, median (90 %)",
        "most",
        "never quiet",
    )
    return Table("changes", "Changes for good (no fault)", head, rows)


def _newcomers(
    made: Fleet,
    scored: FleetScored,
    raised: list[fleet_figures.Episode],
    found: list[Found],
) -> Table:
    late = made.of_group("late").tolist()
    first = [each for each in range(made.present.shape[1]) if each not in late]
    struck = {each.device for each in made.events if each.fault}
    early = [each for each in found if each.event.device in late]
    after = [each for each in found if each.event.device in made.of_group("changing")]
    begin = made.present.argmax(axis=0)
    ticks = np.arange(len(made.present))[:, None]
    hours = (ticks < begin + 6 * fleet.HOUR) & ~fleet_figures.affected(made)
    healthy = [each for each in late if each not in struck]
    rate = fleet_figures.false_alarms("", healthy, made, scored, raised, hours)
    rows = [
        [
            "readings before the first score: first devices, newcomers",
            (
                f"{_spread(fleet_figures.first_scores(made, scored, first))}, "
                f"{_spread(fleet_figures.first_scores(made, scored, late))}"
            ),
        ],
        [
            "newcomers: alerts in the first six hours, without a fault",
            f"{rate.alerts} in {rate.device_days:.1f} device-days",
        ],
        [
            f"newcomers: step at reading {fleet.EARLY_FAULT} found",
            (
                f"{sum(each.delay >= 0 for each in early)} of {len(early)}, "
                f"after {_spread(each.delay for each in early)} readings"
            ),
        ],
        [
            "changed devices: step 30 hours after the change found",
            (
                f"{sum(each.delay >= 0 for each in after)} of {len(after)}, "
                f"after {_spread(each.delay for each in after)} readings"
            ),
        ],
    ]
    together = [each for each in found if each.event.kind == faults.FLEET_WIDE]
    if together:
        first, last = together[0].event.first, together[0].event.first + fleet_figures.GRACE
        alone, groups = fleet_figures.openings(scored, first, last)
        of_devices = sum(each.delay >= 0 for each in together)
        rows.append(
            [
                f"{len(together)} devices failing together: messages in the first readings",
                f"{groups} of groups, {alone} of devices alone; {of_devices} devices found",
            ]
        )
    return Table("newcomers", "New, changed and many devices", ("what", "result"), rows)


def _by_week(
    made: Fleet,
    scored: FleetScored,
    raised: list[fleet_figures.Episode],
    found: list[Found],
) -> Table:
    calm = ~fleet_figures.affected(made)
    calm[:DAY] = False
    ticks = np.arange(len(calm))[:, None]
    rows = []
    for first in range(0, fleet.LONG_DAYS, 5):
        within = calm & (ticks >= first * DAY) & (ticks < (first + 5) * DAY)
        rates = [
            fleet_figures.false_alarms("", np.flatnonzero(chosen), made, scored, raised, within)
            for chosen in (~made.shift, made.shift)
        ]
        own = [each for each in found if first * DAY <= each.event.first < (first + 5) * DAY]
        sizes = scored.snapshot_bytes[first : first + 5]
        rows.append(
            [
                f"{first + 1}-{first + 5}",
                *(f"{each.per_device_day:.2f}" for each in rates),
                f"{sum(each.delay >= 0 for each in own)} of {len(own)}",
                _spread(each.delay for each in own),
                f"{sizes[-1] / 1000:.0f} KB",
            ]
        )
    head = (
        "days",
        "false alarms a device-day, steady",
        "shift",
        "the same fault again: found",
        "readings until the alert, median (90 %)",
        "saved state of 8 devices",
    )
    return Table("month", "A month", head, rows)


def _all_faults(made: Fleet, found: list[Found]) -> Table:
    rows = [
        [
            each.event.kind,
            str(each.event.device + 1),
            plant.FIELDS[each.event.field],
            "shift" if made.shift[each.event.device] else "steady",
            str(each.event.first),
            str(each.event.last),
            str(each.flagged),
            str(each.delay),
            str(int(each.named)),
        ]
        for each in found
    ]
    head = ("kind", "device", "field", "works", "first", "last", "flagged", "alert", "named")
    return Table("faults", "", head, rows)


def _write(results: Path, tables: list[Table]) -> None:
    results.mkdir(parents=True, exist_ok=True)
    for table in tables:
        with (results / f"{table.name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table.head)
            writer.writerows(table.rows)
