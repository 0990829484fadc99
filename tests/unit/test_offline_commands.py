"""What the commands take, refuse and print."""

import argparse
import base64
import json
from typing import Any

import pytest

from offline import options, show
from offline.backfill import run_name
from offline.core import Outcome, Tally
from offline.items import Item, ItemLineage
from offline.places import find_run
from offline.raw_range import ShardRange, TimeRange
from telemill.cli import __main__ as cli
from telemill.kinesis.records import SHARD_END, Record, Shard
from telemill.progress import rules
from telemill.progress.rules import Progress
from telemill.testing.progress import MemoryProgressStore
from transform.testing import plant

MORNING_US = 1_751_846_400_000_000
"""2025-07-07T00:00:00Z."""
SECOND_US = 1_000_000
SHARD = Shard("raw", 1, "shard-a")
RANGE = TimeRange(10 * SECOND_US, 20 * SECOND_US, 5 * SECOND_US)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-07-07", MORNING_US),
        ("2025-07-07T00:00:00", MORNING_US),
        ("2025-07-07T02:00:00.5+02:00", MORNING_US + 500_000),
        ("2025-07-07T00:00Z", MORNING_US),
    ],
)
def test_times(text: str, expected: int) -> None:
    """A time, a day, with or without zone: without it is UTC."""
    assert options.instant(text) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("1.5d", 129_600)]
)
def test_durations(text: str, seconds: int) -> None:
    """A number with its unit; alone it is seconds."""
    assert options.duration_us(text) == seconds * SECOND_US


@pytest.mark.parametrize("text", ["", "h", "1w", "-1s", "soon"])
def test_bad_times_and_durations(text: str) -> None:
    """What is neither is refused with an example."""
    with pytest.raises(argparse.ArgumentTypeError, match="takes a duration"):
        options.duration_us(text)
    with pytest.raises(argparse.ArgumentTypeError, match="takes a time"):
        options.instant(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["backfill", "--from=2025-07-08", "--to=2025-07-07"],
            "--from: 2025-07-08T00:00:00.000Z is",
        ),
        (["backfill", "--from=2025-07-07", "--to=2999-01-01"], "lies in the future"),
        (["quarantine", "list", "--from=2025-07-07", "--to=2025-07-07"], "--from: is not before"),
        (["quarantine", "show", "--limit=0"], "--limit: got 0"),
        (["backfill", "--from=2025-07-07", "--contract=absent.yaml"], "absent.yaml"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An argument that cannot be is named on one line; nothing is read or written."""
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("lineage", ["shard", "shard:x", "shard:1:2:3"])
def test_a_bad_lineage_is_refused(lineage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A lineage is a shard and one or two numbers."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["quarantine", "show", f"--lineage={lineage}"])
    assert ended.value.code == 2
    assert "SHARD:SEQUENCE_NUMBER" in capsys.readouterr().err


def _records(*seconds: float) -> list[Record]:
    return [
        Record(str(index + 1), round(second * SECOND_US), b"", "")
        for index, second in enumerate(seconds)
    ]


def _numbers(records: list[Record]) -> list[str]:
    return [record.sequence_number for record in records]


def test_a_range_begins_and_ends_once() -> None:
    """Arrival times may go back: the first record of the range begins it, the first beyond ends."""
    wanted = ShardRange(RANGE, "99", inside=False)
    part = wanted.take(_records(6, 12, 9, 19, 20, 15), at_tip=False)
    assert _numbers(part.warm_up) == ["1"]
    assert _numbers(part.meant) == ["2", "3", "4"]
    assert wanted.ended
    assert not wanted.cut_short


def test_nothing_above_the_bound_is_taken() -> None:
    """A record of the range above the live position ends it, and that is noted."""
    wanted = ShardRange(RANGE, "2", inside=True)
    assert _numbers(wanted.take(_records(11, 12, 13), at_tip=False).meant) == ["1", "2"]
    assert (wanted.ended, wanted.cut_short) == (True, True)


def test_the_tip_and_an_unread_shard_end_a_range() -> None:
    """At the tip of the stream nothing older can come; without a position nothing is read."""
    wanted = ShardRange(RANGE, SHARD_END, inside=False)
    wanted.take(_records(11), at_tip=True)
    assert wanted.ended
    assert ShardRange(RANGE, None, inside=False).ended


async def test_an_unfinished_run_is_gone_on_with_and_a_finished_one_begun_again() -> None:
    """The turn of a run counts up once all its shards have ended, or with --anew."""
    store = MemoryProgressStore()

    def save(app: str, position: str) -> None:
        key = rules.shard_key(SHARD)
        store.table.items[app, key] = Progress(app, key, position=position)

    assert await find_run(store, "run", [SHARD], anew=False) == "run-0"
    save("run-0", "5")
    assert await find_run(store, "run", [SHARD], anew=False) == "run-0"
    assert await find_run(store, "run", [SHARD], anew=True) == "run-1"
    save("run-0", SHARD_END)
    assert await find_run(store, "run", [SHARD], anew=False) == "run-1"


def test_a_run_is_named_by_what_it_does() -> None:
    """The same command has the same name; another range or incarnation another one."""
    name = run_name("raw", 1, RANGE, plant())
    assert name == run_name("raw", 1, TimeRange(*_fields(RANGE)), plant())
    assert name != run_name("raw", 2, RANGE, plant())
    assert name != run_name("raw", 1, TimeRange(0, RANGE.to_us, RANGE.warm_up_us), plant())


def _fields(of: TimeRange) -> tuple[int, int, int]:
    return of.from_us, of.to_us, of.warm_up_us


def test_the_summary_names_every_figure() -> None:
    """A dry run says what would be added and creates no objects."""
    tally = Tally(records=9, rows=7, added=2, objects=1)
    tally.outcomes.update({Outcome.STORED: 3, Outcome.SAME: 1, Outcome.CONFLICT: 1})
    tally.rejected["future"] = 4
    assert show.tally_entries(tally, dry_run=False, what="records") == {
        "records read": 9,
        "rows derived": 7,
        "already stored": 3,
        "same reading stored already": 1,
        "conflicts": 1,
        "still rejected": 4,
        "added": 2,
        "objects created": 1,
    }
    dry = show.tally_entries(tally, dry_run=True, what="items")
    assert dry["would be added"] == 2
    assert "objects created" not in dry


def _item(body: bytes) -> Item:
    return Item(ItemLineage("raw", "shard-a", "7", 3), "decode", "no", None, MORNING_US, 1, body)


@pytest.mark.parametrize(
    ("body", "encoding", "shown"),
    [
        (b'{"a":\t1}\n', "text", '{"a":\t1}\n'),
        (b"\xff\x00", "base64", base64.b64encode(b"\xff\x00").decode()),
        (b"\x1b[2J", "base64", base64.b64encode(b"\x1b[2J").decode()),
    ],
    ids=["text", "binary", "escape sequence"],
)
def test_a_body_is_shown_as_text_only_if_a_terminal_can_take_it(
    body: bytes, encoding: str, shown: str
) -> None:
    """Binary and control characters are encoded; JSON output holds all of the body."""
    entry: dict[str, Any] = show.item_entry(_item(body))
    assert (entry["body_encoding"], entry["body"]) == (encoding, shown)
    assert json.loads(json.dumps(entry))["lineage"] == "shard-a:7:3"
    assert "\x1b" not in show.item_text(_item(body))
