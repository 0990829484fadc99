"""Alerting as a whole: the cut into chunks and a restored state change no message and no row."""

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from anomaly import alert_rows, alerting, groups, state
from anomaly.alerting import Policy, Scored
from anomaly.detection.interface import Batch, Scores
from anomaly.episodes import Hysteresis
from anomaly.messages import Alert, Message
from telemill import contract
from telemill.codec import wire

FMS = contract.load("contracts/fms.yaml")
COLUMNS = [each.column for each in FMS.measures]
FIRST_US = 1_760_000_000_000_000
ROWS = 600
DEVICES = 8
SLOTS = range(4)
POLICY = Policy(Hysteresis(3, 4, 20.0), update_seconds=60.0, grouping=groups.Grouping(3, 20.0))


def readings() -> Scored:
    """Eight devices, one reading a second in turn; episodes alone and together, some critical."""
    random = np.random.default_rng(5)
    rows = np.arange(ROWS)
    devices = rows % DEVICES
    anomalous = (random.random(ROWS) < 0.3) & (rows // 100 % 2 == 1)
    anomalous |= (devices < 5) & (rows > 210) & (rows < 400)
    anomalous |= (devices == 7) & (rows > 480)
    score = np.where(anomalous, 0.998, 0.5)
    score[(devices == 2) & (rows > 300) & anomalous] = 0.9999999
    shares = random.dirichlet(np.ones(len(COLUMNS)), ROWS)
    values = random.normal(50, 2, (ROWS, len(COLUMNS)))
    expected = np.full_like(values, 50.0)
    event_us = FIRST_US + rows * 1_000_000
    return Scored(
        Batch(values, devices, event_us),
        Scores(score, shares, expected),
        anomalous,
        event_us + random.integers(0, 3_000_000, ROWS),
        lambda row: ("shardId-0", str(10**55 + row), 0),
    )


def part(whole: Scored, first: int, last: int) -> Scored:
    """Some of the rows, as another chunk."""
    rows = np.arange(first, last)
    scores = Scores(*(each[rows] for each in whole.scores))
    lineage = whole.lineage
    return Scored(
        whole.batch.at(rows),
        scores,
        whole.anomalous[rows],
        whole.arrival_us[rows],
        lambda row: lineage(first + row),
    )


def begun() -> state.State:
    """Eight devices in four slots."""
    made = state.empty(begin, len(COLUMNS))
    for device in range(DEVICES):
        made.row_of(str(device), device % len(SLOTS))
    return made


def begin(_devices: int) -> dict[str, np.ndarray]:
    """A detector that remembers nothing."""
    return {}


def follow(edges: list[int], *, restored: bool = False) -> tuple[list[Message], list[Alert]]:
    """All messages and rows when readings come in chunks with these edges."""
    whole, going = readings(), begun()
    following = alerting.Alerting(POLICY, COLUMNS, "fms", "ensemble/1")
    told, rows = [], []
    for first, last in zip([0, *edges], [*edges, ROWS], strict=True):
        found = following.take(part(whole, first, last), going)
        told += found.messages
        rows += [alert for _, alert in found.rows]
        if restored:
            going = state.restore([state.snapshot(going)], begin, SLOTS, len(COLUMNS))
    return told, rows


def test_the_example_has_everything() -> None:
    """Single alerts, groups, updates and closings: what the other tests compare is not empty."""
    told, rows = follow([])
    assert {(each.kind, each.state) for each in told} == {
        (kind, state) for kind in ("device", "group") for state in ("open", "update", "closed")
    }
    assert {each.state for each in rows} == {"open", "update", "closed"}
    assert any(each.group_id for each in rows)


@pytest.mark.parametrize("size", [1, 7, 50, 333])
@pytest.mark.parametrize("restored", [False, True])
def test_chunks_and_restarts_change_nothing(size: int, restored: bool) -> None:
    """Messages come in the same order with the same content, also through snapshots."""
    assert follow(list(range(size, ROWS, size)), restored=restored) == follow([])


def test_every_message_has_an_id_of_its_own() -> None:
    """A receiver that keeps message ids drops repetitions and nothing else."""
    told, _ = follow([])
    assert len({each.message_id for each in told}) == len(told)


def test_rows_of_an_episode_count_without_a_gap() -> None:
    """From its opening on, each episode's rows have 0, 1, 2, ...: a lost row would show."""
    _, rows = follow([])
    by_alert: dict[str, list[Alert]] = {}
    for each in rows:
        by_alert.setdefault(each.alert_id, []).append(each)
    for story in by_alert.values():
        assert [each.sequence for each in story] == list(range(len(story)))
        assert story[0].state == "open"
        assert all(each.state != "closed" for each in story[:-1])


def test_who_is_told_by_a_group_is_not_told_alone() -> None:
    """Each opened episode is in messages of its own or of its group, never of both."""
    told, rows = follow([])
    alone = {each.alert_id for each in told if isinstance(each, Alert) and each.state == "open"}
    together = {
        member.alert_id for each in told if not isinstance(each, Alert) for member in each.members
    }
    assert not alone & together
    assert alone | together == {each.alert_id for each in rows if each.state == "open"}


def test_a_message_shows_the_last_five_readings() -> None:
    """The newest is the message's own; the values are those that came."""
    whole = readings()
    opened = next(each for each in follow([7 * n for n in range(1, 80)])[1])
    row = int(opened.lineage[1]) - 10**55
    rows = np.flatnonzero(whole.batch.devices[: row + 1] == int(opened.device_id))[-5:]
    leading = next(iter(opened.fields))
    wanted = whole.batch.values[rows, COLUMNS.index(leading)].tolist()
    assert [each.values[leading] for each in opened.recent] == wanted
    assert opened.recent[-1].event_time == opened.event_time


def test_a_split_takes_stories_to_the_slots_of_their_devices() -> None:
    """Each child goes on with the episodes of its own devices, and nobody with both."""
    going = begun()
    following = alerting.Alerting(POLICY, COLUMNS, "fms", "ensemble/1")
    following.take(part(readings(), 0, 320), going)
    saved = state.snapshot(going)
    low, high = (
        state.restore([saved], begin, slots, len(COLUMNS)).telling for slots in ({0, 1}, {2, 3})
    )
    assert set(low.stories) | set(high.stories) == set(going.telling.stories)
    assert low.stories
    assert high.stories
    assert not set(low.stories) & set(high.stories)


def test_rows_say_what_the_messages_say() -> None:
    """A row has its alert's figures, its reading's times and lineage, and what is muted."""
    whole, going = readings(), begun()
    following = alerting.Alerting(POLICY, COLUMNS, "fms", "ensemble/1")
    told = following.take(whole, going).rows
    times = pa.array(whole.batch.event_us, pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "device_id": pa.array(whole.batch.devices),
            "event_time": times,
            "ingest_time": times,
            "sequence_number": [whole.lineage(row)[1] for row in range(ROWS)],
            "sub_sequence_number": pa.array([0] * ROWS, pa.int64()),
        }
    )
    header = wire.Header("readings", "fms", 1, 3, "transform", "readings-raw", 1, "shardId-0")
    (made,) = alert_rows.split(
        alert_rows.batch(FMS, told, table, whole), [header] * len(told), "anomaly"
    )
    output = made.output({"7"})
    decoded, batch = wire.decode(output.data, lambda _: FMS.alert_stream_schema)
    assert (decoded.kind, decoded.producer, decoded.slot) == ("alerts", "anomaly", 3)
    rows = batch.to_pylist()
    for row, (number, alert) in zip(rows, told, strict=True):
        assert row["alert_id"] == alert.alert_id
        assert row["sequence_number"] == str(10**55 + number) == alert.lineage[1]
        assert row["muted"] is (alert.device_id == "7")
        assert row["seen"] == alert.seen[row["top_field"]]
        assert row["group_id"] == alert.group_id
    numbers = [row["sequence_number"] for row in rows]
    assert numbers == sorted(set(numbers))


def test_a_state_that_tells_nothing_yet_is_an_empty_one() -> None:
    """States saved before alerts had stories go on: an open episode closes with what is known."""
    going = begun()
    following = alerting.Alerting(POLICY, COLUMNS, "fms", "ensemble/1")
    whole = readings()
    following.take(part(whole, 0, 320), going)
    assert alerting.restore([b""], SLOTS) == alerting.Telling()
    going.telling = alerting.restore([b""], SLOTS)
    told = following.take(part(whole, 320, ROWS), going).messages
    assert "closed" in {each.state for each in told}
    assert msgspec.json.encode(told)
