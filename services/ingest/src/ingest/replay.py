"""`ingest replay FILE…`: loads history through the same path as a push, and can be resumed.

Next to each file a `.progress` file says up to which byte Kinesis has acknowledged it. After a
crash the readings behind that byte are sent again: they are duplicates, and dropped downstream.
"""

import asyncio
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec
from msgspec import structs

from ingest import core, tables
from telemill import errors
from telemill.contract import Contract

PIECES_IN_FLIGHT = 8
HEAD_BYTES = 4096
SAVE_SECONDS = 1.0
SHOWN_REFUSALS = 20


class RawWriter(Protocol):
    """The raw stream, as `telemill.kinesis.writer.Writer` serves it."""

    async def put(self, slot: int, data: bytes, partition_key: str) -> "asyncio.Future[str]":
        """Wait for room; the future is done when Kinesis has acknowledged the record."""


class Progress(msgspec.Struct, frozen=True):
    """What the side file holds.

    Attributes:
        stream: Where the readings went.
        head: SHA-256 of the file's first `head_bytes`: tells another file of the same name.
        head_bytes: At most `HEAD_BYTES`.
        acknowledged_bytes: Everything before this offset is in the stream, or refused.
        lines: Lines before it.
        accepted: Readings in the stream.
        refused: Lines that cannot be readings.
    """

    stream: str
    head: str
    head_bytes: int
    acknowledged_bytes: int = 0
    lines: int = 0
    accepted: int = 0
    refused: int = 0


def progress_path(path: Path) -> Path:
    """Where a file's progress is kept."""
    return path.with_name(f"{path.name}.progress")


def read_progress(path: Path, stream: str) -> Progress:
    """How far a file got; a new one at its beginning.

    Raises:
        ConfigurationError: The side file is broken, or of another file or stream.
    """
    side = progress_path(path)
    if not side.exists():
        head = _head(path, HEAD_BYTES)
        return Progress(stream, hashlib.sha256(head).hexdigest(), len(head))
    try:
        progress = msgspec.json.decode(side.read_bytes(), type=Progress)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.ConfigurationError(f"{side}: {error}; remove it to begin anew") from error
    head = _head(path, progress.head_bytes)
    if progress.stream != stream or progress.head != hashlib.sha256(head).hexdigest():
        raise errors.ConfigurationError(
            f"{side}: is of another file or stream; remove it to begin anew"
        )
    return progress


def check(path: Path, stream: str, contract: Contract) -> None:
    """See that a file can be loaded, without a call to AWS.

    Raises:
        ConfigurationError: It is absent, unreadable or no file of readings, or its side file is
            not its own.
    """
    try:
        # A pipe cannot be resumed, and opening it may never return.
        if path.exists() and not path.is_file():
            raise errors.ConfigurationError(f"{path}: is not a regular file")
        read_progress(path, stream)
        with path.open("rb") as file:
            tables.opened(file, path, contract)
    except OSError as error:
        raise errors.ConfigurationError(f"{path}: {error.strerror}") from error


def _head(path: Path, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size_bytes)


def write_progress(path: Path, progress: Progress) -> None:
    """Replace the side file, whole or not at all."""
    side = progress_path(path)
    new = side.with_name(f"{side.name}.new")
    new.write_bytes(msgspec.json.encode(progress))
    new.replace(side)


@dataclass(frozen=True, slots=True)
class Sent:
    """A piece on its way.

    Attributes:
        progress: The file's, once all acks are there.
        acks: Of its raw records.
    """

    progress: Progress
    acks: "list[asyncio.Future[str]]"


@dataclass(frozen=True, slots=True)
class Target:
    """Where readings go, and in which form."""

    writer: RawWriter
    stream: str
    raw_format: core.RawFormat
    slot_count: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run over several files ended.

    Attributes:
        files: Asked for.
        whole: Loaded to their end, now or before.
        refused: Lines of them that cannot be readings.
    """

    files: int
    whole: int
    refused: int

    @property
    def problems(self) -> str:
        """What is not as it was asked for, in one line; empty when all is."""
        found = []
        if self.whole < self.files:
            found.append(
                f"stopped before everything was loaded ({self.whole} of {self.files} files are"
                " whole); the same command goes on from there"
            )
        if self.refused:
            found.append(f"refused {self.refused:,} lines which cannot be readings")
        return "; ".join(found)


class Replay:
    """Loads files, one after the other.

    Args:
        target: The raw stream.
        contract: What a reading is.
        shown: Told about the progress of the file: path, its size in bytes, progress.
        complained: Told about a line that cannot be a reading, the first few of each file.
        monotonic: Seconds.
    """

    def __init__(
        self,
        target: Target,
        contract: Contract,
        *,
        shown: Callable[[Path, int, Progress], None],
        complained: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._contract = contract
        self._router = core.Router(contract, target.slot_count)
        self._shown = shown
        self._complained = complained
        self._monotonic = monotonic
        self._saved_at = float("-inf")
        self._last_shown: Progress | None = None

    async def load_all(self, paths: Sequence[Path], stop: asyncio.Event) -> Outcome:
        """Load files in order, until `stop` is set.

        Raises:
            TelemillError: As `load`.
        """
        whole = refused = 0
        for path in paths:
            if stop.is_set():
                break
            progress = await self.load(path, stop)
            refused += progress.refused
            # Not stopped: it was read to its end, even if it has grown since.
            whole += not stop.is_set() or progress.acknowledged_bytes >= path.stat().st_size
        return Outcome(len(paths), whole, refused)

    async def load(self, path: Path, stop: asyncio.Event) -> Progress:
        """Load a file from where it got to, to its end or until `stop` is set.

        Returns:
            How far it got; the side file says the same.

        Raises:
            ConfigurationError: It cannot be read, or its side file is not its own.
            TelemillError: The stream did not take it; what was acknowledged is remembered.
        """
        try:
            progress = read_progress(path, self._target.stream)
            with path.open("rb") as file:
                return await self._load(path, file, progress, stop)
        except OSError as error:
            raise errors.ConfigurationError(f"{path}: {error.strerror}") from error

    async def _load(
        self, path: Path, file: BinaryIO, progress: Progress, stop: asyncio.Event
    ) -> Progress:
        self._last_shown = None
        size_bytes = os.fstat(file.fileno()).st_size
        to_item = tables.opened(file, path, self._contract)
        if progress.acknowledged_bytes:
            file.seek(progress.acknowledged_bytes)
        elif header_bytes := file.tell():
            progress = structs.replace(progress, acknowledged_bytes=header_bytes, lines=1)
        done = ahead = progress
        sent: deque[Sent] = deque()
        try:
            for piece in tables.pieces(file, progress.lines):
                sent.append(await self._send(path, piece, to_item, ahead))
                ahead = sent[-1].progress
                if len(sent) > PIECES_IN_FLIGHT:
                    done = await self._settle(path, size_bytes, sent.popleft())
                if stop.is_set():
                    break
            while sent:
                done = await self._settle(path, size_bytes, sent.popleft())
        finally:
            write_progress(path, done)
        self._show(path, size_bytes, done)
        return done

    def _show(self, path: Path, size_bytes: int, progress: Progress) -> None:
        if progress != self._last_shown:
            self._last_shown = progress
            self._shown(path, size_bytes, progress)

    async def _send(
        self, path: Path, piece: tables.Piece, to_item: tables.ToItem, before: Progress
    ) -> Sent:
        numbers, items = [], []
        refused: list[tuple[int, errors.RecordError]] = []
        for number, line in piece.lines:
            try:
                core.check_size(line)
                items.append(to_item(line))
                numbers.append(number)
            except errors.RecordError as error:
                refused.append((number, error))
        routed = self._router.route(items)
        refused += [(numbers[each.index], each.error) for each in routed.refused]
        self._complain(path, refused, before.refused)
        progress = structs.replace(
            before,
            acknowledged_bytes=piece.end,
            lines=piece.last_line,
            accepted=before.accepted + len(piece.lines) - len(refused),
            refused=before.refused + len(refused),
        )
        return Sent(progress, await self._put(routed))

    async def _put(self, routed: core.Routed) -> "list[asyncio.Future[str]]":
        target = self._target
        packer = core.Packer(target.raw_format)
        for group in routed.groups.values():
            packer.add(group)
        acks = []
        for batch in packer.take():
            data = core.encode(batch, target.raw_format, target.slot_count)
            acks.append(await target.writer.put(batch.slot, data, core.partition_key(batch)))
        return acks

    def _complain(
        self, path: Path, refused: list[tuple[int, errors.RecordError]], before: int
    ) -> None:
        for number, error in sorted(refused, key=lambda each: each[0])[
            : max(SHOWN_REFUSALS - before, 0)
        ]:
            self._complained(f"{path}:{number}: {error.reason}: {error}")

    async def _settle(self, path: Path, size_bytes: int, sent: Sent) -> Progress:
        for ack in sent.acks:
            await ack
        now = self._monotonic()
        if now - self._saved_at >= SAVE_SECONDS:
            self._saved_at = now
            # A few hundred bytes once a second: a thread would cost more than it saves.
            write_progress(path, sent.progress)
            self._show(path, size_bytes, sent.progress)
        return sent.progress
