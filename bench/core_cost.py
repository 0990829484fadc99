"""CPU seconds a million readings of a core alone: `python -m bench.core_cost transform|sink`.

With `--bare` first, without what the promise costs in it (`bench.bare`). One thread, the least of
several runs: unlike the full path's, this figure hardly moves on a busy machine.
"""

import sys
import time
from collections.abc import Callable

from bench import bare

READINGS = 100_000
PER_RECORD = 500
RUNS = 8
BARE = "--bare"


def transform_core() -> Callable[[], object]:
    """From raw records to wire records."""
    from bench import bench_transform_core as cores  # noqa: PLC0415 - after the replacements
    from transform.core import TransformStep  # noqa: PLC0415

    made = cores.chunks(cores.records(READINGS, PER_RECORD, faulty=False))

    def once() -> object:
        step = TransformStep(cores.FMS)
        state = step.restore([], cores.SHARD)
        return [step.step(chunk, state) for chunk in made]

    return once


def sink_core() -> Callable[[], object]:
    """From wire records to the bytes of objects."""
    from bench import bench_sink_core as cores  # noqa: PLC0415

    given = cores.records(cores.Case("", PER_RECORD, PER_RECORD, READINGS))
    return lambda: cores.objects_of(given)


CORES = {"transform": transform_core, "sink": sink_core}


def main() -> None:
    """Print one number."""
    *options, module = sys.argv[1:]
    if options == [BARE]:
        bare.replace({**bare.REPLACED, **bare.REPLACED_BY_MODULE[module]})
    once = CORES[module]()
    seconds = []
    for _ in range(RUNS):
        started = time.process_time()
        once()
        seconds.append(time.process_time() - started)
    sys.stdout.write(f"{min(seconds) / READINGS * 1e6}\n")


if __name__ == "__main__":
    main()
