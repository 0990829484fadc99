"""An owner that stood still, was replaced and wakes up again: it changes nothing and learns it.

It is stopped (SIGSTOP) in the middle of what it was doing, by its failpoint, so that its first act
after waking up is the write that must not count.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import pytest

from fault import plant
from fault.books import Books
from fault.load import Load
from fault.plant import ANOMALY, INGEST, READERS, SINK_READINGS, TRANSFORM, Plant
from telemill import contract, names

SEED = 20260101
SLEEPER, RIVAL = "sleeper", "rival"
TAKE_OVER_SECONDS = 90.0
"""A take-over is due after ten seconds; the machine may be busy."""

STOPPED_AT = [
    (TRANSFORM, "put-records.before"),
    (TRANSFORM, "state.uploaded"),
    (TRANSFORM, "position.before"),
    (ANOMALY, "put-records.before"),
    (ANOMALY, "position.before"),
    (SINK_READINGS, "intent.before"),
    (SINK_READINGS, "objects.between"),
    (SINK_READINGS, "objects.put"),
]


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plant, Load]]:
    """A plant with one shard a stream and its load; the readers are the test's business."""
    with plant.running(tmp_path_factory.mktemp("zombies"), shards=1) as made:
        made.start_all([made.add(INGEST, launcher=False)])
        load = Load([made.url(INGEST)], devices=16, readings_per_second=160.0, seed=SEED)
        yield made, load
        load.stop()


def without_beat(item: Mapping[str, Any]) -> dict[str, Any]:
    """What a progress item says, apart from its owner's sign of life."""
    return {name: value for name, value in item.items() if name != "beat"}


def state_objects(app: str) -> dict[str, str]:
    """Every state object of an application with its ETag; the others go on with theirs."""
    pages = (
        boto3.client("s3")
        .get_paginator("list_objects_v2")
        .paginate(Bucket=names.STATE_BUCKET, Prefix=f"state/live/{app}/")
    )
    return {each["Key"]: each["ETag"] for page in pages for each in page.get("Contents", ())}


def tables(books: Books) -> dict[str, str]:
    """Every object of the tables with its ETag."""
    return {key: tag for key, tag in books.objects().items() if key.endswith(".parquet")}


@pytest.mark.parametrize(("app", "failpoint"), STOPPED_AT, ids=str)
def test_a_woken_owner_changes_nothing(
    running: tuple[Plant, Load], app: str, failpoint: str
) -> None:
    """Its writes are refused: rows, position and state stay the rival's, and it drops the shard."""
    made, load = running
    books = Books(contract.load(plant.CONTRACT))
    others = [made.add(other, launcher=False) for other in READERS if other != app]
    sleeper = made.add(app, SLEEPER, stops=True, name=SLEEPER)
    rival = made.add(app, RIVAL, launcher=False, name=RIVAL)
    made.start_all([*others, sleeper])
    load.start()
    made.wait(lambda: any(made.positions(app).values()), "the first position", [sleeper])
    made.start_all([rival])

    made.arm(sleeper, failpoint)
    made.wait(lambda: made.is_stopped(sleeper), f"{failpoint} is reached", [sleeper])
    ((shard, before),) = made.items(app).items()
    assert before.owner == SLEEPER
    made.wait(
        lambda: (
            made.items(app)[shard].owner == RIVAL and made.positions(app)[shard] != before.position
        ),
        "the rival has taken over and works",
        [rival],
        TAKE_OVER_SECONDS,
    )
    load.pause()
    made.drain()
    item, states, objects = made.items(app)[shard], state_objects(app), tables(books)

    made.wake(sleeper)
    made.wait(lambda: made.metric(sleeper, "claims_lost_total") >= 1, "it learns it", [sleeper])
    made.drain()
    woken = made.items(app)[shard]
    assert without_beat(woken.attributes) == without_beat(item.attributes)
    assert tables(books) == objects
    left_behind = state_objects(app).keys() - states.keys()
    assert {key: tag for key, tag in state_objects(app).items() if key in states} == states
    # Uploaded before the write that is refused: named by the void epoch, referred to by nothing.
    assert all(f"/{before.epoch:010d}-" in key for key in left_behind)

    load.resume()
    made.wait_for_commit(app, made.positions(app), TAKE_OVER_SECONDS)
    load.pause()
    made.drain()
    finding = books.close(load.accepted)
    assert finding.figures() == dict.fromkeys(finding.figures(), 0)
    assert finding.report.stored > 0
