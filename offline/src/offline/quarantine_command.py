"""`telemill quarantine`: list, show and replay what could not be a reading."""

import argparse
import json
import sys
import time
from collections import Counter
from functools import partial
from typing import Any

from offline import options, quarantined, show, wiring
from offline.backfill import wait_for_live_path
from offline.derive import ItemDeriver, raw_range_of
from offline.items import Item, Selection
from offline.live import Passed
from offline.replay import Replay
from offline.wiring import Tools
from telemill import names
from telemill.errors import ConfigurationError

PROG = "telemill quarantine"
DEFAULT_LIMIT = 20
US_PER_MINUTE = 60_000_000


def register(commands: Any) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "quarantine", help="list, show and replay what could not be a reading"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _register_list(actions)
    _register_show(actions)
    _register_replay(actions)


def _register_list(actions: Any) -> None:
    text = "count items by day of arrival, reason and device"
    parser = actions.add_parser("list", help=text, description=text)
    _add_filters(parser)
    _add_bucket(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=_run_list)


def _register_show(actions: Any) -> None:
    text = "show items: why they were put aside, and their original bytes"
    parser = actions.add_parser("show", help=text, description=text)
    _add_filters(parser)
    _add_bucket(parser)
    parser.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"show so many at most (default {DEFAULT_LIMIT})",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object a line, whole bodies")
    shape.add_argument(
        "--raw", action="store_true", help="write the original bytes of exactly one item"
    )
    parser.set_defaults(run=_run_show)


def _register_replay(actions: Any) -> None:
    text = "try items again under today's contract and add those that are readings now"
    parser = actions.add_parser(
        "replay",
        help=text,
        description=f"{text[0].upper()}{text[1:]}, with their original lineage. Without --yes it"
        " only shows what would happen. Replayed twice, or beside a backfill, nothing comes twice.",
    )
    _add_filters(parser)
    parser.add_argument("--yes", action="store_true", help="add them")
    parser.add_argument(
        "--include-conflicts",
        action="store_true",
        help="also items that differ from the stored reading of their device and time: each"
        " becomes a further row beside it",
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait until the live services have passed the items"
    )
    options.add_resources(parser)
    parser.set_defaults(run=_run_replay)


def _add_filters(parser: Any) -> None:
    group = parser.add_argument_group("which items (all of these must hold)")
    group.add_argument(
        "--from", dest="from_us", type=options.instant, metavar="T1", help="first arrival"
    )
    group.add_argument(
        "--to", dest="to_us", type=options.instant, metavar="T2", help="arrival before which"
    )
    group.add_argument(
        "--reason", action="append", default=[], help="such as not_json; may be repeated"
    )
    group.add_argument("--device", action="append", default=[], help="may be repeated")
    group.add_argument(
        "--lineage",
        action="append",
        default=[],
        type=_lineage,
        metavar="SHARD:SEQUENCE_NUMBER[:SUB]",
        help="as `show` prints it; may be repeated",
    )


def _add_bucket(parser: Any) -> None:
    parser.add_argument(
        "--lake-bucket",
        default=names.LAKE_BUCKET,
        metavar="NAME",
        help=f"S3 bucket of the quarantine (default {names.LAKE_BUCKET})",
    )


def _lineage(text: str) -> tuple[str, str, int | None]:
    parts = text.split(":")
    if len(parts) not in {2, 3} or not all(part.isdecimal() for part in parts[1:]):
        raise argparse.ArgumentTypeError(f"{text}: takes SHARD:SEQUENCE_NUMBER or with :SUB")
    return parts[0], parts[1], int(parts[2]) if len(parts) == 3 else None


def _selection(chosen: argparse.Namespace) -> Selection:
    if None not in {chosen.from_us, chosen.to_us} and chosen.from_us >= chosen.to_us:
        raise ConfigurationError("--from: is not before --to")
    return Selection(
        chosen.from_us,
        chosen.to_us,
        frozenset(chosen.reason),
        frozenset(chosen.device),
        frozenset(chosen.lineage),
    )


# --- list ------------------------------------------------------------------------------------


def _run_list(chosen: argparse.Namespace) -> int:
    return wiring.run(PROG, partial(_list, chosen, _selection(chosen)))


async def _list(chosen: argparse.Namespace, selection: Selection) -> int:
    counts: Counter[tuple[str, str, str, str | None]] = Counter()
    async with wiring.lake_of(chosen) as lake:
        async for found in quarantined.read(lake, selection):
            for item in found:
                day = options.shown_time(item.arrival_us)[:10]
                counts[day, item.lineage.stream, item.reason, item.device_id] += 1
    columns = ("day", "stream", "reason", "device")
    entries = [
        {**dict(zip(columns, key, strict=True)), "items": counts[key]}
        for key in sorted(counts, key=lambda each: (*each[:3], each[3] or ""))
    ]
    if chosen.json:
        sys.stdout.writelines(f"{json.dumps(entry)}\n" for entry in entries)
    elif entries:
        show.console.print(show.counts_table(entries))
        show.console.print(f"{counts.total():,} items")
    else:
        show.console.print("nothing is quarantined that fits")
    return wiring.EXIT_OK


# --- show ------------------------------------------------------------------------------------


def _run_show(chosen: argparse.Namespace) -> int:
    if chosen.limit < 1:
        raise ConfigurationError(f"--limit: got {chosen.limit}, takes a whole number from 1 on")
    return wiring.run(PROG, partial(_show, chosen, _selection(chosen)))


async def _show(chosen: argparse.Namespace, selection: Selection) -> int:
    limit = 2 if chosen.raw else chosen.limit
    found: list[Item] = []
    async with wiring.lake_of(chosen) as lake:
        async for of_day in quarantined.read(lake, selection):
            found += of_day
            if len(found) > limit:
                break
    if chosen.raw:
        return _write_raw(found)
    for item in found[:limit]:
        text = json.dumps(show.item_entry(item)) if chosen.json else show.item_text(item)
        sys.stdout.write(f"{text}\n")
    if not found:
        sys.stderr.write(f"{PROG}: no item fits\n")
        return wiring.EXIT_FAILED
    if len(found) > limit:
        sys.stderr.write(f"{PROG}: more items fit; see --limit\n")
    return wiring.EXIT_OK


def _write_raw(found: list[Item]) -> int:
    if len(found) != 1:
        some = "no item fits" if not found else "more than one item fits"
        raise ConfigurationError(f"--raw: {some}, takes exactly one; name it with --lineage")
    sys.stdout.buffer.write(found[0].body)
    return wiring.EXIT_OK


# --- replay ----------------------------------------------------------------------------------


def _run_replay(chosen: argparse.Namespace) -> int:
    return wiring.run(PROG, partial(_replay, chosen, _selection(chosen)))


async def _replay(chosen: argparse.Namespace, selection: Selection) -> int:
    async with wiring.tools(chosen) as having:
        passed = await _passed(chosen, having, selection)
        deriver = ItemDeriver(having.contract)
        table = await wiring.additions(
            having,
            deriver.form,
            chosen,
            dry_run=not chosen.yes,
            add_conflicts=chosen.include_conflicts,
        )
        replay = Replay(
            deriver,
            table,
            passed,
            raw_stream=chosen.stream,
            readings_stream=chosen.readings_stream,
            include_conflicts=chosen.include_conflicts,
        )
        async for found in quarantined.read(having.lake, selection):
            await replay.take(found)
    return _report(chosen, replay)


async def _passed(chosen: argparse.Namespace, having: Tools, selection: Selection) -> Passed:
    """Where the live path is, once it has passed the newest item."""
    newest_us = 0
    async for found in quarantined.read(having.lake, selection):
        newest_us = max(newest_us, *(item.arrival_us for item in found))
    return await wait_for_live_path(
        having.live,
        newest_us + 1,
        patience_seconds=None if chosen.wait else wiring.PATIENCE_SECONDS,
        waiting=wiring.Teller(show.progress_console).waiting,
        monotonic=time.monotonic,
    )


def _report(chosen: argparse.Namespace, replay: Replay) -> int:
    entries = show.tally_entries(replay.tally, dry_run=not chosen.yes, what="items")
    left = replay.left
    more = {
        "conflicts not tried (--include-conflicts)": left.conflicts,
        "not tried: the live services have not passed them": len(left.above),
        "not tried: of a stream without readings": left.foreign,
    }
    entries |= {name: count for name, count in more.items() if count}
    show.summary("quarantine replay", entries, replay.tally.rejected)
    for line in sorted({_advice(chosen, item) for item in replay.undecodable}):
        sys.stdout.write(f"{line}\n")
    if not chosen.yes and replay.tally.added:
        sys.stdout.write("Nothing was written; add --yes to add them.\n")
    return wiring.EXIT_FAILED if left.above else wiring.EXIT_OK


def _advice(chosen: argparse.Namespace, item: Item) -> str:
    """What to do about a batch nobody can read: its readings are in the raw stream."""
    header = raw_range_of(item.body)
    stream = header.raw_stream if header else chosen.stream
    first = item.arrival_us // US_PER_MINUTE * US_PER_MINUTE
    start, end = first - 60 * US_PER_MINUTE, first + US_PER_MINUTE
    return (
        f"{item.lineage}: cannot be read; re-read what it was made of: telemill backfill"
        f" --stream {stream} --from {options.shown_time(start)} --to {options.shown_time(end)}"
    )
