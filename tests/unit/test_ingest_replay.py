"""Replay of files, with a stream of the test's own."""

import asyncio
import io
import itertools
import os
from pathlib import Path

import msgspec
import pytest

from ingest import progress_line, replay
from telemill import contract, errors
from telemill.codec import raw
from telemill.kinesis.records import Record, Shard

FMS = contract.load(Path("contracts/fms.yaml"))
SHARD = Shard("readings-raw", 1, "shardId-000000000000")


Shown = list[replay.Progress]


class FakeStream:
    """Takes records; fails after some."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.items: list[bytes] = []
        self._left = fail_after

    async def put(self, _slot: int, data: bytes, _key: str) -> "asyncio.Future[str]":
        """As the writer."""
        ack: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if self._left == 0:
            ack.set_exception(errors.ServiceUnavailableError("away"))
            ack.exception()  # as the writer does: nobody has to look
            return ack
        self._left = None if self._left is None else self._left - 1
        for document in raw.documents(Record("1", 0, data, "k"), SHARD)[0]:
            self.items += raw.lines(document.data)
        ack.set_result("1")
        return ack


async def load(
    path: Path, stream: FakeStream, complaints: list[str] | None = None
) -> replay.Progress:
    """Load a file whole."""
    target = replay.Target(stream, "readings-raw", "ndjson", 64)
    said = [] if complaints is None else complaints
    loading = replay.Replay(
        target, FMS, shown=lambda *_: None, complained=said.append, monotonic=lambda: 0.0
    )
    return await loading.load(path, asyncio.Event())


def lines(count: int, first: int = 0) -> list[bytes]:
    """Readings of some devices."""
    return [
        f'{{"time":"2025-07-07T08:21:29Z","DeviceId":{n % 50},"sensor1":{n}}}'.encode()
        for n in range(first, first + count)
    ]


async def test_loads_every_line_once_in_order(tmp_path: Path) -> None:
    """All readings of a file are in the stream, those of one device in the file's order."""
    file = tmp_path / "history.ndjson"
    file.write_bytes(b"\n".join(lines(20_000)) + b"\n")
    stream = FakeStream()
    progress = await load(file, stream)
    assert sorted(stream.items) == sorted(lines(20_000))
    of_seven = [item for item in stream.items if b'"DeviceId":7,' in item]
    assert of_seven == [line for line in lines(20_000) if b'"DeviceId":7,' in line]
    assert (progress.accepted, progress.refused) == (20_000, 0)
    assert progress.acknowledged_bytes == file.stat().st_size


async def test_resumes_where_kinesis_stopped(tmp_path: Path) -> None:
    """After a failure the next run sends what was not acknowledged, and little twice."""
    file = tmp_path / "history.ndjson"
    file.write_bytes(b"\n".join(lines(100_000)))
    failing = FakeStream(fail_after=700)
    with pytest.raises(errors.ServiceUnavailableError):
        await load(file, failing)
    saved = replay.read_progress(file, "readings-raw")
    assert 0 < saved.acknowledged_bytes < file.stat().st_size
    rest = FakeStream()
    await load(file, rest)
    assert set(failing.items) | set(rest.items) == set(lines(100_000))
    assert len(failing.items) + len(rest.items) < 150_000


async def test_a_loaded_file_is_not_loaded_again(tmp_path: Path) -> None:
    """A second run sends nothing; lines appended since are sent."""
    file = tmp_path / "history.ndjson"
    file.write_bytes(b"\n".join(lines(10)) + b"\n")
    await load(file, FakeStream())
    again = FakeStream()
    await load(file, again)
    assert not again.items
    with file.open("ab") as more:
        more.write(b"\n".join(lines(5, first=10)))
    await load(file, again)
    assert sorted(again.items) == sorted(lines(5, first=10))


async def test_stops_when_asked_and_remembers(tmp_path: Path) -> None:
    """Ctrl-C ends after the piece in work; what was sent is acknowledged and remembered."""
    file = tmp_path / "history.ndjson"
    file.write_bytes(b"\n".join(lines(20_000)))
    stream, stop = FakeStream(), asyncio.Event()
    stop.set()
    target = replay.Target(stream, "readings-raw", "ndjson", 64)
    loading = replay.Replay(target, FMS, shown=lambda *_: None, complained=print)
    progress = await loading.load(file, stop)
    assert 0 < progress.accepted == len(stream.items) < 20_000
    assert replay.read_progress(file, "readings-raw") == progress


async def test_csv_becomes_the_same_json(tmp_path: Path) -> None:
    """Columns are payload names; number lexemes stay, empty cells are null, text stays text."""
    file = tmp_path / "history.csv"
    file.write_bytes(
        b"\xef\xbb\xbftime,DeviceId,sensor1,isFail,note\r\n"
        b'2025-07-07T08:21:29Z,5,85.690,TRUE,"a,b"\r\n'
        b"2025-07-07T08:21:39Z,5,,0,\r\n"
        b"2025-07-07T08:21:49Z,5,NaN,maybe,\r\n"
    )
    stream = FakeStream()
    await load(file, stream)
    assert stream.items == [
        b'{"time":"2025-07-07T08:21:29Z","DeviceId":5,"sensor1":85.690,"isFail":true}',
        b'{"time":"2025-07-07T08:21:39Z","DeviceId":5,"sensor1":null,"isFail":false}',
        b'{"time":"2025-07-07T08:21:49Z","DeviceId":5,"sensor1":"NaN","isFail":"maybe"}',
    ]


async def test_lines_that_cannot_be_readings_are_named(tmp_path: Path) -> None:
    """Each is reported with its line number, counted, and keeps none of the others out."""
    file = tmp_path / "history.csv"
    file.write_bytes(
        b"DeviceId,time\n5,2025-07-07T08:21:29Z\n\nx,2025-07-07T08:21:29Z\n5\n\xff,1\n"
        b'5,"2025\n5,2025-07-07T08:21:39Z\n'
    )
    stream = FakeStream()
    complaints: list[str] = []
    progress = await load(file, stream, complaints)
    assert [each.split(":")[1] for each in complaints] == ["4", "5", "6", "7"]
    assert (progress.accepted, progress.refused) == (2, 4)
    assert len(stream.items) == 2


async def test_a_line_of_any_length_is_read_in_bounds(tmp_path: Path) -> None:
    """A line far longer than a record is refused, the next one is taken."""
    file = tmp_path / "history.ndjson"
    file.write_bytes(b"{" + b" " * 5_000_000 + b"}\n" + lines(1)[0])
    stream = FakeStream()
    complaints: list[str] = []
    await load(file, stream, complaints)
    assert stream.items == lines(1)
    assert "too_large" in complaints[0]


class StoppingStream(FakeStream):
    """The signal to stop comes with the first record of some file."""

    def __init__(self, stop: asyncio.Event, after: int) -> None:
        super().__init__()
        self._stop = stop
        self._after = after

    async def put(self, slot: int, data: bytes, key: str) -> "asyncio.Future[str]":
        """As the writer."""
        ack = await super().put(slot, data, key)
        if len(self.items) > self._after:
            self._stop.set()
        return ack


@pytest.mark.parametrize(
    ("after", "whole"), [(0, 0), (20_000, 1), (40_000, 2)], ids=["first", "last", "at the end"]
)
async def test_stopped_early_is_not_done(tmp_path: Path, after: int, whole: int) -> None:
    """A stop before the last line of the last file is a problem; behind it there is none."""
    files = [tmp_path / "one.ndjson", tmp_path / "two.ndjson"]
    for file in files:
        file.write_bytes(b"\n".join(lines(20_000)))
    stop = asyncio.Event()
    target = replay.Target(StoppingStream(stop, after), "readings-raw", "ndjson", 64)
    loading = replay.Replay(target, FMS, shown=lambda *_: None, complained=print)
    outcome = await loading.load_all(files, stop)
    assert outcome == replay.Outcome(2, whole, 0)
    assert bool(outcome.problems) == (whole < 2)
    assert (f"{whole} of 2 files are whole" in outcome.problems) == (whole < 2)


def test_an_outcome_names_everything_that_is_wrong() -> None:
    """Refused lines and files not loaded are both said; nothing is said when all is well."""
    assert "2 lines" in replay.Outcome(1, 1, 2).problems
    assert "; refused 1,000 lines" in replay.Outcome(2, 1, 1000).problems
    assert not replay.Outcome(2, 2, 0).problems


async def test_each_state_is_shown_once(tmp_path: Path) -> None:
    """A file done at once has one line of progress, also when it was done before."""
    file = tmp_path / "history.ndjson"
    file.write_bytes(b"\n".join(lines(20_000)))
    for _ in range(2):
        shown: list[replay.Progress] = []

        def show(_path: Path, _size: int, progress: replay.Progress, to: Shown = shown) -> None:
            to.append(progress)

        target = replay.Target(FakeStream(), "readings-raw", "ndjson", 64)
        seconds = itertools.count()  # every piece is due to be shown
        loading = replay.Replay(
            target, FMS, shown=show, complained=print, monotonic=seconds.__next__
        )
        await loading.load(file, asyncio.Event())
        assert [each.accepted for each in shown].count(20_000) == 1
        assert len(shown) == len(set(shown))


def test_a_good_file_passes_the_check(tmp_path: Path) -> None:
    """Looking at a file before the run changes nothing."""
    file = tmp_path / "history.csv"
    file.write_bytes(b"time,DeviceId\n")
    replay.check(file, "readings-raw", FMS)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "name", ["history.ndjson.gz", "missing.ndjson", "history.csv", "latin.csv", "directory", "pipe"]
)
def test_files_it_cannot_load_are_found_by_the_check(tmp_path: Path, name: str) -> None:
    """Nothing has to be read or asked of AWS to find that a file cannot be loaded."""
    (tmp_path / "history.ndjson.gz").write_bytes(b"")
    (tmp_path / "history.csv").write_bytes(b"sensor1,sensor2\n1,2\n")
    (tmp_path / "latin.csv").write_bytes(b"time,DeviceId,\xe9\n")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.ConfigurationError, match=name):
        replay.check(tmp_path / name, "readings-raw", FMS)


@pytest.mark.parametrize("name", ["history.ndjson.gz", "missing.ndjson", "history.csv"])
async def test_files_it_cannot_load_are_a_configuration_error(tmp_path: Path, name: str) -> None:
    """Compressed, absent, or CSV without device and time: one clear line."""
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"sensor1,sensor2\n1,2\n")
    with pytest.raises(errors.ConfigurationError, match=name):
        await load(tmp_path / name, FakeStream())


@pytest.mark.parametrize("side", [b"{", b'{"stream":"x"}', b"\xff"])
async def test_a_strange_side_file_is_not_trusted(tmp_path: Path, side: bytes) -> None:
    """A broken side file, or that of another file, is named instead of skipping readings."""
    file = tmp_path / "history.ndjson"
    file.write_bytes(lines(1)[0])
    replay.progress_path(file).write_bytes(side)
    with pytest.raises(errors.ConfigurationError, match="remove it"):
        await load(file, FakeStream())


async def test_the_side_file_of_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    """Another file under the old name, or another stream, is not taken for loaded."""
    file = tmp_path / "history.ndjson"
    file.write_bytes(lines(1)[0])
    await load(file, FakeStream())
    with pytest.raises(errors.ConfigurationError, match="another file or stream"):
        replay.read_progress(file, "other-stream")
    file.write_bytes(lines(1, first=5)[0])
    with pytest.raises(errors.ConfigurationError, match="another file or stream"):
        await load(file, FakeStream())


def test_the_progress_line_says_how_far_it_is() -> None:
    """One line with a bar, the share, readings, refusals and speed."""
    progress = replay.Progress("s", "h", 1, 50, 10, accepted=1234, refused=3)
    clock = iter([0.0, 2.0])
    out = io.StringIO()
    line = progress_line.ProgressLine(out, lambda: next(clock))
    line.show(Path("a.csv"), 100, msgspec.structs.replace(progress, accepted=234))
    line.show(Path("a.csv"), 100, progress)
    shown = out.getvalue().splitlines()[-1]
    assert shown == f"a.csv [{'#' * 12}{'-' * 12}]  50% 1,234 readings, 3 refused, 500/s"
    assert progress_line.render(Path("a"), 0, progress, 0).count("#") == 24
    nearly = msgspec.structs.replace(progress, acknowledged_bytes=999)
    assert " 99% " in progress_line.render(Path("a"), 1000, nearly, 0)
