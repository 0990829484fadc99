"""What goes wrong, and how often: a value, JSON in and out."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from telemill import slots
from telemill.errors import ConfigurationError
from telemill.testing.faults import services

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
FAULTS = (
    "partial_failure",
    "failing_slots",
    "commit_then_drop",
    "drop_before",
    "throttle",
    "server_error",
    "expire_iterators",
    "conditional_failure",
    "stall",
    "shard_limits",
    "outages",
)
"""What is counted and logged when it happens: the plan's fields that make single calls fail."""


class PlanError(ConfigurationError):
    """A plan that says something impossible; the text names the field."""


def _about(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class Plan(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The faults at work. Without arguments: none."""

    partial_failure: Annotated[
        Probability,
        _about(
            "of each record of a PutRecords: answered as "
            "`ProvisionedThroughputExceededException`, and not put"
        ),
    ] = 0.0
    failing_slots: Annotated[
        list[int],
        _about("records whose explicit hash key is one of these slots' are never put, always fail"),
    ] = msgspec.field(default_factory=list)
    slot_count: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=slots.MAX_SLOT_COUNT)],
        _about("slots of the streams, for `failing_slots`"),
    ] = slots.DEFAULT_SLOT_COUNT
    commit_then_drop: Annotated[
        Probability, _about("of each write: done, then the connection is dropped without an answer")
    ] = 0.0
    drop_before: Annotated[
        Probability,
        _about(
            "of each call: not done, the connection is dropped; an S3 body is cut in the middle"
        ),
    ] = 0.0
    throttle: Annotated[
        Probability,
        _about("of each call: not done, refused as the service does when it is called too often"),
    ] = 0.0
    server_error: Annotated[
        Probability,
        _about("of each call: not done, answered with the service's internal error, 500"),
    ] = 0.0
    expire_iterators: Annotated[
        Probability, _about("of each GetRecords: `ExpiredIteratorException`")
    ] = 0.0
    conditional_failure: Annotated[
        Probability,
        _about(
            "of each PutItem and UpdateItem with a ConditionExpression: not done, "
            "`ConditionalCheckFailedException` though the condition may hold"
        ),
    ] = 0.0
    stall: Annotated[
        Probability, _about("of each call: done, but the answer comes `stall_seconds` late")
    ] = 0.0
    stall_seconds: Annotated[Seconds, _about("how late")] = 30.0
    shard_limits: Annotated[
        bool,
        _about(
            "a shard takes 1 MiB and 1,000 records a second, and gives 2 MiB in 5 GetRecords "
            "a second; what is above is refused"
        ),
    ] = False
    clock_skew_seconds: Annotated[
        float,
        _about(
            "how far the services' clock is ahead (below 0: behind): Date, "
            "ApproximateArrivalTimestamp, AT_TIMESTAMP"
        ),
    ] = 0.0
    outages: Annotated[
        dict[str, Seconds],
        _about("service → for how many seconds from now every call of it fails, not done"),
    ] = msgspec.field(default_factory=dict)
    outage_answer: Annotated[
        Literal["close", "503"],
        _about("how a call fails in an outage: the connection is closed, or 503"),
    ] = "close"
    only: Annotated[
        list[str],
        _about(
            "the probabilities above hold for these alone: services (`s3`), operations "
            "(`PutRecords`) or both (`s3:PutObject`); empty: for all"
        ),
    ] = msgspec.field(default_factory=list)

    def applies_to(self, service: str, operation: str) -> bool:
        """Whether the random faults concern an operation."""
        names = (service, operation, f"{service}:{operation}")
        return not self.only or any(name in self.only for name in names)

    @property
    def is_healthy(self) -> bool:
        """Whether it does nothing at all."""
        return self == Plan(slot_count=self.slot_count)


_decoder = msgspec.json.Decoder(Plan)


def decode(body: bytes) -> Plan:
    """A plan from JSON.

    Raises:
        PlanError: It is no plan.
    """
    try:
        return check(_decoder.decode(body))
    except msgspec.MsgspecError as error:
        raise PlanError(str(error)) from error


def encode(plan: Plan) -> bytes:
    """The plan as JSON."""
    return msgspec.json.encode(plan)


def check(plan: Plan) -> Plan:
    """The plan itself, if it says nothing impossible.

    Raises:
        PlanError: It does.
    """
    try:
        msgspec.convert(msgspec.to_builtins(plan), Plan)
    except msgspec.ValidationError as error:
        raise PlanError(str(error)) from error
    problem = next(_problems(plan), None)
    if problem is not None:
        raise PlanError(problem)
    return plan


def _problems(plan: Plan) -> Iterator[str]:
    for slot in plan.failing_slots:
        if not 0 <= slot < plan.slot_count:
            yield f"$.failing_slots: {slot} is no slot; takes 0 to {plan.slot_count - 1}"
    for service in plan.outages:
        if service not in services.SERVICES:
            yield f"$.outages: {service!r} is no service; takes {', '.join(services.SERVICES)}"
    for name in plan.only:
        if not services.is_known(name):
            yield (
                f"$.only: {name!r} is neither a service ({', '.join(services.SERVICES)}) "
                "nor an operation of one"
            )


def markdown_table() -> str:
    """The fields as a table: what docs/fault-injection.md shows."""
    hints = get_type_hints(Plan, include_extras=True)
    lines = ["| field | default | meaning |", "|---|---|---|"]
    for each in msgspec.structs.fields(Plan):
        default = msgspec.json.encode(_default(each)).decode()
        lines.append(f"| `{each.name}` | `{default}` | {_description(hints[each.name])} |")
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _description(hint: Any) -> str:
    metas = [each for each in get_args(hint) if isinstance(each, msgspec.Meta)]
    return next(each.description for each in metas if each.description)
