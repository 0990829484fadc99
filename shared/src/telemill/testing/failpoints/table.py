"""Every failpoint: one row each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from telemill.kinesis.records import SHARD_END

INGEST, TRANSFORM, ANOMALY, SINK = "ingest", "transform", "anomaly", "sink"
STAGES = (TRANSFORM, ANOMALY)
OWNERS = (TRANSFORM, ANOMALY, SINK)


class Call(NamedTuple):
    """One call of a wrapped function: its arguments, `self` first, and what it returned."""

    arguments: tuple[Any, ...]
    result: Any = None


@dataclass(frozen=True, slots=True)
class Failpoint:
    """One place to die.

    Attributes:
        name: How it is armed.
        services: The modules that can pass it.
        target: `module:function` or `module:Class.method` that is wrapped.
        moment: Before the call, after it, or between the first and the second call for objects
            of one name (the objects of one cut differ in their folder only); the second is held
            back until the first is done.
        interrupts: What is done and what is not.
        counts: Which calls count; all when None.
    """

    name: str
    services: tuple[str, ...]
    target: str
    moment: Literal["before", "after", "between"]
    interrupts: str
    counts: Callable[[Call], bool] | None = None


def _was_taken(call: Call) -> bool:
    return any(isinstance(outcome, str) for outcome in call.result)


def _saves_end(call: Call) -> bool:
    return bool(call.arguments[1] == SHARD_END)


def _saves_middle(call: Call) -> bool:
    return not _saves_end(call)


def _finishes_cut(call: Call) -> bool:
    return _saves_middle(call) and call.arguments[0].intent is not None


def _opens_child(call: Call) -> bool:
    shard, opened = call.arguments[1], call.result
    return bool(shard.parents) and not opened.start.finished and opened.claim.position is None


_ATTEMPT = "telemill.kinesis.writer:Writer._attempt"
_SAVE = "telemill.progress.claims:Claim.save"
_TAKE = "telemill.progress.store:ConditionalStore.take"

FAILPOINTS = (
    Failpoint(
        "put-records.before",
        (INGEST, *STAGES),
        _ATTEMPT,
        "before",
        "A PutRecords request is made up; Kinesis has seen nothing of it.",
    ),
    Failpoint(
        "put-records.after",
        (INGEST, *STAGES),
        _ATTEMPT,
        "after",
        "Kinesis has taken the records; nobody here has noted that.",
        _was_taken,
    ),
    Failpoint(
        "stop.before-acknowledgements",
        (INGEST,),
        "telemill.kinesis.writer:Writer.stop",
        "before",
        "SIGTERM was given and no push is taken any more; what was taken is not acknowledged yet.",
    ),
    Failpoint(
        "quarantine.before",
        (TRANSFORM,),
        "telemill.quarantine:QuarantineOutlet._put",
        "before",
        "Items are rejected; the object that holds them is not put.",
    ),
    Failpoint(
        "quarantine.after",
        (TRANSFORM,),
        "telemill.quarantine:QuarantineOutlet._put",
        "after",
        "The quarantine object is put; the position is still before its items.",
    ),
    Failpoint(
        "alert.before",
        (ANOMALY,),
        "anomaly.alerts:AlertOutlet._publish",
        "before",
        "An episode has begun; nobody was told.",
    ),
    Failpoint(
        "alert.after",
        (ANOMALY,),
        "anomaly.alerts:AlertOutlet._publish",
        "after",
        "The alert is published; the position is still before its reading.",
    ),
    Failpoint(
        "position.before",
        STAGES,
        _SAVE,
        "before",
        "All output up to a position is acknowledged; the position is not saved.",
        _saves_middle,
    ),
    Failpoint(
        "state.uploaded",
        STAGES,
        "telemill.progress.snapshots:S3SnapshotStore.put",
        "after",
        "The state's object is put; the progress item still refers to the one before.",
    ),
    Failpoint(
        "state.superseded",
        STAGES,
        "telemill.progress.snapshots:S3SnapshotStore.delete",
        "before",
        "The progress item refers to the new state; the old object is not deleted.",
    ),
    Failpoint(
        "intent.before",
        (SINK,),
        "telemill.progress.claims:Claim.declare",
        "before",
        "A cut is sealed; its intent is not declared.",
    ),
    Failpoint(
        "intent.declared",
        (SINK,),
        "telemill.progress.claims:Claim.declare",
        "after",
        "The intent is declared; no partition and no object of the cut is there.",
    ),
    Failpoint(
        "partitions.made",
        (SINK,),
        "sink.catalog:GlueCatalog.ensure_partitions",
        "after",
        "The cut's partitions are in the catalogue; none of its objects is put.",
    ),
    Failpoint(
        "objects.between",
        (SINK,),
        "sink.lake:S3Lake.create",
        "between",
        "The first object of a cut is put; the second is not.",
    ),
    Failpoint(
        "objects.put",
        (SINK,),
        _SAVE,
        "before",
        "All objects of a cut are put; the position is not saved.",
        _finishes_cut,
    ),
    Failpoint(
        "position.saved",
        OWNERS,
        _SAVE,
        "after",
        "Position and state are saved; nothing that follows is done (the coordinator's checkpoint"
        " would be next).",
        _saves_middle,
    ),
    Failpoint(
        "claim.before",
        OWNERS,
        _TAKE,
        "before",
        "A shard is found free to take; it is not claimed.",
    ),
    Failpoint(
        "claim.taken",
        OWNERS,
        _TAKE,
        "after",
        "A shard is claimed under a new epoch; nothing of it is read.",
    ),
    Failpoint(
        "drain.begun",
        STAGES,
        "telemill.stages.stream:StreamStage.close",
        "before",
        "SIGTERM was given and no chunk is in work; the last position is not saved.",
    ),
    Failpoint(
        "drain.sealed",
        (SINK,),
        "sink.stage:TableStage.close",
        "before",
        "SIGTERM was given and no chunk is in work; the last cut is not made.",
    ),
    Failpoint(
        "drain.committed",
        OWNERS,
        "telemill.progress.claims:Claim.release",
        "before",
        "The last position of a drain is saved; the shard is not released.",
    ),
    Failpoint(
        "shard-end.before",
        OWNERS,
        _SAVE,
        "before",
        "Everything of a resharded shard is out; its end is not saved.",
        _saves_end,
    ),
    Failpoint(
        "shard-end.saved",
        OWNERS,
        _SAVE,
        "after",
        "The end of a resharded shard is saved; its children are not claimed.",
        _saves_end,
    ),
    Failpoint(
        "child.opened",
        OWNERS,
        "telemill.progress.claims:Claims.open",
        "after",
        "A child is claimed and begins from its parents' states; it has no position of its own.",
        _opens_child,
    ),
)
"""All of them, about in the order in which a record meets them."""


def of_service(service: str) -> tuple[Failpoint, ...]:
    """The failpoints that a service can pass."""
    return tuple(point for point in FAILPOINTS if service in point.services)
