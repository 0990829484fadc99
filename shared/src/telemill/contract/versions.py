"""What may change in a contract without a new version."""

import dataclasses

from telemill.contract.field import Field
from telemill.contract.model import Contract

_NULLABLE_POLICIES = ("null", "carry")
_FREE = ("description", "hints")
"""What no row depends on."""


def compatible(old: Contract, new: Contract) -> list[str]:
    """Why `new` cannot take the place of `old`; empty when it can.

    Rows written under `old` must read as rows of `new`. Under the same version only two changes
    do: another description or other hints, and more fields at the end that are nullable and not
    required (so every older field keeps its quality bits). A higher version says that readers must
    change, and may change anything.
    """
    if new.name != old.name:
        return [f"the name changed from {old.name!r} to {new.name!r}: that is another contract"]
    if new.version < old.version:
        return [f"the version went back from {old.version} to {new.version}"]
    if new.version > old.version:
        return []
    return [*_timing(old, new), *_kept(old, new), *_added(old, new)]


def _timing(old: Contract, new: Contract) -> list[str]:
    names = ("interval_seconds", "late_after_seconds", "future_tolerance_seconds")
    return [
        f"{name} changed from {getattr(old, name)} to {getattr(new, name)}"
        for name in names
        if getattr(old, name) != getattr(new, name)
    ]


def _kept(old: Contract, new: Contract) -> list[str]:
    before = (old.device, old.time, *old.values)
    after = (new.device, new.time, *new.values)
    problems = [
        problem for was, now in zip(before, after, strict=False) for problem in _changes(was, now)
    ]
    gone = before[len(after) :]
    return problems + [f"field {each.name!r} was removed" for each in gone]


def _changes(was: Field, now: Field) -> list[str]:
    if was.name != now.name:
        return [f"field {was.name!r} gave its place to {now.name!r}: add new fields at the end"]
    return [
        f"field {was.name!r}: {each.name} changed from "
        f"{getattr(was, each.name)!r} to {getattr(now, each.name)!r}"
        for each in dataclasses.fields(Field)
        if each.name not in _FREE and getattr(was, each.name) != getattr(now, each.name)
    ]


def _added(old: Contract, new: Contract) -> list[str]:
    return [
        f"new field {each.name!r} must be nullable and not required"
        for each in new.values[len(old.values) :]
        if each.required or each.missing not in _NULLABLE_POLICIES
    ]
