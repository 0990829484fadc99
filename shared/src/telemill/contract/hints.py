"""What a plant knows of a measure and no detector can learn: optional, under `hints` of a field."""

from dataclasses import dataclass

import yaml

from telemill.contract import nodes
from telemill.contract.nodes import Problems, WrongValueError


@dataclass(frozen=True, slots=True)
class Hints:
    """Hints of one measure; without them the detectors know only what they have seen.

    Attributes:
        most_change: Largest physically possible step between two readings; None if unknown.
        may_stand_still: It repeats itself in normal running, as a set point does.
        must_hold: It must hold its level: drift is a fault.
        low_limit: The plant acts below; None if there is no such limit. Inside the valid range.
        high_limit: The plant acts above; None if there is no such limit.
    """

    most_change: float | None = None
    may_stand_still: bool = False
    must_hold: bool = False
    low_limit: float | None = None
    high_limit: float | None = None


NO_HINTS = Hints()


def _positive(node: yaml.Node) -> float:
    value = nodes.number(node)
    if value <= 0:
        raise WrongValueError(f"must be more than 0, got {value:g}")
    return value


_KEYS: nodes.Keys = {
    "most_change": _positive,
    "may_stand_still": nodes.boolean,
    "must_hold": nodes.boolean,
    "low_limit": nodes.number,
    "high_limit": nodes.number,
}


def read(node: yaml.Node, what: str, problems: Problems) -> Hints:
    """Read the mapping under `hints`; what is wrong with it becomes problems.

    Args:
        node: The mapping.
        what: How errors name it.
        problems: Collects them.
    """
    found = nodes.section(node, _KEYS, what, problems)
    low, high = found.get("low_limit"), found.get("high_limit")
    if low is not None and high is not None and low >= high:
        problems.add(found.at("low_limit"), f"{what}: low_limit {low:g} is not below {high:g}")
    return Hints(**found.values)
