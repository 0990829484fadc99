"""The contract for any input: devices, quality bits and files."""

import json
import string
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import yaml
from hypothesis import given
from hypothesis import strategies as st

from telemill import contract
from telemill.contract import schemas
from telemill.errors import ConfigurationError, SchemaError

FMS = contract.load(Path(__file__).parents[2] / "contracts" / "fms.yaml")
INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
PRINTABLE = st.characters(exclude_categories=["C", "Z"], exclude_characters='"\\')
WORDS = st.text(PRINTABLE, min_size=1, max_size=20)
LETTERS = string.ascii_lowercase + string.digits + "_"


@given(INT64)
def test_every_way_to_write_a_device_is_one_key(device: int) -> None:
    """An integer, its text and (where exact) its float lead to one key and one column value."""
    ways: list[Any] = [device, str(device)]
    if abs(device) <= 2**53:
        ways.append(float(device))
    assert {FMS.device_key(way) for way in ways} == {str(device)}
    assert {FMS.device_id(way) for way in ways} == {device}


@given(st.text() | st.floats() | st.integers() | st.booleans() | st.none() | st.lists(st.none()))
def test_a_device_is_canonical_or_refused(value: object) -> None:
    """No value ends in another exception, and a key is its own key."""
    try:
        key = FMS.device_key(value)
    except SchemaError:
        return
    assert FMS.device_key(key) == key
    assert str(FMS.device_id(value)) == key


@given(INT64 | st.floats(allow_nan=False, allow_infinity=False) | st.text(PRINTABLE))
def test_the_key_struct_sees_what_the_document_says(value: object) -> None:
    """Routing by the key struct finds the device that a full JSON parser finds."""
    document = json.dumps({"DeviceId": value, "sensor1": "?"}).encode()
    key = msgspec.json.decode(document, type=FMS.key_struct)
    assert key.device_id == value  # type: ignore[attr-defined]


@st.composite
def value_fields(draw: st.DrawFn, name: str, column: str) -> dict[str, Any]:
    """A measure or flag as it stands in a file."""
    kind = draw(st.sampled_from(["float64", "int64", "bool", "string"]))
    role = "measure" if kind == "float64" else "flag"
    made: dict[str, Any] = {"name": name, "column": column, "role": role, "type": kind}
    made["description"] = draw(WORDS)
    made["unit"] = draw(st.just("") | WORDS)
    if kind in {"float64", "int64"} and draw(st.booleans()):
        made["range"] = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
        made["sentinels"] = draw(st.lists(NUMBERS, max_size=3))
    values = {"float64": NUMBERS, "int64": INT64, "bool": st.booleans(), "string": WORDS}
    policy = draw(st.sampled_from(["required", "null", "carry", "default"]))
    if policy == "required":
        return made | {"required": True}
    if policy == "default":
        made["default"] = draw(values[kind])
    return made | {"missing": policy}


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """A valid contract as it stands in a file."""
    columns = draw(
        st.lists(
            st.text(LETTERS, min_size=1, max_size=20).map(lambda text: f"v{text}"),
            min_size=1,
            max_size=contract.MAX_VALUE_FIELDS,
            unique=True,
        )
    )
    size = len(columns) + 2
    device, time, *names = draw(st.lists(WORDS, min_size=size, max_size=size, unique=True))
    kind = draw(st.sampled_from(["int64", "string"]))
    fields = [
        {"name": device, "role": "device", "type": kind, "description": draw(WORDS)},
        {"name": time, "role": "time", "type": "timestamp", "description": draw(WORDS)},
        *(draw(value_fields(*pair)) for pair in zip(names, columns, strict=True)),
    ]
    return {
        "name": "k" + draw(st.text(LETTERS + "-", max_size=10)),
        "version": draw(st.integers(1, 2**16 - 1)),
        "interval_seconds": draw(st.floats(0.001, 1e6)),
        "late_after_seconds": draw(st.floats(0, 1e6)),
        "future_tolerance_seconds": draw(st.integers(0, 10**6)),
        "fields": draw(st.permutations(fields)),
    }


def as_file(loaded: contract.Contract) -> dict[str, Any]:
    """A contract back in the form of a file, written out in full."""
    return {
        "name": loaded.name,
        "version": loaded.version,
        "interval_seconds": loaded.interval_seconds,
        "late_after_seconds": loaded.late_after_seconds,
        "future_tolerance_seconds": loaded.future_tolerance_seconds,
        "fields": [_field_as_file(each) for each in loaded.fields],
    }


def _field_as_file(each: contract.Field) -> dict[str, Any]:
    made: dict[str, Any] = {
        key: getattr(each, key) for key in ("name", "role", "type", "description")
    }
    if each.role in {"device", "time"}:
        return made
    made |= {"column": each.column, "unit": each.unit}
    if each.type in {"float64", "int64"}:
        made["sentinels"] = list(each.sentinels)
    if each.low is not None:
        made["range"] = [each.low, each.high]
    if each.required:
        return made | {"required": True}
    default = {"default": each.default} if each.missing == "default" else {}
    return made | {"missing": each.missing} | default


def parsed(file: dict[str, Any]) -> contract.Contract:
    """Load a file's content through YAML text."""
    return contract.loads(yaml.safe_dump(file, allow_unicode=True, sort_keys=False))


@given(files())
def test_a_valid_contract_round_trips(file: dict[str, Any]) -> None:
    """What is loaded says what the file says, and written out it loads as an equal contract."""
    loaded = parsed(file)
    for listed, each in zip(file["fields"], loaded.fields, strict=True):
        said = {key: value for key, value in listed.items() if key not in {"range", "sentinels"}}
        assert {key: getattr(each, key) for key in said} == said
        assert list(each.sentinels) == listed.get("sentinels", [])
        assert [each.low, each.high] == listed.get("range", [None, None])
    again = parsed(as_file(loaded))
    assert again == loaded
    assert contract.compatible(loaded, again) == []


@given(files())
def test_quality_bits_are_disjoint(file: dict[str, Any]) -> None:
    """Every bit says one thing, and all fit an int64."""
    loaded = parsed(file)
    bits = [contract.QUALITY_LATE, contract.QUALITY_IMPUTED]
    for each in loaded.values:
        bits += [loaded.missing_bit(each), loaded.sentinel_bit(each), loaded.range_bit(each)]
    assert sum(bits) == pa.scalar(sum(bits), pa.int64()).as_py()
    assert all(bit.bit_count() == 1 for bit in bits)
    assert len(set(bits)) == len(bits)


@given(files())
def test_everything_follows_from_any_contract(file: dict[str, Any]) -> None:
    """Schemas, structs, Glue columns and the table exist for every valid contract."""
    loaded = parsed(file)
    assert loaded.table_schema.names == [each["Name"] for each in loaded.glue_columns("readings")]
    assert len(set(loaded.score_table_schema.names)) == len(loaded.score_table_schema.names)
    assert all(len(each["Comment"]) <= 255 for each in loaded.glue_columns("scores"))
    document = msgspec.json.encode({each.name: None for each in loaded.fields})
    reading = msgspec.json.decode(document, type=loaded.reading_struct)
    columns = [each.column for each in (loaded.device, loaded.time, *loaded.values)]
    assert msgspec.structs.asdict(reading) == dict.fromkeys(columns)
    rows = loaded.markdown_table().splitlines()
    assert len(rows) == len(loaded.fields) + 2
    assert not schemas.DERIVED_COLUMNS & {each.column for each in loaded.values}


@given(files(), st.data())
def test_a_nullable_field_more_is_compatible_and_one_less_is_not(
    file: dict[str, Any], data: st.DataObject
) -> None:
    """Appending keeps every older bit; taking away is never allowed."""
    fields = file["fields"]
    more = {"name": "new name", "column": "w", "role": "flag", "type": "bool", "description": "d"}
    if len(fields) - 2 == contract.MAX_VALUE_FIELDS:
        fields.remove(next(each for each in fields if "column" in each))
    old, new = parsed(file), parsed(file | {"fields": [*fields, more]})
    assert contract.compatible(old, new) == []
    assert contract.compatible(new, old) == ["field 'new name' was removed"]
    for each in old.values:
        assert old.range_bit(each) == new.range_bit(each)


@given(st.text(st.characters(exclude_categories=["Cs"])) | files().map(yaml.safe_dump), st.data())
def test_no_damage_ends_in_another_exception(text: str, data: st.DataObject) -> None:
    """A damaged file is a contract or a ConfigurationError whose every line has a number."""
    start = data.draw(st.integers(0, len(text)))
    damaged = text[:start] + data.draw(st.text(max_size=3)) + text[start + 1 :]
    try:
        contract.loads(damaged, "c")
    except ConfigurationError as error:
        for line in str(error).splitlines():
            assert line.split(":")[1].isdecimal(), line
