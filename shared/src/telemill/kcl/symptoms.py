"""What a line of the daemon's log says about the daemon. Pure.

The MultiLangDaemon tells its child processes nothing but the protocol: that it runs, that it may
not, or that it has left records out is only in its log.

Source:
    amazon-kinesis-client v2.7 and v3.1: Scheduler, ShardConsumerSubscriber, ProcessTask. Those that
    leave records out write their line before the next page of the shard is delivered.
"""

import enum

from telemill.kcl.daemon_log import Line


class Symptom(enum.Enum):
    """What a line means to the worker."""

    RUNNING = "its worker loop has begun"
    SKIPPED = "it left records out"
    DENIED = "AWS denied it what it needs"
    MEMORY = "it ran out of memory"


_MARKS = (
    ("Starting worker loop", Symptom.RUNNING),
    ("Caught exception from handleInput", Symptom.SKIPPED),
    ("incoming data has been skipped", Symptom.SKIPPED),
    ("threw an exception when processing shard", Symptom.SKIPPED),
    ("Skipping over the following data records", Symptom.SKIPPED),
    ("is not authorized to perform", Symptom.DENIED),
    ("AccessDeniedException", Symptom.DENIED),
    ("java.lang.OutOfMemoryError", Symptom.MEMORY),
)
_PROCESSING = "ProcessTask"
"""Its errors are exceptions between the page it has and the child that never gets it."""


def symptom(line: Line) -> Symptom | None:
    """What a line means; None for most."""
    for mark, meaning in _MARKS:
        if mark in line.text:
            return meaning
    if line.logger == _PROCESSING and line.level == "error":
        return Symptom.SKIPPED
    return None
