"""What Telemill relies on in Kinesis, held against kinesis-local, and what that emulator is for.

The suite is that of tests/contract; here and not there, because it needs Node.js.
"""

import importlib.util
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from fault import shards
from telemill import aws, errors, slots
from telemill.testing import kinesis_local

SUITE = Path(__file__).resolve().parents[1] / "contract" / "test_kinesis_clients.py"
LEFT_OUT = {
    "test_a_request_above_the_limits_is_refused",
    "test_at_a_timestamp_starts_with_what_arrived_then",
    "test_large_records_come_back_whole",
}
"""kinesis-local takes requests of any size, but only 2 MB/s; and no timestamp of the future."""

_spec = importlib.util.spec_from_file_location("kinesis_client_suite", SUITE)
assert _spec is not None
assert _spec.loader is not None
_suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_suite)
globals().update(
    {
        name: found
        for name, found in vars(_suite).items()
        if name.startswith("test_") and name not in LEFT_OUT
    }
)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A kinesis-local, with AWS_* set for botocore; nothing else of AWS is there."""
    with kinesis_local.running(tmp_path_factory.mktemp("kinesis-local")) as url:
        settings = kinesis_local.aws_environment(url, "http://127.0.0.1:9")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            boto3.setup_default_session()
            yield url


@pytest.fixture
async def client(endpoint: str) -> AsyncIterator[Any]:
    """A Kinesis client of ours."""
    async with aws.client("kinesis") as opened:
        assert opened.meta.endpoint_url == endpoint
        yield opened


@pytest.fixture
async def stream(client: Any) -> AsyncIterator[Any]:
    """A stream of four shards; unlike the others, this emulator takes its time to create it."""
    made = _suite.Stream(client, f"fault-{next(_numbers)}")
    await client.create_stream(StreamName=made.name, ShardCount=4)
    soon = {"Delay": 1, "MaxAttempts": 60}
    await client.get_waiter("stream_exists").wait(StreamName=made.name, WaiterConfig=soon)
    yield made
    await client.delete_stream(StreamName=made.name)


async def test_a_split_parent_can_be_read_to_its_end(stream: Any) -> None:
    """A closed shard keeps its records, then has no next iterator; its children take the slots."""
    parent, *_ = await stream.shards()
    key = slots.hash_key_of(0)
    await stream.put(b"before", key=key)
    shards.split(stream.name, shards.open_shards(stream.name)[0])
    (after,) = await stream.put(b"after", key=key)
    children = [shard for shard in await stream.shards() if shard.parents == (parent.shard_id,)]
    assert [shard.holds(key) for shard in children] == [True, False]
    assert after["ShardId"] == children[0].shard_id
    start = _suite.StartPosition()
    page = await stream.page(parent.shard_id, start)
    assert [record.data for record in page.records] == [b"before"]
    assert page.next_iterator is None
    page = await stream.page(children[0].shard_id, start)
    assert [record.data for record in page.records] == [b"after"]
    assert page.next_iterator is not None


async def test_a_merged_child_names_both_parents(stream: Any) -> None:
    """The child of a merge has two parents and the range of both."""
    left, right, *_ = await stream.shards()
    shards.merge(stream.name, *shards.open_shards(stream.name)[:2])
    (child,) = [shard for shard in await stream.shards() if shard.parents]
    assert set(child.parents) == {left.shard_id, right.shard_id}
    assert (child.first_hash_key, child.last_hash_key) == (
        left.first_hash_key,
        right.last_hash_key,
    )


def test_a_missing_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kinesis-local, the error says what to run."""
    monkeypatch.setenv(kinesis_local.DIRECTORY_VARIABLE, str(tmp_path))
    with pytest.raises(errors.ConfigurationError, match="make setup-fault"):
        kinesis_local.find_directory(os.environ)


def test_it_listens_on_loopback_only(endpoint: str) -> None:
    """Nobody on the network can reach it, though it has no setting for that."""
    listening = _listening(int(endpoint.rpartition(":")[2]))
    assert listening == {"0100007F"}


def _listening(port: int) -> set[str]:
    """Addresses on which a port is open, as /proc/net writes them (proc(5): state 0A)."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, hexadecimal = local.partition(":")
            if state == "0A" and int(hexadecimal, 16) == port:
                found.add(address)
    return found
