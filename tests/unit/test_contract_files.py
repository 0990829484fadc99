"""Every way a contract file can be wrong, and that each is explained at its line."""

from pathlib import Path

import pytest

from telemill import contract
from telemill.contract import schemas
from telemill.contract.hints import Hints
from telemill.errors import ConfigurationError

GOOD = """\
name: press
version: 1
interval_seconds: 1
late_after_seconds: 60
future_tolerance_seconds: 60
fields:
  - name: id
    role: device
    type: int64
    description: The device
  - name: at
    role: time
    type: timestamp
    description: The time
  - name: force
    role: measure
    type: float64
    unit: kN
    description: The force
    range: [0, 10]
    sentinels: [-1]
  - name: open
    role: flag
    type: bool
    description: Whether the door is open
    missing: default
    default: false
"""


TIME = "\n  - {name: t, role: time, type: timestamp, description: d}"


def problems_of(text: str) -> list[str]:
    """What is wrong with a contract, one `line: problem` each."""
    with pytest.raises(ConfigurationError) as caught:
        contract.loads(text, "c")
    return [line.removeprefix("c:") for line in str(caught.value).splitlines()]


def test_hints_are_for_detectors_only() -> None:
    """A measure's hints are read, and change neither a schema nor what older rows mean."""
    old = contract.loads(GOOD)
    limits = "{most_change: 2, may_stand_still: true, must_hold: true, low_limit: 1, high_limit: 9}"
    hinted = contract.loads(GOOD.replace("[-1]", f"[-1]\n    hints: {limits}"))
    assert hinted.measures[0].hints == Hints(2.0, True, True, 1.0, 9.0)
    assert hinted.table_schema.equals(old.table_schema, check_metadata=True)
    assert contract.compatible(old, hinted) == []


# Broken files


def test_the_good_one_is_good() -> None:
    """The contract which the next tests break is right."""
    loaded = contract.loads(GOOD)
    assert [each.column for each in loaded.fields] == ["device_id", "event_time", "force", "open"]


BROKEN = {
    "unknown key": ("range: [0, 10]", "rang: [0, 10]", "20: field 'force': unknown key 'rang'"),
    "unknown top key": ("version: 1", "version: 1\nx: 2", "3: contract: unknown key 'x'; it takes"),
    "missing key": ("    unit: kN\n    description: The force\n", "", "15: field 'force': key 'de"),
    "missing top key": ("interval_seconds: 1\n", "", "1: contract: key 'interval_seconds' is mis"),
    "unnamed field": ("name: force\n    role", "role", "15: field 3: key 'name' is missing"),
    "unknown type": ("float64", "float", "17: field 'force': type must be one of bool, float64,"),
    "unknown role": ("role: measure", "role: sensor", "16: field 'force': role must be one of dev"),
    "unknown policy": ("missing: default", "missing: zero", "26: field 'open': missing must be"),
    "role and type": ("float64", "string", "17: field 'force': role measure takes type float64,"),
    "low above high": ("[0, 10]", "[10, 0]", "20: field 'force': range low 10 is above high 0"),
    "half a range": ("[0, 10]", "[10]", "20: field 'force': range must be [low, high], got 1 it"),
    "range of a word": ("[0, 10]", "[0, x]", "20: field 'force': range must be a number, got 'x'"),
    "infinite range": ("[0, 10]", "[0, .inf]", "20: field 'force': range must be a finite number"),
    "range not a list": ("[0, 10]", "10", "20: field 'force': range must be a list"),
    "unknown hint": ("[-1]", "[-1]\n    hints: {hold: true}", "22: field 'force': hints: unk"),
    "impossible hint": ("[-1]", "[-1]\n    hints: {most_change: 0}", "22: field 'force': hin"),
    "limits crossed": ("[-1]", "[-1]\n    hints: {low_limit: 9, high_limit: 8}", "22: field"),
    "hints of a flag": (
        "default: false",
        "default: false\n    hints: {must_hold: true}",
        "28: fiel",
    ),
    "sentinel of a flag": ("default: false", "default: false\n    sentinels: [1]", "28: field 'o"),
    "sentinel of a word": ("[-1]", "[none]", "21: field 'force': sentinels must be a number, got"),
    "range of a text id": ("type: int64", "type: string\n    range: [1, 2]", "10: field 'id': ran"),
    "default, no policy": ("missing: default\n    ", "", "26: field 'open': a default needs missi"),
    "default, null": ("missing: default", "missing: null", "27: field 'open': a default needs mis"),
    "policy, no default": (
        "    default: false\n",
        "",
        "26: field 'open': missing: default needs a",
    ),
    "default of wrong type": ("default: false", "default: 0", "27: field 'open': the default must"),
    "required default": (
        "missing:",
        "required: true\n    missing:",
        "26: field 'open': a required",
    ),
    "bad name as column": (
        "name: force",
        "name: Force",
        "15: field 'Force': without a key 'column'",
    ),
    "bad column": (
        "unit: kN",
        "column: F-1",
        "18: field 'force': column must match [a-z][a-z0-9_]",
    ),
    "number as column": (
        "unit: kN",
        "column: 1",
        "18: field 'force': column must be text, got '1",
    ),
    "derived column": (
        "unit: kN",
        "column: quality",
        "18: field 'force': column must not be 'qual",
    ),
    "partition column": ("name: force", "name: hour", "15: field 'hour': without a key 'column'"),
    "contribution": ("unit: kN", "column: contribution_x", "18: field 'force': column must not be"),
    "reserved word": ("unit: kN", "column: class", "18: field 'force': column must not be 'class'"),
    "column of a device": (
        "type: int64",
        "type: int64\n    column: id",
        "10: field 'id': the devi",
    ),
    "optional device": ("type: int64", "type: int64\n    required: false", "10: field 'id': the d"),
    "name again": (
        "name: open",
        "name: force\n    column: o",
        "22: name 'force' again (first on l",
    ),
    "column again": (
        "name: open",
        "name: open\n    column: force",
        "23: column 'force' again (firs",
    ),
    "YAML key again": (
        "unit: kN",
        "type: float64",
        "18: field 'force': key 'type' again (first on",
    ),
    "no device": (
        "role: device\n    type: int64",
        "role: flag\n    type: bool",
        "6: there must be",
    ),
    "two times": ("fields:", f"fields:{TIME}", "13: a second field of role time (first on line 7)"),
    "bad payload name": (
        "name: open",
        "name: 'o\"pen'",
        "22: field 'o\"pen': name must not hold a",
    ),
    "number as text": (
        "unit: kN",
        "unit: 5",
        "18: field 'force': unit must be text, got '5': put",
    ),
    "lines of text": (
        "The force",
        '"a\\nb"',
        "19: field 'force': description must be non-empty, p",
    ),
    "empty name": ("name: press", "name: ''", "1: contract: name must match [a-z][a-z0-9_-]"),
    "list as name": ("name: press", "name: [a]", "1: contract: name must be a single value"),
    "list as key": ("unit: kN", "[a]: b", "18: field 'force': unknown key ''"),
    "version of text": ("version: 1", "version: '1'", "2: contract: version must be an integer"),
    "version 0": ("version: 1", "version: 0", "2: contract: version must be an integer from 1"),
    "no interval": (
        "interval_seconds: 1",
        "interval_seconds: 0",
        "3: contract: interval_seconds m",
    ),
    "negative time": (
        "late_after_seconds: 60",
        "late_after_seconds: -1",
        "4: contract: late_after",
    ),
    "yes or no": ("unit: kN", "required: 1", "18: field 'force': required must be true or false"),
    "foreign tag": ("unit: kN", "unit: !!python/name:os.x k", "18: field 'force': unit cannot be"),
    "impossible date": ("unit: kN", "unit: 2025-13-45", "18: field 'force': unit cannot be read"),
    "huge number": ("[0, 10]", f"[0, {'9' * 400}]", "20: field 'force': range must be a finite nu"),
    "not YAML": ("unit: kN", "unit: %", "18: not YAML: found character '%' that cannot start any"),
    "impossible escape": ("The force", '"\\U99999999"', "19: not YAML: "),
    "half a character": (
        "bool" + GOOD.partition("bool")[2],
        'string\n    description: d\n    missing: default\n    default: "\\ud800"\n',
        "27: field 'open': the default must be a string, got '\\ud800'",
    ),
    "lines in a word": ("missing: default", 'missing: "a\\nb"', "26: field 'open': missing must b"),
    "control character": ("kN", "k\x00N", "18: not YAML: special characters are not allowed"),
}


@pytest.mark.parametrize(("old", "new", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_broken_contract_is_explained(old: str, new: str, expected: str) -> None:
    """Each mistake is reported once, at its line, and says what would be right."""
    broken = GOOD.replace(old, new, 1)
    assert broken != GOOD
    (problem,) = problems_of(broken)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: the file is empty"),
        ("just words", "1: contract must be a mapping of keys to values"),
        ("a: 1\n---\nb: 2\n", "2: not YAML: but found another document"),
        ("[" * 100_000, "1: not a contract: nested too deeply"),
        ("a: &a [*a]", "1: contract: unknown key 'a'; it takes"),
        ("name: [", "1: not YAML"),
    ],
    ids=["empty", "words", "two documents", "deep", "recursive", "cut off"],
)
def test_what_is_no_contract_at_all(text: str, expected: str) -> None:
    """Any file is answered with problems, never with another exception."""
    assert problems_of(text)[0].startswith(expected)


def test_every_problem_is_listed_in_the_order_of_the_file() -> None:
    """One run shows all there is to mend."""
    broken = GOOD.replace("version: 1", "version: x").replace("float64", "int")
    broken = broken.replace("[0, 10]", "[10, 0]").replace("name: open", "name: Open")
    lines = [int(problem.partition(":")[0]) for problem in problems_of(broken)]
    assert lines == [2, 17, 20, 22]


def test_a_field_must_be_a_mapping_and_there_must_be_values() -> None:
    """A list of plain names is no list of fields."""
    head = GOOD.partition("fields:")[0]
    problems = problems_of(f"{head}fields: [temperature]\n")
    assert problems[0] == "6: field 1 must be a mapping of keys to values"
    assert "6: there must be a field of role device" in problems
    assert "6: there must be a field of role measure or flag" in problems_of(f"{head}fields: []\n")


def with_measures(count: int) -> str:
    """The good contract with its flag and `count` measures."""
    field = "  - {name: m%d, role: measure, type: float64, description: d}\n"
    return GOOD + "".join(field % number for number in range(count - 1))


def test_the_quality_mask_has_room_for_nineteen_values() -> None:
    """The nineteenth value's bits are below the sign bit; a twentieth is refused."""
    full = contract.loads(with_measures(contract.MAX_VALUE_FIELDS - 1))
    assert len(full.values) == 19
    assert full.range_bit(full.values[-1]) < 1 << 63
    (problem,) = problems_of(with_measures(contract.MAX_VALUE_FIELDS))
    assert problem == "45: 20 value fields; the quality mask has room for 19"


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file, a folder and a file that is not text are named in one line."""
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: a\nunit: \xb0C\n")
    for path, expected in (
        (tmp_path / "none.yaml", "cannot read the contract: No such file"),
        (tmp_path, "cannot read the contract: Is a directory"),
        (latin, "latin.yaml:2: a contract must be UTF-8 text"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            contract.load(path)
        assert str(caught.value).startswith(str(path))
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


def test_open_ranges() -> None:
    """A range may have one end only."""
    loaded = contract.loads(GOOD.replace("[0, 10]", "[null, 10.5]"))
    force = loaded.measures[0]
    assert (force.low, force.high, force.range_text) == (None, 10.5, "..10.5")


def test_no_derived_column_can_be_a_field() -> None:
    """Every column we add to streams, tables and partitions is reserved."""
    loaded = contract.loads(GOOD)
    made = {*loaded.table_schema.names, *loaded.score_table_schema.names, "dt", "hour"}
    fields = {"force", "open", "contribution_force"}
    assert made - fields == schemas.DERIVED_COLUMNS
