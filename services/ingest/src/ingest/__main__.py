"""The command line: the service, `replay FILE…` and `key`."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from ingest import auth, replay, wiring
from ingest.progress_line import ProgressLine
from ingest.settings import IngestSettings
from telemill import errors, log, runtime, service, settings

PROG = "telemill-ingest"
DESCRIPTION = "Collects readings by polling and HTTP push and writes them to the raw stream."
EPILOG = """Other commands:
  replay FILE...   load NDJSON or CSV files into the raw stream; resumes where it was stopped
  key              make an API key and its hash for INGEST_API_KEY_HASHES"""
EXIT_INCOMPLETE = 1

logger = structlog.get_logger()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["key"]:
        return _key()
    if arguments[:1] == ["replay"]:
        return _replay(arguments[1:])
    loaded = settings.load(
        IngestSettings, arguments, prog=PROG, description=DESCRIPTION, epilog=EPILOG
    )
    log.configure(wiring.SERVICE, loaded.log_level)
    return runtime.run(
        lambda stop: wiring.serve(loaded, stop),
        service=wiring.SERVICE,
        drain_timeout_seconds=loaded.drain_timeout_seconds,
    )


def _key() -> int:
    key, digest = auth.new_key()
    sys.stdout.write(f"key for the client:            {key}\n")
    sys.stdout.write(f"for INGEST_API_KEY_HASHES:     name:{digest}\n")
    return runtime.EXIT_OK


def _replay(arguments: list[str]) -> int:
    """Files come first, then flags."""
    count = next((n for n, each in enumerate(arguments) if each.startswith("-")), len(arguments))
    files = [Path(name) for name in arguments[:count]]
    loaded = settings.load(
        IngestSettings,
        arguments[count:],
        prog=f"{PROG} replay FILE...",
        description="Loads files of readings into the raw stream.",
    )
    log.configure(wiring.SERVICE, loaded.log_level, sys.stderr)
    try:
        return runtime.run(lambda stop: _load_all(loaded, files, stop), service="replay")
    except SystemExit as ended:
        logger.info("service.stopped", status=EXIT_INCOMPLETE)
        sys.stderr.write(f"replay: {ended.code}\n")
        return EXIT_INCOMPLETE


async def _load_all(loaded: IngestSettings, files: list[Path], stop: asyncio.Event) -> None:
    """Load the files.

    Raises:
        ConfigurationError: One of them cannot be loaded; AWS was not asked for anything.
        SystemExit: Says why not everything is in the stream. It is no failure of the program, so
            not an exception that `runtime.run` would log with a traceback.
    """
    if not files:
        raise errors.ConfigurationError("got no file; takes FILE...")
    parts = wiring.Parts(loaded)
    for path in files:
        replay.check(path, loaded.raw_stream, parts.contract)
    outcome = await _load_into_stream(parts, files, stop)
    if outcome.problems:
        raise SystemExit(outcome.problems)


async def _load_into_stream(
    parts: wiring.Parts, files: list[Path], stop: asyncio.Event
) -> replay.Outcome:
    given = parts.settings
    line = ProgressLine(sys.stderr)
    async with service.clients("kinesis", "dynamodb") as clients:
        if not await wiring.find_stream(parts, clients, stop):
            return replay.Outcome(len(files), whole=0, refused=0)
        writer = parts.writer(clients.kinesis)
        await writer.start()
        target = replay.Target(writer, given.raw_stream, given.raw_format, given.slot_count)
        loading = replay.Replay(target, parts.contract, shown=line.show, complained=line.say)
        try:
            return await loading.load_all(files, stop)
        finally:
            line.end()
            await writer.stop()


if __name__ == "__main__":
    sys.exit(main())
