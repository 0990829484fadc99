"""The contract file: read it, or list everything that is wrong with it."""

import keyword
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from telemill.contract import hints, nodes, schemas
from telemill.contract.documents import MAX_INT64, MIN_INT64
from telemill.contract.field import (
    FIXED_COLUMNS,
    MAX_VALUE_FIELDS,
    MISSING_POLICIES,
    NUMBER_TYPES,
    TYPES_BY_ROLE,
    Field,
)
from telemill.contract.model import Contract
from telemill.contract.nodes import Problems, Section, WrongValueError
from telemill.errors import ConfigurationError

COLUMN_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,62}")
CONTRACT_NAME_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,62}")
MAX_VERSION = 2**16 - 1

_Found = Iterator[tuple[str, str]]
"""Problems of one field: the key they stand at, and the text."""


def load(path: Path | str) -> Contract:
    """Read a contract file.

    Raises:
        ConfigurationError: Its text has one `path:line: problem` a line, for every problem.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the contract: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{path}:{line}: a contract must be UTF-8 text") from error
    return loads(text, str(path))


def loads(text: str, source: str = "contract") -> Contract:
    """Read a contract from text; `source` names it in the errors.

    Raises:
        ConfigurationError: As `load`.
    """
    problems = Problems()
    root = _compose(text, problems)
    contract = _contract(root, problems) if root is not None else None
    if contract is None or problems:
        raise ConfigurationError(problems.text(source))
    return contract


def _compose(text: str, problems: Problems) -> yaml.Node | None:
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error.context}")
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        problems.add(line, f"not YAML: {error.reason}")
    except RecursionError:
        problems.add(1, "not a contract: nested too deeply")
    except (ValueError, OverflowError) as error:
        # PyYAML passes on what chr() says of "\\U99999999", and int() of a long %YAML version.
        problems.add(loader.line + 1 if loader else 1, f"not YAML: {error}")
    else:
        if root is None:
            problems.add(1, "the file is empty")
        return root
    return None


def _version(node: yaml.Node) -> int:
    version = nodes.scalar(node)
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise WrongValueError(f"must be an integer from 1 to {MAX_VERSION}, got {version!r}")
    return version


def _contract_name(node: yaml.Node) -> str:
    name = nodes.scalar(node)
    if not isinstance(name, str) or not CONTRACT_NAME_PATTERN.fullmatch(name):
        raise WrongValueError(f"must match {CONTRACT_NAME_PATTERN.pattern}, got {name!r}")
    return name


def _payload_name(node: yaml.Node) -> str:
    name: str = nodes.line_of_text(128)(node)
    if '"' in name or "\\" in name:
        raise WrongValueError(f"must not hold a quote or a backslash, got {name!r}")
    return name


def _column(node: yaml.Node) -> str:
    column: str = nodes.line_of_text(63)(node)
    if wrong := _wrong_column(column):
        raise WrongValueError(wrong)
    return column


def _wrong_column(column: str) -> str | None:
    if not COLUMN_PATTERN.fullmatch(column):
        return f"must match {COLUMN_PATTERN.pattern}, got {column!r}"
    if column in schemas.DERIVED_COLUMNS or column.startswith(schemas.CONTRIBUTION_PREFIX):
        return f"must not be {column!r}: that is a column we make ourselves"
    return f"must not be {column!r}: a reserved word" if keyword.iskeyword(column) else None


def _range(node: yaml.Node) -> tuple[float | None, float | None]:
    bounds = [_bound(item) for item in nodes.items(node)]
    if len(bounds) != 2:
        raise WrongValueError(f"must be [low, high], got {len(bounds)} items")
    low, high = bounds
    if low is not None and high is not None and low > high:
        raise WrongValueError(f"low {low:g} is above high {high:g}")
    return low, high


def _bound(node: yaml.Node) -> float | None:
    return None if nodes.scalar(node) is None else nodes.number(node)


def _sentinels(node: yaml.Node) -> tuple[float, ...]:
    return tuple(nodes.number(item) for item in nodes.items(node))


_ROLES = tuple(TYPES_BY_ROLE)
_TYPES = tuple(sorted({each for types in TYPES_BY_ROLE.values() for each in types}))
_CONTRACT_KEYS: nodes.Keys = {
    "name": _contract_name,
    "version": _version,
    "description": nodes.line_of_text(200, empty=True),
    "interval_seconds": nodes.seconds(zero=False),
    "late_after_seconds": nodes.seconds(zero=True),
    "future_tolerance_seconds": nodes.seconds(zero=True),
    "fields": nodes.items,
}
_FIELD_KEYS: nodes.Keys = {
    "name": _payload_name,
    "column": _column,
    "role": nodes.one_of(*_ROLES),
    "type": nodes.one_of(*_TYPES),
    "unit": nodes.line_of_text(20, empty=True),
    "description": nodes.line_of_text(150),
    "range": _range,
    "sentinels": _sentinels,
    "required": nodes.boolean,
    "missing": nodes.one_of(*MISSING_POLICIES),
    "default": nodes.scalar,
    "hints": lambda node: node,
}
_FIELD_NEEDS = ("name", "role", "type", "description")


def _contract(root: yaml.Node, problems: Problems) -> Contract | None:
    top = nodes.section(root, _CONTRACT_KEYS, "contract", problems)
    if not isinstance(root, yaml.MappingNode):
        return None
    _needs(top, tuple(key for key in _CONTRACT_KEYS if key != "description"), "contract", problems)
    listed = enumerate(top.get("fields") or (), start=1)
    sections = [_field_section(node, number, problems) for number, node in listed]
    _check_together(top, sections, problems)
    if problems:
        return None
    return Contract(**(top.values | {"fields": tuple(_field(each) for each in sections)}))


def _needs(found: Section, keys: tuple[str, ...], what: str, problems: Problems) -> None:
    for key in keys:
        if key not in found.lines:
            problems.add(found.line, f"{what}: key {key!r} is missing")


def _field_section(node: yaml.Node, number: int, problems: Problems) -> Section:
    what = _label(node, number)
    found = nodes.section(node, _FIELD_KEYS, what, problems)
    if isinstance(node, yaml.MappingNode):
        _needs(found, _FIELD_NEEDS, what, problems)
        for check in _FIELD_CHECKS:
            for key, text in check(found):
                problems.add(found.at(key), f"{what}: {text}")
    if "hints" in found.values:
        found.values["hints"] = hints.read(found.get("hints"), f"{what}: hints", problems)
    return found


def _label(node: yaml.Node, number: int) -> str:
    """How errors name a field, before anything about it is known to be right."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    names = [value.value for key, value in pairs if key.value == "name"]
    return f"field {names[0]!r}" if names and isinstance(names[0], str) else f"field {number}"


def _check_type(found: Section) -> _Found:
    role, kind = found.get("role"), found.get("type")
    if role and kind and kind not in TYPES_BY_ROLE[role]:
        yield "type", f"role {role} takes type {' or '.join(TYPES_BY_ROLE[role])}, got {kind}"


def _check_numeric(found: Section) -> _Found:
    kind = found.get("type")
    fits = kind in TYPES_BY_ROLE.get(found.get("role"), ())
    if fits and kind not in NUMBER_TYPES:
        for key in ("range", "sentinels"):
            if key in found.lines:
                yield key, f"{key} is for numbers, the type is {kind}"


def _check_hints(found: Section) -> _Found:
    role = found.get("role")
    if role and role != "measure" and "hints" in found.lines:
        yield "hints", f"hints are for measures, the role is {role}"


def _check_key_field(found: Section) -> _Found:
    role = found.get("role")
    if role not in FIXED_COLUMNS:
        return
    for key in ("column", "sentinels", "missing", "default"):
        if key in found.lines:
            yield key, f"the {role} field takes no {key}"
    if found.get("required") is False:
        yield "required", f"the {role} field is always required"


def _check_column(found: Section) -> _Found:
    name = found.get("name")
    if name and "column" not in found.lines and found.get("role") not in FIXED_COLUMNS:
        wrong = _wrong_column(name)
        if wrong:
            yield "name", f"without a key 'column' the name is the column, and a column {wrong}"


def _check_missing(found: Section) -> _Found:
    if found.get("role") in FIXED_COLUMNS or found.is_wrong("missing"):
        return
    if found.get("required") and ("missing" in found.lines or "default" in found.lines):
        yield "required", "a required field is never missing: it takes no missing or default"
    elif "default" in found.lines and found.get("missing") != "default":
        yield "default", "a default needs missing: default"
    elif found.get("missing") == "default" and "default" not in found.lines:
        yield "missing", "missing: default needs a default"


def _check_default(found: Section) -> _Found:
    kind = found.get("type")
    if kind in _TAKES_DEFAULT and "default" in found.values:
        default = found.get("default")
        if not _TAKES_DEFAULT[kind](default):
            yield "default", f"the default must be a {kind}, got {default!r}"


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) <= sys.float_info.max


_TAKES_DEFAULT: dict[str, Callable[[Any], bool]] = {
    "int64": lambda value: type(value) is int and MIN_INT64 <= value <= MAX_INT64,
    "float64": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str) and value.isprintable(),
}

_FIELD_CHECKS = (
    _check_type,
    _check_numeric,
    _check_hints,
    _check_key_field,
    _check_column,
    _check_missing,
    _check_default,
)


def _check_together(top: Section, sections: list[Section], problems: Problems) -> None:
    if "fields" not in top.values:
        return
    for role in FIXED_COLUMNS:
        _check_one(top, [each for each in sections if each.get("role") == role], role, problems)
    values = [each for each in sections if each.get("role") not in FIXED_COLUMNS]
    if not values:
        problems.add(top.at("fields"), "there must be a field of role measure or flag")
    for each in values[MAX_VALUE_FIELDS : MAX_VALUE_FIELDS + 1]:
        text = f"{len(values)} value fields; the quality mask has room for {MAX_VALUE_FIELDS}"
        problems.add(each.line, text)
    _check_unique(sections, "name", problems)
    _check_unique(values, "column", problems)


def _check_one(top: Section, found: list[Section], role: str, problems: Problems) -> None:
    if not found:
        problems.add(top.at("fields"), f"there must be a field of role {role}")
    for each in found[1:]:
        first = found[0].at("role")
        problems.add(each.at("role"), f"a second field of role {role} (first on line {first})")


def _check_unique(sections: list[Section], key: str, problems: Problems) -> None:
    seen: dict[str, int] = {}
    for each in sections:
        value = each.get(key) or each.get("name")
        line = each.at(key)
        if value is not None and seen.setdefault(value, line) != line:
            problems.add(line, f"{key} {value!r} again (first on line {seen[value]})")


def _field(found: Section) -> Field:
    role, name, kind = found.get("role"), found.get("name"), found.get("type")
    low, high = found.get("range") or (None, None)
    default = found.get("default")
    return Field(
        name=name,
        column=FIXED_COLUMNS.get(role) or found.get("column") or name,
        type=kind,
        unit=found.get("unit") or "",
        description=found.get("description"),
        role=role,
        low=low,
        high=high,
        sentinels=found.get("sentinels") or (),
        required=role in FIXED_COLUMNS or bool(found.get("required")),
        missing=found.get("missing") or "null",
        default=float(default) if kind == "float64" and default is not None else default,
        hints=found.get("hints") or hints.NO_HINTS,
    )
