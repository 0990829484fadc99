"""Properties of ingest's pure parts."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ingest import core
from ingest.breaker import Breaker, Permit, Policy, State
from telemill import contract, errors, slots
from telemill.codec import kpl, raw
from telemill.kinesis.records import Record, Shard

FMS = contract.load(Path("contracts/fms.yaml"))
SHARD = Shard("readings-raw", 1, "shardId-000000000000")
SLOTS = 8
ROUTER = core.Router(FMS, SLOTS)

bodies = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", b"\n", b"{}", b"[1]", b'{"a":1}\n{"b":2}', b'{"time":"20']),
    st.builds(
        lambda device, end: f'{{"time":"x","DeviceId":{device}}}{end}'.encode(),
        st.integers(0, 30),
        st.sampled_from(["", "\n", "\r\n", "\n\n"]),
    ),
)
groups = st.builds(
    lambda slot, items, alone: core.Group(
        slot, ["7"] * len(items), items, alone and len(items) == 1
    ),
    st.integers(0, 3),
    st.lists(st.integers(1, 300_000).map(lambda size: b"x" * size), min_size=1, max_size=8),
    st.booleans(),
)


@given(st.lists(st.tuples(st.integers(0, 30).map(str), bodies), max_size=20))
def test_no_polled_body_is_lost_or_changed(polled: list[tuple[str, bytes]]) -> None:
    """Whatever devices answer, the records hold each body once: alone, or as one of the lines."""
    packer = core.Packer("ndjson")
    for device, body in polled:
        packer.add(ROUTER.route_polled(device, body))
    found: list[bytes] = []
    for batch in packer.take():
        record = Record("1", 0, core.encode(batch, "ndjson", SLOTS), "k")
        [document] = raw.documents(record, SHARD)[0]
        found += [document.data] if len(batch.items) == 1 else document.data.splitlines()
    assert sorted(_ended(body) for _, body in polled) == sorted(_ended(body) for body in found)


def _ended(body: bytes) -> bytes:
    """A body without the one line end that NDJSON stands for."""
    return body.removesuffix(b"\n").removesuffix(b"\r")


@given(st.lists(groups, max_size=12), st.sampled_from(["ndjson", "kpl"]))
def test_packing_keeps_items_and_order_within_bounds(
    given_groups: list[core.Group], raw_format: core.RawFormat
) -> None:
    """Every item is in one batch of its slot, in order; no batch of several exceeds the limit."""
    packer = core.Packer(raw_format)
    batches: list[core.Batch] = []
    for group in given_groups:
        used = packer.add(group)
        assert sum(len(batch.items) for batch in used) >= len(group.items)
        batches += packer.take_closed()
    batches += packer.take()
    for slot in range(4):
        before = [item for group in given_groups if group.slot == slot for item in group.items]
        after = [item for batch in batches if batch.slot == slot for item in batch.items]
        assert before == after
    assert all(len(b.items) == 1 or b.size_bytes <= core.MAX_BATCH_BYTES for b in batches)


@given(
    st.integers(0, SLOTS - 1),
    st.lists(st.tuples(st.text(min_size=1, max_size=9), bodies), min_size=1),
)
def test_an_aggregate_is_whole_for_whoever_holds_the_slot(
    slot: int, users: list[tuple[str, bytes]]
) -> None:
    """No user record of a KPL aggregate hashes outside its slot, and none is changed."""
    batch = core.Batch(slot, [key for key, _ in users], [body for _, body in users])
    found = kpl.deaggregate(core.encode(batch, "kpl", SLOTS))
    assert {kpl.hash_key(user) for user in found} == {slots.hash_key_of(slot, SLOTS)}
    assert [(user.partition_key, user.data) for user in found] == users


@given(st.binary(max_size=200))
def test_no_body_crashes_the_push_path(body: bytes) -> None:
    """Any bytes are split and routed, or refused with a RecordError."""
    try:
        items = core.split(body, 50)
    except errors.RecordError:
        return
    routed = ROUTER.route(items)
    taken = sum(len(group.items) for group in routed.groups.values())
    assert taken + len(routed.refused) == len(items) <= 50


@given(st.lists(st.tuples(st.sampled_from(["admit", "ok", "fail", "drop"]), st.floats(0, 5))))
def test_the_breaker_lets_at_most_one_probe_out(steps: list[tuple[str, float]]) -> None:
    """Whatever happens: open admits nothing before its wait, half open has one request out."""
    now, permits = 0.0, list[Permit]()
    breaker = Breaker(Policy(failures=2, open_seconds=4.0), uniform=lambda _low, high: high)
    probes = 0
    for action, seconds in steps:
        now += seconds
        if action == "admit":
            if (permit := breaker.admit(now)) is not None:
                permits.append(permit)
                probes += breaker.state is State.HALF_OPEN
        elif permits:
            {"ok": breaker.answered, "fail": breaker.failed}.get(
                action, lambda permit, _now: breaker.abandoned(permit)
            )(permits[-1], now)
            probes -= breaker.state is State.HALF_OPEN and probes > 0
            permits.pop()
        if breaker.state is not State.HALF_OPEN:
            probes = 0
        assert probes <= 1
