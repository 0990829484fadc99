"""Which calls fail: a pure function of seed, operation and how many calls of it came before.

No generator is shared: calls of different operations may come in any order and still meet the same
faults. Nor does what one field of a plan says move the draws of another.
"""

from hashlib import blake2b
from typing import NamedTuple

from telemill.testing.faults.plan import Plan

DRAW_BYTES = 8
DRAWS = float(2 ** (8 * DRAW_BYTES))


class Call(NamedTuple):
    """One call.

    Attributes:
        service: As in `services.SERVICES`.
        operation: As botocore names it.
        number: 1 for the first call of this operation since the start.
        sequence: 1 for the first of all calls.
        is_write: Whether it changes data.
        is_conditional: Whether it is a DynamoDB PutItem or UpdateItem with a condition.
    """

    service: str
    operation: str
    number: int
    sequence: int
    is_write: bool = False
    is_conditional: bool = False


class Decision(NamedTuple):
    """What random fault a call meets; at most one of the two.

    Attributes:
        instead: Of doing it.
        afterwards: Once it is done.
    """

    instead: str | None = None
    afterwards: str | None = None


HEALTHY = Decision()


def draw(seed: int, call: Call, what: str) -> float:
    """A number in [0, 1) that depends on the arguments alone."""
    text = f"{seed}/{call.service}/{call.operation}/{call.number}/{what}"
    digest = blake2b(text.encode(), digest_size=DRAW_BYTES).digest()
    return int.from_bytes(digest, "big") / DRAWS


def decide(seed: int, plan: Plan, call: Call) -> Decision:
    """The random fault of a call as a whole; the first of a fixed order that hits."""
    if not plan.applies_to(call.service, call.operation):
        return HEALTHY
    for fault, probability in _instead(plan, call):
        if probability and draw(seed, call, fault) < probability:
            return Decision(instead=fault)
    for fault, probability in _afterwards(plan, call):
        if probability and draw(seed, call, fault) < probability:
            return Decision(afterwards=fault)
    return HEALTHY


def failing_records(seed: int, plan: Plan, call: Call, count: int) -> list[int]:
    """The indexes of a PutRecords' records that meet `partial_failure`."""
    if not plan.partial_failure or not plan.applies_to(call.service, call.operation):
        return []
    return [
        index
        for index in range(count)
        if draw(seed, call, f"partial_failure/{index}") < plan.partial_failure
    ]


def _instead(plan: Plan, call: Call) -> list[tuple[str, float]]:
    faults = [
        ("drop_before", plan.drop_before),
        ("throttle", plan.throttle),
        ("server_error", plan.server_error),
    ]
    if (call.service, call.operation) == ("kinesis", "GetRecords"):
        faults.append(("expire_iterators", plan.expire_iterators))
    if call.is_conditional:
        faults.append(("conditional_failure", plan.conditional_failure))
    return faults


def _afterwards(plan: Plan, call: Call) -> list[tuple[str, float]]:
    stall = ("stall", plan.stall)
    return [("commit_then_drop", plan.commit_then_drop), stall] if call.is_write else [stall]
