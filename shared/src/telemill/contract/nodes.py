"""Reading YAML with line numbers: nodes to values, collecting every problem on the way."""

import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml


class WrongValueError(Exception):
    """A node is not what its key takes; the text says what that is."""


class Problems:
    """Everything wrong with one file."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, line: int, text: str) -> None:
        """Note a problem at a line (the first is 1)."""
        self._found.append((line, text))

    def text(self, source: str) -> str:
        """One `source:line: problem` a line, in the order of the file."""
        ordered = sorted(self._found, key=lambda found: found[0])
        return "\n".join(f"{source}:{line}: {text}" for line, text in ordered)


Converter = Callable[[yaml.Node], Any]
Keys = Mapping[str, Converter]


@dataclass(frozen=True, slots=True)
class Section:
    """The known keys of one mapping; a key whose value is wrong is in `lines` only."""

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """The value, or None if absent or wrong."""
        return self.values.get(key)

    def is_wrong(self, key: str) -> bool:
        """Whether the key is there with a value already reported."""
        return key in self.lines and key not in self.values

    def at(self, key: str) -> int:
        """The key's line, or the section's if it is absent."""
        return self.lines.get(key, self.line)


def line_of(node: yaml.Node) -> int:
    """The line a node starts on."""
    return int(node.start_mark.line) + 1


def section(node: yaml.Node, keys: Keys, what: str, problems: Problems) -> Section:
    """Read a mapping of known keys; unknown, doubled and wrong ones become problems."""
    found = Section(line_of(node))
    if not isinstance(node, yaml.MappingNode):
        problems.add(found.line, f"{what} must be a mapping of keys to values")
        return found
    for key_node, value_node in node.value:
        _take(found, key_node, value_node, keys, what, problems)
    return found


def _take(
    found: Section,
    key_node: yaml.Node,
    value_node: yaml.Node,
    keys: Keys,
    what: str,
    problems: Problems,
) -> None:
    line = line_of(key_node)
    key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
    # Four cases: unknown; a second time; wrong value; good.
    if key not in keys:
        problems.add(line, f"{what}: unknown key {key!r}{_suggestion(key, keys)}")
        return
    if key in found.lines:
        problems.add(line, f"{what}: key {key!r} again (first on line {found.lines[key]})")
        return
    found.lines[key] = line
    try:
        found.values[key] = keys[key](value_node)
    except WrongValueError as wrong:
        problems.add(line, f"{what}: {key} {wrong}")


def _suggestion(key: str, keys: Keys) -> str:
    close = difflib.get_close_matches(key, keys, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f"; it takes {', '.join(keys)}"


def scalar(node: yaml.Node) -> Any:
    """A single value as YAML types it."""
    if not isinstance(node, yaml.ScalarNode):
        raise WrongValueError("must be a single value")
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise WrongValueError(f"cannot be read: {node.value!r}") from error


def line_of_text(limit: int, *, empty: bool = False) -> Converter:
    """A converter for one printable line of text of at most `limit` characters."""

    def convert(node: yaml.Node) -> str:
        text = scalar(node)
        if not isinstance(text, str):
            raise WrongValueError(f"must be text, got {node.value!r}: put it in quotes")
        if not text.isprintable() or len(text) > limit or not (text.strip() or empty):
            least = "" if empty else "non-empty, "
            raise WrongValueError(f"must be {least}printable, one line, at most {limit} characters")
        return text

    return convert


def one_of(*words: str) -> Converter:
    """A converter for one of some words, quoted or not: `null` is a word here, too."""

    def convert(node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode) and node.value in words:
            return str(node.value)
        got = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a collection"
        raise WrongValueError(f"must be one of {', '.join(words)}; got {got}")

    return convert


def boolean(node: yaml.Node) -> bool:
    """True or false."""
    value = scalar(node)
    if not isinstance(value, bool):
        raise WrongValueError(f"must be true or false, got {value!r}")
    return value


def number(node: yaml.Node) -> float:
    """A finite number."""
    value = scalar(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongValueError(f"must be a number, got {value!r}")
    if not abs(value) <= sys.float_info.max:
        raise WrongValueError("must be a finite number")
    return float(value)


def seconds(*, zero: bool) -> Converter:
    """A converter for a duration."""

    def convert(node: yaml.Node) -> float:
        value = number(node)
        if value < 0 or (value == 0 and not zero):
            raise WrongValueError(f"must be {'at least' if zero else 'more than'} 0, got {value:g}")
        return value

    return convert


def items(node: yaml.Node) -> list[yaml.Node]:
    """The nodes of a sequence."""
    if not isinstance(node, yaml.SequenceNode):
        raise WrongValueError("must be a list")
    return list(node.value)
