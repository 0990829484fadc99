"""The command line: the service, `replay FILE…` and `key`."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from ingest import auth, replay, wiring
from ingest.progress_line import ProgressLine
from ingest.settings import IngestSettings
from telemill import errors, log, runtime, service, settings

PROG = "telemill-ingest"
DESCRIPTION = "Collects readings by polling and HTTP push and writes them to the raw stream."
EPILOG = """Other commands:
  replay FILE...   load NDJSON or CSV files into the raw stream; resumes where it was stopped
  key              make an API key and its hash for INGEST_API_KEY_HASHES"""
EXIT_REFUSED = 1


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
    refused: list[int] = []

    async def load_all(stop: asyncio.Event) -> None:
        if not files:
            raise errors.ConfigurationError("replay: got no file; takes FILE...")
        refused.append(await _load_all(loaded, files, stop))

    status = runtime.run(load_all, service="replay")
    return EXIT_REFUSED if status == runtime.EXIT_OK and any(refused) else status


async def _load_all(loaded: IngestSettings, files: list[Path], stop: asyncio.Event) -> int:
    """Load the files; returns how many lines were refused."""
    parts = wiring.Parts(loaded)
    line = ProgressLine(sys.stderr)
    refused = 0
    async with service.clients("kinesis", "dynamodb") as clients:
        if not await wiring.find_stream(parts, clients, stop):
            return refused
        writer = parts.writer(clients.kinesis)
        await writer.start()
        target = replay.Target(writer, loaded.raw_stream, loaded.raw_format, loaded.slot_count)
        loading = replay.Replay(target, parts.contract, shown=line.show, complained=line.say)
        try:
            for path in files:
                if stop.is_set():
                    break
                refused += (await loading.load(path, stop)).refused
        finally:
            line.end()
            await writer.stop()
    return refused


if __name__ == "__main__":
    sys.exit(main())
