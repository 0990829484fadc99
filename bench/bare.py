"""Runs a service without what the delivery promise costs: `python -m bench.bare MODULE`.

Only to be measured (`bench.bench_promise_overhead`): such a service loses and doubles rows. The
product knows nothing of it: its functions are replaced by name before it starts, and a name that
is no longer there is an error. `--as-is` replaces nothing: the product, started the same way.

Left out:

- lineage: the columns in stream, wire record and Parquet; making, encoding, decoding, checking
  (`ascends`) and joining them; the watermarks;
- fencing: heartbeats, and the conditions of progress writes;
- intents, and the conditions of PUTs.

What stays, because any such service needs it or because the path cannot go without it: one write of
the position (and of the transform's history of duplicates) a commit, waiting for acknowledgements
before it; the reads and the one write of taking a shard at start; the wire header, which names the
raw shard in some 50 bytes a batch; one batch of a slot in flight, which is what keeps order; and a
row's place in its record, which the quarantine needs.
"""

import importlib
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

AS_IS = "--as-is"


class UnknownNameError(Exception):
    """The product has no such function any more: the bench has to follow it."""


def _no_columns(*_arguments: Any, **_named: Any) -> tuple[()]:
    return ()


def _nothing(*_arguments: Any) -> None:
    """In place of a check."""


async def _nothing_written(*_arguments: Any) -> None:
    """In place of a write."""


def _every_row(_watermarks: Any, _header: Any, batch: pa.RecordBatch, _arrival_us: int) -> Any:
    return batch


def _joined(batches: Sequence[pa.RecordBatch], _raw_shard_ids: Any, schema: pa.Schema) -> Any:
    joined = pa.concat_batches(batches)
    return pa.RecordBatch.from_arrays(joined.columns, schema=schema)


async def _write_position(table: Any, progress: Any, _previous: str) -> bool:
    """Position and state as a plain checkpoint: whoever writes last wins."""
    values = (
        ("position", "S", progress.position),
        ("state_key", "S", progress.state_key),
        ("state", "B", progress.state),
    )
    kept = {name: {kind: value} for name, kind, value in values if value is not None}
    if not kept:
        return True
    await table._client.update_item(  # noqa: SLF001
        TableName=table._table,  # noqa: SLF001
        Key={"app": {"S": progress.app}, "shard": {"S": progress.shard}},
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in kept),
        ExpressionAttributeNames={f"#{name}": name for name in kept},
        ExpressionAttributeValues={f":{name}": value for name, value in kept.items()},
    )
    return True


async def _put_object(lake: Any, key: str, body: bytes) -> bool:
    await lake._client.put_object(Bucket=lake._bucket, Key=key, Body=body)  # noqa: SLF001
    return True


REPLACED: Mapping[str, Callable[..., Any]] = {
    "telemill.contract.schemas:_lineage": _no_columns,
    "telemill.progress.claims:Claim.beat": _nothing_written,
    "telemill.progress.claims:Claim.declare": _nothing_written,
    "telemill.progress.store:DynamoProgressTable.put_progress": _write_position,
    "telemill.stages.watermarks:Watermarks.take": _every_row,
}
"""In every service."""

REPLACED_BY_MODULE: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "transform": {"transform.batches:_lineage": _no_columns},
    "sink": {
        "sink.core:_check_lineage": _nothing,
        "sink.core:join": _joined,
        "sink.lake:S3Lake.create": _put_object,
    },
}
"""In one."""


def replace(replaced: Mapping[str, Callable[..., Any]]) -> None:
    """Put functions in the place of the product's.

    Args:
        replaced: By `module:function` or `module:Class.function`.

    Raises:
        UnknownNameError: There is no such function.
    """
    for place, by in replaced.items():
        module, _, path = place.partition(":")
        *outer, name = path.split(".")
        try:
            holder: Any = importlib.import_module(module)
            for each in outer:
                holder = getattr(holder, each)
            getattr(holder, name)
        except (ImportError, AttributeError) as error:
            raise UnknownNameError(f"{place}: {error}") from error
        setattr(holder, name, by)


def main() -> None:
    """Run a module as the main program, bare or as it is."""
    arguments = sys.argv[1:]
    as_is = arguments[:1] == [AS_IS]
    module, *rest = arguments[1:] if as_is else arguments
    if not as_is:
        if module not in REPLACED_BY_MODULE:
            raise UnknownNameError(f"nothing is known of what {module} could leave out")
        replace({**REPLACED, **REPLACED_BY_MODULE[module]})
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
