"""Wires who decides which shards a service reads: one of `telemill.kinesis.coordinators`."""

import asyncio
import os
from functools import partial

from telemill import aws, errors, service
from telemill.kcl.properties import TRIM_HORIZON, DaemonSettings
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.coordinators.base import Coordinator
from telemill.kinesis.coordinators.daemon import Daemon
from telemill.kinesis.coordinators.kcl import KclCoordinator, Timing
from telemill.kinesis.coordinators.single import SingleCoordinator
from telemill.progress.claims import Claims
from telemill.reader_settings import MICROS_PER_SECOND, ReaderSettings
from telemill.stages.owner import ShardOwner, StartPosition

GRACE_SECONDS = 20.0
"""What the daemon gets beyond our own drain, to tell every shard and take its answer."""


async def require_engine(chosen: ReaderSettings) -> None:
    """Look on this machine for what the named coordinator runs on; call it before any I/O.

    Raises:
        ConfigurationError: The KCL is named, and there is no usable Java or not all jars.
    """
    if chosen.uses_kcl:
        await asyncio.to_thread(chosen.class_path)


async def coordinator(
    floor: service.Floor,
    opened: service.Clients,
    chosen: ReaderSettings,
    *,
    stream: str,
    application: str,
    owner: ShardOwner,
    claims: Claims,
    stop: asyncio.Event,
) -> Coordinator | None:
    """The coordinator that the settings name; None when `stop` came first.

    Raises:
        ConfigurationError: The KCL is named and cannot be run: no Java, no jars, or no permission
            on its lease table.
    """
    if not chosen.uses_kcl:
        return SingleCoordinator(
            opened.kinesis, stream, owner, metrics=floor.metrics, health=floor.health
        )
    class_path = await asyncio.to_thread(chosen.class_path)
    table = chosen.lease_table(application)
    await require_permission(opened, table)
    start = await _first_start(floor, opened, claims, stream, stop)
    if start is None:
        return None
    told = _daemon_settings(chosen, opened, stream, table, start)
    return KclCoordinator(
        opened.kinesis,
        stream,
        owner,
        saved=claims.saved,
        make_engine=lambda serve, heard: Daemon(
            told,
            class_path,
            serve,
            heard,
            environ=os.environ,
            heap_megabytes=chosen.kinesis_kcl_heap_megabytes,
        ),
        probe_lease_table=partial(aws.probe_table, opened.dynamodb, table),
        metrics=floor.metrics,
        health=floor.health,
        timing=Timing(
            failover_seconds=chosen.kinesis_failover_seconds,
            silence_seconds=chosen.kinesis_kcl_silence_seconds,
            drain_seconds=chosen.drain_timeout_seconds,
        ),
    )


async def require_permission(opened: service.Clients, table: str) -> None:
    """Ask for the lease table once, with the credentials the daemon has: it would try for minutes.

    Raises:
        ResourceError: We may not use it.
    """
    try:
        await aws.probe_table(opened.dynamodb, table)
    except aws.MissingError:
        return  # the daemon makes it
    except aws.ResourceError as error:
        raise aws.ResourceError(f"KINESIS_LEASE_TABLE: got {table}; {error}") from error
    except errors.TransientError:
        return  # it may be there by then


async def _first_start(
    floor: service.Floor,
    opened: service.Clients,
    claims: Claims,
    stream: str,
    stop: asyncio.Event,
) -> StartPosition | None:
    """Where the application began, fixed before the daemon makes the first lease."""
    found: list[StartPosition] = []
    calls = StreamCalls(opened.kinesis, stream, metrics=floor.metrics, health=floor.health)

    async def fix() -> None:
        found.append(await claims.first_start(stream, await calls.incarnation()))

    await service.done_before(stop, aws.wait_for(floor.health, f"start of {stream}", fix))
    return found[0] if found else None


def _daemon_settings(
    chosen: ReaderSettings,
    opened: service.Clients,
    stream: str,
    table: str,
    start: StartPosition,
) -> DaemonSettings:
    begun_us = start.timestamp_us
    return DaemonSettings(
        application=table,
        stream=stream,
        worker_id=chosen.worker_id,
        region=opened.kinesis.meta.region_name,
        kinesis_endpoint=opened.kinesis.meta.endpoint_url,
        dynamodb_endpoint=opened.dynamodb.meta.endpoint_url,
        # Rounded down to its seconds; what is older than our own start is left out again.
        initial_position=TRIM_HORIZON if begun_us is None else begun_us // MICROS_PER_SECOND,
        fan_out=chosen.kinesis_fan_out,
        failover_millis=round(chosen.kinesis_failover_seconds * 1000),
        shutdown_grace_millis=round((chosen.drain_timeout_seconds + GRACE_SECONDS) * 1000),
        max_leases=chosen.kinesis_max_leases or None,
    )
