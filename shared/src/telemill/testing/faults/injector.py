"""The plan at work, and what it does to each call. Synchronous: no I/O but the journal's."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from telemill.testing.faults import decide, facts
from telemill.testing.faults.decide import Call, Decision
from telemill.testing.faults.journal import Journal
from telemill.testing.faults.plan import Plan
from telemill.testing.faults.services import Target

CONDITIONAL = frozenset({("dynamodb", "PutItem"), ("dynamodb", "UpdateItem")})


class Injector:
    """Numbers the calls and decides about them.

    Attributes:
        seed: Decides, together with a call's number, what happens to it.
        plan: The plan at work.
        journal: Where every fault is noted.
        calls: How many calls came, by `service:Operation`.
    """

    def __init__(
        self, seed: int, journal: Journal, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.seed = seed
        self.plan = Plan()
        self.journal = journal
        self.calls: Counter[str] = Counter()
        self._monotonic = monotonic
        self._planned_at = monotonic()

    def set_plan(self, plan: Plan) -> None:
        """From now on, this plan."""
        self.plan = plan
        self._planned_at = self._monotonic()
        self.journal.event("planned", plan=plan, calls=dict(self.calls))

    def arrived(self, target: Target, body: bytes | None) -> Call:
        """Number a call. `body` is None when it is not here yet (S3)."""
        name = f"{target.service}:{target.operation}"
        self.calls[name] += 1
        return Call(
            target.service,
            target.operation,
            self.calls[name],
            self.calls.total(),
            target.is_write,
            (target.service, target.operation) in CONDITIONAL
            and b'"ConditionExpression"' in (body or b""),
        )

    def outages(self) -> dict[str, float]:
        """Services that are gone now, and for how many seconds more."""
        passed_seconds = self._monotonic() - self._planned_at
        return {
            service: seconds - passed_seconds
            for service, seconds in self.plan.outages.items()
            if seconds > passed_seconds
        }

    def decide(self, call: Call) -> Decision:
        """What the call as a whole meets, an outage first."""
        if self.plan.outages and call.service in self.outages():
            return Decision(instead="outages")
        return decide.decide(self.seed, self.plan, call)

    def note(self, call: Call, fault: str, known: dict[str, Any]) -> None:
        """Note a fault of a whole call."""
        self.journal.fault(call, fault, known)

    def note_records(
        self, call: Call, fault: str, refused: list[int], known: dict[str, Any]
    ) -> None:
        """Note a fault of some records of a PutRecords."""
        self.journal.fault(call, fault, known | {"records": refused}, count=len(refused))

    def facts(self, target: Target, body: bytes | None, content_type: str) -> dict[str, Any]:
        """What of a request is worth a place in the journal; never its data."""
        if target.service == "s3":
            return {"bucket": target.bucket, "key": target.key}
        return facts.of_body(target, body or b"", content_type)
