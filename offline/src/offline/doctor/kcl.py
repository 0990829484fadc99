"""What the KCL needs: a Java, the pinned jars, its lease table."""

import asyncio
from typing import Any

from offline.doctor.finding import Finding, fail, ok
from offline.doctor.plant import Plant
from telemill import aws, errors
from telemill.kcl import lock


async def check(dynamodb: Any, plant: Plant) -> list[Finding]:
    """Nothing, unless KINESIS_COORDINATOR=kcl."""
    if not plant.transform.uses_kcl:
        return []
    chosen = plant.transform
    name = f"KCL {lock.load(chosen.kcl_set).version}"
    try:
        jars = await asyncio.to_thread(chosen.class_path)
    except errors.ConfigurationError as error:
        advice = (
            "install Java and run `make kcl-jars`; in an image ask `telemill-transform --check`"
        )
        return [fail("kcl", name, str(error), advice)]
    return [
        ok("kcl", name, f"Java and {len(jars)} jars, as pinned"),
        *[
            await _lease_table(dynamodb, each.settings.lease_table(each.application))
            for each in plant.readers
        ],
    ]


async def _lease_table(dynamodb: Any, table: str) -> Finding:
    try:
        await aws.probe_table(dynamodb, table)
    except aws.MissingError:
        return ok("kcl", table, "not there yet: the KCL makes it at its first start")
    except aws.ResourceError as error:
        return fail("kcl", table, str(error), "give the role the KCL's permissions")
    return ok("kcl", table, "leases are there")
