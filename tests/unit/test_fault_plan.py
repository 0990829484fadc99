"""The fault proxy's decisions: pure, repeatable, and within the limits of a real shard."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from telemill.testing.faults import Plan, PlanError, buckets, decide, plan
from telemill.testing.faults.decide import Call
from telemill.testing.faults.injector import Injector
from telemill.testing.faults.journal import Journal
from telemill.testing.faults.services import Target
from telemill.testing.virtual_time import VirtualTime

SEED = 20260101
MIB = 1024 * 1024
DOCS = Path("docs/fault-injection.md")
RANDOM = Plan(drop_before=0.05, throttle=0.1, server_error=0.1, commit_then_drop=0.2, stall=0.1)


def put_records(number: int) -> Call:
    """The number-th PutRecords."""
    return Call("kinesis", "PutRecords", number, number, is_write=True)


def decisions(seed: int, of: Plan, count: int = 500) -> list[decide.Decision]:
    """What the first PutRecords calls meet."""
    return [decide.decide(seed, of, put_records(number)) for number in range(1, count + 1)]


@pytest.fixture
def time() -> VirtualTime:
    """A clock that stands still."""
    return VirtualTime()


@pytest.fixture
def injector(tmp_path: Path, time: VirtualTime) -> Iterator[Injector]:
    """A healthy injector."""
    journal = Journal(tmp_path / "faults.ndjson")
    yield Injector(SEED, journal, time.clock)
    journal.close()


# Plans


def test_a_plan_survives_json() -> None:
    """What is put as JSON is the plan that was meant."""
    given = Plan(throttle=0.5, failing_slots=[3], outages={"s3": 60.0}, only=["s3:PutObject"])
    assert plan.decode(plan.encode(given)) == given
    assert plan.decode(b"{}") == Plan()


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"throttle": 1.5}', "$.throttle"),
        (b'{"partial_failure": -0.1}', "$.partial_failure"),
        (b'{"throtle": 0.5}', "throtle"),
        (b'{"stall": true}', "$.stall"),
        (b'{"failing_slots": [64]}', "takes 0 to 63"),
        (b'{"slot_count": 0}', "$.slot_count"),
        (b'{"outages": {"kinesys": 5}}', "kinesys"),
        (b'{"outages": {"kinesis": -5}}', "$.outages"),
        (b'{"outage_answer": "404"}', "404"),
        (b'{"only": ["PutRecord", "PutRecrods"]}', "PutRecrods"),
        (b'{"only": ["s3:PutRecords"]}', "s3:PutRecords"),
        (b"[]", "object"),
        (b"{", "truncated"),
    ],
)
def test_an_impossible_plan_is_refused_by_field(body: bytes, names: str) -> None:
    """A plan that can not be meant is refused, and the text names what is wrong."""
    with pytest.raises(PlanError) as refused:
        plan.decode(body)
    assert names in str(refused.value)


def test_a_plan_built_in_python_is_checked_too() -> None:
    """Ranges hold for plans that never were JSON."""
    with pytest.raises(PlanError, match="stall_seconds"):
        plan.check(Plan(stall_seconds=-1.0))


def test_the_documentation_lists_every_field() -> None:
    """The table in the documentation is the code's."""
    assert plan.markdown_table() in DOCS.read_text()


def test_every_fault_that_is_counted_is_a_field_of_the_plan() -> None:
    """Whoever sets a field finds its count under the same name."""
    assert set(plan.FAULTS) <= set(Plan.__struct_fields__)


# Decisions


def test_the_same_seed_decides_the_same() -> None:
    """A run can be replayed: seed and number of the call are all that matters."""
    assert decisions(SEED, RANDOM) == decisions(SEED, RANDOM)
    assert decisions(SEED, RANDOM) != decisions(SEED + 1, RANDOM)


def test_decisions_are_as_frequent_as_planned() -> None:
    """A probability is one: of 4,000 calls about a tenth is throttled."""
    throttled = [each.instead for each in decisions(SEED, Plan(throttle=0.1), 4000)]
    assert 330 < throttled.count("throttle") < 470


def test_certain_faults_always_come_and_impossible_ones_never() -> None:
    """Probability 1 spares no call and 0 hits none."""
    assert set(decisions(SEED, Plan(drop_before=1.0))) == {decide.Decision(instead="drop_before")}
    assert set(decisions(SEED, Plan())) == {decide.HEALTHY}


def test_one_fault_does_not_move_the_others() -> None:
    """Adding a rare fault leaves the calls that it does not hit as they were."""
    before = decisions(SEED, Plan(throttle=0.2))
    after = decisions(SEED, Plan(throttle=0.2, server_error=0.1))
    assert [each for each in after if each.instead == "throttle"]
    assert [each.instead == "throttle" for each in before] == [
        each.instead == "throttle" for each in after
    ]


def test_other_operations_do_not_shuffle_the_decisions(injector: Injector) -> None:
    """However calls of two operations interleave, each meets its own faults."""
    injector.set_plan(RANDOM)
    puts = Target("kinesis", "PutRecords")
    alone = decisions(SEED, RANDOM, 60)
    mixed = []
    for index in range(60):
        for _ in range(index % 3):
            injector.decide(injector.arrived(Target("dynamodb", "UpdateItem"), b""))
        mixed.append(injector.decide(injector.arrived(puts, b"")))
    assert mixed == alone
    assert injector.calls == {"kinesis:PutRecords": 60, "dynamodb:UpdateItem": 60}


def test_operations_do_not_fail_together() -> None:
    """The n-th calls of two operations of one service do not share their luck."""
    of = Plan(throttle=0.5)
    gets = [
        decide.decide(SEED, of, Call("kinesis", "GetRecords", number, number))
        for number in range(1, 501)
    ]
    assert gets != decisions(SEED, of)


@pytest.mark.parametrize(
    ("only", "hit"),
    [
        ([], True),
        (["kinesis"], True),
        (["PutRecords"], True),
        (["kinesis:PutRecords"], True),
        (["s3", "GetRecords"], False),
    ],
)
def test_only_limits_the_random_faults(only: list[str], *, hit: bool) -> None:
    """`only` takes services, operations, or both; empty means all."""
    decision = decide.decide(SEED, Plan(throttle=1.0, only=only), put_records(1))
    assert decision == decide.Decision(instead="throttle" if hit else None)
    records = decide.failing_records(SEED, Plan(partial_failure=1.0, only=only), put_records(1), 2)
    assert records == ([0, 1] if hit else [])


@pytest.mark.parametrize(
    ("of", "call", "fault"),
    [
        (Plan(expire_iterators=1.0), Call("kinesis", "GetRecords", 1, 1), "expire_iterators"),
        (Plan(expire_iterators=1.0), Call("kinesis", "GetShardIterator", 1, 1), None),
        (
            Plan(conditional_failure=1.0),
            Call("dynamodb", "UpdateItem", 1, 1, is_write=True, is_conditional=True),
            "conditional_failure",
        ),
        (Plan(conditional_failure=1.0), Call("dynamodb", "UpdateItem", 1, 1, is_write=True), None),
    ],
)
def test_some_faults_are_for_some_calls(of: Plan, call: Call, fault: str | None) -> None:
    """Iterators expire in GetRecords, conditions fail where there is one."""
    assert decide.decide(SEED, of, call).instead == fault


def test_only_writes_lose_their_answer() -> None:
    """A lost answer to a read would be a dropped connection and nothing more."""
    of = Plan(commit_then_drop=1.0)
    assert decide.decide(SEED, of, put_records(1)).afterwards == "commit_then_drop"
    assert decide.decide(SEED, of, Call("kinesis", "GetRecords", 1, 1)) == decide.HEALTHY


def test_records_fail_by_themselves() -> None:
    """About as many records of a PutRecords fail as planned, the same ones in a replay."""
    of = Plan(partial_failure=0.05)
    failing = [decide.failing_records(SEED, of, put_records(number), 500) for number in (1, 2)]
    assert all(8 < len(each) < 50 for each in failing)
    assert failing[0] != failing[1]
    assert failing[0] == decide.failing_records(SEED, of, put_records(1), 500)
    assert failing[0][:3] == decide.failing_records(SEED, of, put_records(1), failing[0][2] + 1)


# Conditions, outages, the journal


def test_a_conditional_write_is_known_by_its_body(injector: Injector) -> None:
    """Only PutItem and UpdateItem with a ConditionExpression are conditional."""
    body = b'{"TableName":"t","ConditionExpression":"epoch = :e"}'
    for operation, its_body, conditional in (
        ("UpdateItem", body, True),
        ("PutItem", body, True),
        ("DeleteItem", body, False),
        ("UpdateItem", b'{"TableName":"t"}', False),
    ):
        call = injector.arrived(Target("dynamodb", operation), its_body)
        assert call.is_conditional == conditional


def test_an_outage_begins_with_the_plan_and_ends_by_itself(
    injector: Injector, time: VirtualTime
) -> None:
    """Every call of the service fails for so many seconds, others none, and then none."""
    time.now_seconds += 100
    injector.set_plan(Plan(outages={"kinesis": 60.0}))
    gone = decide.Decision(instead="outages")
    assert injector.decide(put_records(1)) == gone
    assert injector.decide(Call("s3", "PutObject", 1, 2)) == decide.HEALTHY
    time.now_seconds += 59
    assert injector.decide(put_records(2)) == gone
    assert injector.outages() == {"kinesis": 1.0}
    time.now_seconds += 1
    assert injector.decide(put_records(3)) == decide.HEALTHY
    assert injector.outages() == {}


def test_the_journal_says_what_happened(injector: Injector, tmp_path: Path) -> None:
    """Each fault is a line with its call's numbers, and counted; a plan is one too."""
    injector.set_plan(Plan(throttle=1.0))
    call = injector.arrived(Target("kinesis", "GetRecords"), b"{}")
    injector.note(call, "throttle", {"stream": "a"})
    injector.note_records(put_records(1), "partial_failure", [0, 4], {"stream": "a"})
    lines = [
        msgspec.json.decode(line) for line in (tmp_path / "faults.ndjson").read_bytes().splitlines()
    ]
    assert [line.pop("time") for line in lines]
    assert lines[0]["event"] == "planned"
    assert lines[0]["plan"]["throttle"] == 1.0
    assert lines[1] == {
        "sequence": 1,
        "service": "kinesis",
        "operation": "GetRecords",
        "call": 1,
        "fault": "throttle",
        "stream": "a",
    }
    assert lines[2]["records"] == [0, 4]
    assert injector.journal.counts["partial_failure"] == 2
    assert injector.journal.by_operation["kinesis:GetRecords"] == {"throttle": 1}


# Shard limits


def test_a_shard_takes_a_thousand_records_a_second() -> None:
    """A full second's worth at once, then as many as time brings."""
    limits = buckets.ShardLimits(now=0.0)
    assert sum(limits.take_record(10, now=0.0) for _ in range(1500)) == 1000
    assert sum(limits.take_record(10, now=0.25) for _ in range(1500)) == 250
    assert sum(limits.take_record(10, now=60.0) for _ in range(1500)) == 1000


def test_a_shard_takes_a_mebibyte_a_second() -> None:
    """Bytes are limited whatever the number of records; a smaller one may still fit."""
    limits = buckets.ShardLimits(now=0.0)
    assert limits.take_record(700_000, now=0.0)
    assert not limits.take_record(700_000, now=0.0)
    assert limits.take_record(300_000, now=0.0)
    assert limits.take_record(700_000, now=0.7)


def test_a_refused_record_costs_nothing() -> None:
    """What is not taken does not use the limit up."""
    limits = buckets.ShardLimits(now=0.0)
    assert limits.take_record(MIB // 2, now=0.0)
    assert not any(limits.take_record(MIB, now=0.0) for _ in range(10))
    assert limits.take_record(MIB // 2, now=0.0)


def test_a_record_larger_than_the_limit_is_taken_at_rest() -> None:
    """Ten mebibytes pass when the shard rests, and cost the next ten seconds."""
    limits = buckets.ShardLimits(now=0.0)
    assert limits.take_record(10 * MIB, now=0.0)
    assert not limits.take_record(1, now=8.9)
    assert limits.take_record(1, now=9.1)


def test_the_records_limit_does_not_spend_bytes() -> None:
    """A record refused for its number leaves the bytes alone."""
    limits = buckets.ShardLimits(now=0.0)
    assert sum(limits.take_record(100, now=0.0) for _ in range(2000)) == 1000
    assert limits.take_record(MIB - 100_000, now=0.001)


def test_a_shard_answers_five_calls_a_second() -> None:
    """GetRecords is refused beyond five, and answered again a fifth of a second later."""
    limits = buckets.ShardLimits(now=0.0)
    assert [limits.take_call(now=0.0) for _ in range(6)] == [True] * 5 + [False]
    assert limits.take_call(now=0.2)
    assert not limits.take_call(now=0.3)


def test_a_large_answer_is_paid_for_by_the_next_calls() -> None:
    """After ten mebibytes the shard is silent for the four seconds it may not give more."""
    limits = buckets.ShardLimits(now=0.0)
    assert limits.take_call(now=0.0)
    limits.gave(10 * MIB)
    assert not limits.take_call(now=0.0)
    assert not limits.take_call(now=3.9)
    assert limits.take_call(now=4.1)


def test_a_clock_that_jumps_back_gives_nothing() -> None:
    """Buckets never fill by a clock that went backwards."""
    bucket = buckets.Bucket(10, now=5.0)
    bucket.take(10)
    assert not bucket.fits(1, now=1.0)
    assert bucket.fits(1, now=1.1)
