"""How settings are shown, named on the command line and complained about."""

import difflib
import os
import re
import textwrap
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic import SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from telemill.errors import ConfigurationError

WIDTH = 100
MIN_LAST_COLUMN = 24
SECRETS = (SecretStr, SecretBytes)
COLLECTIONS = (list, tuple, set, frozenset, dict)
TYPE_NAMES: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    SecretStr: "secret text",
    SecretBytes: "secret text",
    dict: "JSON object",
}
LIMIT_WORDS = {
    "gt": "above",
    "ge": "at least",
    "lt": "below",
    "le": "at most",
    "min_length": "length at least",
    "max_length": "length at most",
    "pattern": "matching",
}
# What Kubernetes puts into the environment of every container for each Service of the name
# space (enableServiceLinks): SINK_SERVICE_HOST, SINK_PORT=tcp://..., and so on.
SERVICE_LINK_NAME = re.compile(r"(^|_)SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?$|_(TCP|UDP|SCTP)_[A-Z]+$")
SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")

INTRODUCTION = (
    "Settings are environment variables. Each can be given as a flag too, which overrides it:"
    " {port}=8080 is --http-port 8080 (secrets: only the environment). --check validates all of"
    " them and what they point to, and exits."
)

SettingsClass = type[BaseSettings]


@dataclass(frozen=True)
class Flags:
    """What the command line says."""

    help: bool = False
    check: bool = False
    values: dict[str, Any] = field(default_factory=dict)


def parse_flags(settings_class: SettingsClass, argv: Sequence[str]) -> Flags:
    """Read `--http-port 8080`, `--http-port=8080`, `--emf-enabled`, --help and --check.

    Raises:
        ConfigurationError: An argument which is no setting, or a setting without a value.
    """
    if "--help" in argv or "-h" in argv:
        return Flags(help=True)
    rest = iter([argument for argument in argv if argument != "--check"])
    values = dict(_parse_flag(settings_class, argument, rest) for argument in rest)
    return Flags(check="--check" in argv, values=values)


def _parse_flag(
    settings_class: SettingsClass, argument: str, rest: Iterator[str]
) -> tuple[str, str]:
    flag, equals, value = argument.partition("=")
    known = {
        flag_of(name): name
        for name, info in settings_class.model_fields.items()
        if not is_secret(info)
    }
    if flag not in known:
        raise ConfigurationError(f"{flag}: no such argument{_nearest(flag, list(known))}")
    if equals:
        return known[flag], value
    info = settings_class.model_fields[known[flag]]
    if info.annotation is bool:
        return known[flag], "true"
    try:
        return known[flag], next(rest)
    except StopIteration:
        raise ConfigurationError(f"{flag}: got no value; takes {takes(info)}") from None


def unknown_variables(settings_class: SettingsClass) -> list[str]:
    """A problem for each environment variable with the prefix which is no setting."""
    known = [env_name(settings_class, name) for name in settings_class.model_fields]
    common = {variable.split("_")[0] + "_" for variable in filter(None, _variables(settings_class))}
    return [
        f"{name}: no such setting{_nearest(name, known)}"
        for prefix in (_prefix(settings_class), *sorted(common))
        for name, value in sorted(os.environ.items())
        if name.upper().startswith(prefix)
        and name.upper() not in known
        and not SERVICE_LINK_NAME.search(name.removeprefix(prefix))
        and not SERVICE_LINK_VALUE.match(value)
    ]


def _variables(settings_class: SettingsClass) -> Iterator[str | None]:
    """The variable of each setting that has the same one in every service."""
    for info in settings_class.model_fields.values():
        yield info.validation_alias if isinstance(info.validation_alias, str) else None


def explain(settings_class: SettingsClass, error: pydantic.ValidationError) -> list[str]:
    """A problem for each wrong setting: its name, what it got, what it takes."""
    problems = {}
    by_variable = dict(zip(_variables(settings_class), settings_class.model_fields, strict=True))
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        name = by_variable.get(name, name)
        info = settings_class.model_fields.get(name)
        if info is None:
            problems[name] = f"settings: {problem['msg'].removeprefix('Value error, ')}"
        else:
            problems.setdefault(name, _explain_one(env_name(settings_class, name), info, problem))
    return list(problems.values())


def _explain_one(name: str, info: FieldInfo, problem: Any) -> str:
    if problem["type"] == "missing":
        return f"{name}: not set; takes {takes(info)}"
    if is_secret(info):
        return f"{name}: got a value that is not shown; takes {takes(info)}"
    got = problem["input"] if isinstance(problem["input"], str | int | float) else "a collection"
    why = problem["msg"].removeprefix("Value error, ") if problem["type"] == "value_error" else ""
    return f"{name}: got {got!r}; takes {takes(info)}{f' ({why})' if why else ''}"


def render(settings_class: SettingsClass, prog: str, description: str, epilog: str) -> str:
    """The text of --help."""
    rows = [_row(settings_class, name) for name in settings_class.model_fields]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    port = env_name(settings_class, "http_port")
    lines = [
        f"usage: {prog} [--help] [--check] [--setting VALUE ...]\n",
        *textwrap.wrap(description, WIDTH),
        "",
        *textwrap.wrap(INTRODUCTION.format(port=port), WIDTH),
        "",
        _aligned(("SETTING", "DEFAULT", "UNIT", "TAKES"), widths),
    ]
    for *columns, text in rows:
        lines += ["", _aligned(columns, widths), textwrap.indent(textwrap.fill(text, 92), "      ")]
    return "\n".join([*lines, f"\n{epilog.strip()}" if epilog else ""]).rstrip() + "\n"


def _row(settings_class: SettingsClass, name: str) -> tuple[str, str, str, str, str]:
    info = settings_class.model_fields[name]
    kind = f"{type_name(info.annotation)}{_limits(info)}"
    shown = (env_name(settings_class, name), default_of(info), unit_of(info) or "-", kind)
    return (*shown, info.description or "")


def _aligned(columns: Sequence[str], widths: Sequence[int]) -> str:
    padded = [text.ljust(width) for text, width in zip(columns, widths, strict=False)]
    start = "  ".join(["", *padded, ""])
    room = max(MIN_LAST_COLUMN, WIDTH - len(start))
    last = textwrap.wrap(columns[-1], room) or [""]
    return start + f"\n{' ' * len(start)}".join(last)


def env_name(settings_class: SettingsClass, name: str) -> str:
    """The environment variable of a setting."""
    variable = settings_class.model_fields[name].validation_alias
    return variable if isinstance(variable, str) else f"{_prefix(settings_class)}{name.upper()}"


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


def _prefix(settings_class: SettingsClass) -> str:
    return str(settings_class.model_config.get("env_prefix", "")).upper()


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.upper() if name.isupper() else name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def unit_of(info: FieldInfo) -> str | None:
    """A setting's unit, or None when it does not say."""
    extra = info.json_schema_extra
    return str(extra["unit"]) if isinstance(extra, dict) and "unit" in extra else None


def default_of(info: FieldInfo) -> str:
    """A setting's default as one would write it."""
    if is_secret(info) and not info.is_required():
        return "(secret)" if info.default else "(none)"
    if info.default_factory is not None:
        return str(info.get_default(call_default_factory=True, validated_data={}))
    if info.default is PydanticUndefined:
        return "(required)"
    return _written(info.default)


def _written(value: Any) -> str:
    if value is None or value in ("", (), [], {}):
        return "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(map(str, value))
    return str(value)


def is_secret(info: FieldInfo) -> bool:
    """Whether a setting's value must never be shown."""
    return any(part in SECRETS for part in _parts(info.annotation)) or info.repr is False


def is_collection(info: FieldInfo) -> bool:
    """Whether a setting holds several values."""
    return any(part in COLLECTIONS for part in _parts(info.annotation))


def _parts(annotation: Any) -> Iterator[Any]:
    """Every type named in an annotation."""
    yield get_origin(annotation) or annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def takes(info: FieldInfo) -> str:
    """What a setting takes, in words: "integer (slots), 1 to 4096"."""
    unit = unit_of(info)
    return f"{type_name(info.annotation)}{f' ({unit})' if unit else ''}{_limits(info)}"


def _limits(info: FieldInfo) -> str:
    bound = {name: value for item in info.metadata for name, value in _bounds(item)}
    if {"ge", "le"} <= bound.keys():
        return f", {bound['ge']} to {bound['le']}"
    words = [f"{LIMIT_WORDS[name]} {value}" for name, value in bound.items()]
    return f", {' and '.join(words)}" if words else ""


def _bounds(item: Any) -> Iterator[tuple[str, Any]]:
    for name in LIMIT_WORDS:
        if getattr(item, name, None) is not None:
            yield name, getattr(item, name)


def type_name(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(part) for part in arguments if part is not type(None))
    if origin in (list, tuple, set, frozenset):
        return f"comma-separated list of {type_name(arguments[0])}"
    return TYPE_NAMES.get(origin or annotation, getattr(annotation, "__name__", "text"))
