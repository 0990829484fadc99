"""The contract: the two files we ship, what is derived from them, and what may change."""

from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from telemill import contract
from telemill.errors import SchemaError

ROOT = Path(__file__).parents[2]
FMS = ROOT / "contracts" / "fms.yaml"
SKAB = ROOT / "contracts" / "skab.yaml"

FMS_TEXT = FMS.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fms() -> contract.Contract:
    """The default contract."""
    return contract.load(FMS)


@pytest.fixture(scope="module")
def skab() -> contract.Contract:
    """Another plant's contract."""
    return contract.load(str(SKAB))


# What we ship


def test_fms_says_what_the_domain_says(fms: contract.Contract) -> None:
    """Ranges, sentinels and times of the default contract are those chosen for the product."""
    ranges = {each.name: (each.low, each.high) for each in fms.measures}
    assert ranges == {
        "sensor1": (0, 200),
        "sensor2": (0, 100),
        "sensor3": (0, 150),
        "motor1": (0, 2000),
        "motor2": (0, 1500),
        "motor3": (0, 2500),
    }
    assert {each.sentinels for each in fms.measures} == {(-1.0,)}
    assert {each.missing for each in fms.measures} == {"null"}
    assert (fms.interval_seconds, fms.late_after_seconds) == (10, 60)
    assert fms.future_tolerance_seconds == 60


def test_fms_fills_a_missing_failure_flag_with_false(fms: contract.Contract) -> None:
    """A reading without isFail is a reading that reports no failure."""
    flag = fms.values[-1]
    assert (flag.name, flag.column, flag.missing, flag.default) == (
        "isFail",
        "is_fail",
        "default",
        False,
    )


def test_only_device_and_time_are_required_in_fms(fms: contract.Contract) -> None:
    """A missing sensor never costs the record."""
    assert {each.name for each in fms.fields if each.required} == {"DeviceId", "time"}


def test_skab_is_another_plant_without_code(skab: contract.Contract) -> None:
    """Eight analogue channels, a text device and names with spaces are only a file."""
    assert {each.name: each.column for each in skab.measures} == {
        "Accelerometer1RMS": "accelerometer1_rms",
        "Accelerometer2RMS": "accelerometer2_rms",
        "Current": "current",
        "Pressure": "pressure",
        "Temperature": "temperature",
        "Thermocouple": "thermocouple",
        "Voltage": "voltage",
        "Volume Flow RateRMS": "volume_flow_rate_rms",
    }
    assert (skab.device.name, skab.device.type, skab.time.name) == ("device", "string", "datetime")
    assert skab.interval_seconds == 1


@pytest.mark.parametrize("path", [FMS, SKAB], ids=["fms", "skab"])
def test_docs_show_the_derived_table(path: Path) -> None:
    """The table in docs/contract.md is the one derived from the file."""
    loaded = contract.load(path)
    document = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    _, _, rest = document.partition(f"<!-- contract:{loaded.name} -->\n")
    shown, closed, _ = rest.partition(f"<!-- /contract:{loaded.name} -->")
    assert closed
    assert shown.strip("\n") == loaded.markdown_table().strip("\n")


# Decoding, as derived


def test_reading_struct_decodes_payload_names_into_columns(fms: contract.Contract) -> None:
    """A published body decodes into attributes named like the columns."""
    body = (
        b'{"time":"2025-07-07T08:21:29Z","DeviceId":1,"sensor1":85.69,"sensor2":85,'
        b'"sensor3":82.15,"motor1":1245.16,"motor2":874.81,"motor3":null,"isFail":false,"x":[1]}'
    )
    reading = msgspec.json.decode(body, type=fms.reading_struct)
    assert msgspec.structs.asdict(reading) == {
        "device_id": 1,
        "event_time": "2025-07-07T08:21:29Z",
        "sensor1": 85.69,
        "sensor2": 85.0,
        "sensor3": 82.15,
        "motor1": 1245.16,
        "motor2": 874.81,
        "motor3": None,
        "is_fail": False,
    }


def test_absent_fields_are_unset(fms: contract.Contract) -> None:
    """An absent field is told from a null one."""
    reading = msgspec.json.decode(b"{}", type=fms.reading_struct)
    assert set(msgspec.structs.asdict(reading).values()) == {msgspec.UNSET}


@pytest.mark.parametrize(
    "body",
    [
        b'{"DeviceId":"1"}',
        b'{"DeviceId":9223372036854775808}',
        b'{"sensor1":"85"}',
        b'{"sensor1":true}',
        b'{"sensor1":1e999}',
        b'{"sensor1":NaN}',
        b'{"isFail":0}',
        b'{"time":1720340489}',
        b"[]",
    ],
)
def test_reading_struct_takes_only_its_types(fms: contract.Contract, body: bytes) -> None:
    """What decodes fits its Arrow column: wrong types, NaN and too large integers do not."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(body, type=fms.reading_struct)


def test_key_struct_reads_the_device_alone(skab: contract.Contract) -> None:
    """Routing needs no more of a document than its device, even if the rest is wrong."""
    key = msgspec.json.decode(b'{"Current":"?","device":"rig-1"}', type=skab.key_struct)
    assert key.device_id == "rig-1"  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [5, 5.0, "5"])
def test_device_key_is_canonical(fms: contract.Contract, value: object) -> None:
    """However a producer writes a device, it is one key and so one slot."""
    assert (fms.device_key(value), fms.device_id(value)) == ("5", 5)


@pytest.mark.parametrize(
    "value",
    [
        None,
        msgspec.UNSET,
        "",
        True,
        5.5,
        1e300,
        float("inf"),
        float("nan"),
        2**63,
        10**6000,
        "05",
        "5.0",
        "+5",
        "-0",
        " 5",
        "\u0665",
        "²",
        "1_0",
        "9" * 5000,
        [],
    ],
    ids=lambda value: str(type(value)),
)
def test_what_names_no_integer_device_is_refused(fms: contract.Contract, value: object) -> None:
    """A device that could not be given back as it came is a SchemaError with a short text."""
    with pytest.raises(SchemaError) as caught:
        fms.device_key(value)
    assert "DeviceId" in str(caught.value)
    assert len(str(caught.value)) < 120


def test_text_devices(skab: contract.Contract) -> None:
    """A text device keeps its text; a number that is no integer, or a long text, is refused."""
    assert skab.device_key("Rig 7 ü") == "Rig 7 ü"
    assert skab.device_key(7) == skab.device_key("7") == "7"
    for value in (7.0, True, "x" * 257, "a\nb", "\ud800", None):
        with pytest.raises(SchemaError):
            skab.device_key(value)


def test_a_device_range_refuses_other_devices() -> None:
    """The contract may say which integer devices there are."""
    text = FMS_TEXT.replace("type: int64", "type: int64\n    range: [1, 100]")
    loaded = contract.loads(text)
    assert loaded.device_key(100) == "100"
    with pytest.raises(SchemaError, match=r"DeviceId must be in 1\.\.100, got 101"):
        loaded.device_key(101)


# Schemas, as derived


def test_stream_and_table_schemas(fms: contract.Contract) -> None:
    """A table is its stream with the shard, which on the stream is in the wire header."""
    values = [each.column for each in fms.values]
    key = ["device_id", "event_time", "ingest_time"]
    lineage = ["sequence_number", "sub_sequence_number"]
    assert fms.stream_schema.names == [*key, *values, "quality", *lineage]
    assert fms.table_schema.names == [*key, *values, "quality", "shard_id", *lineage]
    contributions = [f"contribution_{each.column}" for each in fms.measures]
    scored = [*key, "score", "is_anomaly", "detector", *contributions]
    assert fms.score_stream_schema.names == [*scored, *lineage]
    assert fms.score_table_schema.names == [*scored, "shard_id", *lineage]


def test_schema_types(fms: contract.Contract, skab: contract.Contract) -> None:
    """Times are UTC microseconds, the mask is 64 bits wide, the device has the contract's type."""
    schema = fms.table_schema
    assert schema.field("event_time").type == pa.timestamp("us", "UTC")
    assert schema.field("ingest_time").type == pa.timestamp("us", "UTC")
    assert schema.field("quality").type == pa.int64()
    assert schema.field("device_id").type == pa.int64()
    assert skab.table_schema.field("device_id").type == pa.string()
    assert fms.score_table_schema.field("contribution_motor1").type == pa.float32()


def test_only_values_may_be_null(fms: contract.Contract) -> None:
    """Key, mask and lineage are never null; measures, flags, scores and contributions may be."""
    nullable = {each.name for each in fms.table_schema if each.nullable}
    assert nullable == {each.column for each in fms.values}
    scored = {each.name for each in fms.score_table_schema if each.nullable}
    assert scored == {"score", *(f"contribution_{each.column}" for each in fms.measures)}


def test_schemas_carry_units_and_ranges(fms: contract.Contract) -> None:
    """A Parquet file explains itself."""
    assert fms.table_schema.field("sensor1").metadata == {
        b"name": b"sensor1",
        b"unit": "°C".encode(),
        b"description": b"Temperature",
        b"range": b"0..200",
    }
    assert fms.table_schema.metadata[b"telemill.contract"] == b"fms"
    assert fms.score_table_schema.metadata[b"telemill.version"] == b"1"


def test_glue_columns(fms: contract.Contract) -> None:
    """Glue shows type, unit and range of every column of the table."""
    columns = {each["Name"]: each for each in fms.glue_columns("readings")}
    assert list(columns) == fms.table_schema.names
    assert columns["sensor1"] == {
        "Name": "sensor1",
        "Type": "double",
        "Comment": "Temperature [°C], valid 0..200",
    }
    assert columns["event_time"]["Type"] == "timestamp"
    assert columns["is_fail"]["Type"] == "boolean"
    scores = {each["Name"]: each["Type"] for each in fms.glue_columns("scores")}
    assert list(scores) == fms.score_table_schema.names
    assert scores["contribution_sensor1"] == "float"


def test_quality_bits_of_fms_are_fixed(fms: contract.Contract) -> None:
    """Stored rows depend on these numbers: they never change under one version."""
    first, last = fms.values[0], fms.values[-1]
    assert (contract.QUALITY_LATE, contract.QUALITY_IMPUTED) == (1, 2)
    assert (fms.missing_bit(first), fms.sentinel_bit(first), fms.range_bit(first)) == (16, 32, 64)
    assert fms.range_bit(last) == 1 << 24


# Versions


ADDED = """\
  - {name: heat, role: measure, type: float64, description: Heat}
"""


def test_a_nullable_field_at_the_end_is_compatible() -> None:
    """Old rows read as new ones: the added column is null, no bit moves."""
    assert contract.compatible(contract.loads(FMS_TEXT), contract.loads(FMS_TEXT + ADDED)) == []


def test_another_description_is_compatible() -> None:
    """Words may be mended."""
    new = contract.loads(FMS_TEXT.replace("Humidity", "Relative humidity"))
    assert contract.compatible(contract.loads(FMS_TEXT), new) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: fms", "name: mes", "the name changed from 'fms' to 'mes'"),
        ("[0, 150]", "[0, 160]", "field 'sensor3': high changed from 150.0 to 160.0"),
        ("unit: PSI", "unit: bar", "field 'sensor3': unit changed from 'PSI' to 'bar'"),
        ("name: motor1", "name: fan1", "field 'motor1' gave its place to 'fan1'"),
        ("late_after_seconds: 60", "late_after_seconds: 5", "late_after_seconds changed from 60"),
        ("type: int64", "type: string", "field 'DeviceId': type changed from 'int64' to 'string'"),
    ],
)
def test_other_changes_need_a_new_version(old: str, new: str, expected: str) -> None:
    """What readers of old rows would misread is a problem, unless the version is raised."""
    before, after = contract.loads(FMS_TEXT), FMS_TEXT.replace(old, new, 1)
    (problem,) = contract.compatible(before, contract.loads(after))
    assert problem.startswith(expected)
    raised = after.replace("version: 1", "version: 2").replace("name: mes", "name: fms")
    assert contract.compatible(before, contract.loads(raised)) == []


@pytest.mark.parametrize("policy", ["required: true", "missing: default, default: 0"])
def test_a_new_field_must_be_nullable(policy: str) -> None:
    """Old rows cannot have what the new field promises."""
    added = ADDED.replace("}", f", {policy}}}")
    (problem,) = contract.compatible(contract.loads(FMS_TEXT), contract.loads(FMS_TEXT + added))
    assert problem == "new field 'heat' must be nullable and not required"


def test_removed_and_older_are_incompatible() -> None:
    """A field cannot be taken away, a version not be taken back."""
    new = contract.loads(FMS_TEXT + ADDED)
    assert contract.compatible(new, contract.loads(FMS_TEXT)) == ["field 'heat' was removed"]
    raised = contract.loads(FMS_TEXT.replace("version: 1", "version: 2"))
    assert contract.compatible(raised, new) == ["the version went back from 2 to 1"]
