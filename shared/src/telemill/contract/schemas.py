"""Arrow schemas of streams and tables, and the Glue columns that follow from them."""

from collections.abc import Iterable

import pyarrow as pa

from telemill.contract.field import DEVICE_COLUMN, TIME_COLUMN, Field

TIMESTAMP = pa.timestamp("us", "UTC")
CONTRIBUTION_PREFIX = "contribution_"
PARTITION_COLUMNS = ("dt", "hour")
"""Hive partition keys of every table: the event time's UTC day and hour."""

_ARROW_TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": TIMESTAMP,
}
_GLUE_TYPES = {
    pa.int64(): "bigint",
    pa.float64(): "double",
    pa.float32(): "float",
    pa.bool_(): "boolean",
    pa.string(): "string",
    TIMESTAMP: "timestamp",
}
MAX_GLUE_COMMENT_CHARACTERS = 255


def _column(column: str, arrow_type: pa.DataType, description: str, **more: str) -> pa.Field:
    """A column that is never null."""
    metadata = {"description": description} | {key: text for key, text in more.items() if text}
    return pa.field(column, arrow_type, nullable=False, metadata=metadata)


def _field_column(field: Field) -> pa.Field:
    return _column(
        field.column,
        _ARROW_TYPES[field.type],
        field.description,
        name=field.name,
        unit=field.unit,
        range=field.range_text,
    )


_INGEST_TIME = _column("ingest_time", TIMESTAMP, "When the raw stream accepted the record")
_QUALITY = _column("quality", pa.int64(), "Bit mask of what was found wrong; see the contract")
_SHARD_ID = _column("shard_id", pa.string(), "Shard of the raw record")
_POSITION = (
    _column("sequence_number", pa.string(), "Sequence number of the raw record in its shard"),
    _column("sub_sequence_number", pa.int64(), "Position of the reading in its raw record"),
)
_SCORE = (
    _column("score", pa.float64(), "Anomaly score; null while warming up").with_nullable(True),
    _column("is_anomaly", pa.bool_(), "Whether the detector calls the reading an anomaly"),
    _column("detector", pa.string(), "Detector that made the score"),
)
_ALERT = (
    _column("alert_id", pa.string(), "Episode of the device"),
    _column("state", pa.string(), "open, update or closed"),
    _column("sequence", pa.int64(), "Place among the rows of its episode, from 0"),
    _column("severity", pa.string(), "warning or critical: highest of the episode so far"),
    _column("since", TIMESTAMP, "Event time of the episode's first anomalous reading"),
    _column("score", pa.float64(), "Anomaly score of this reading").with_nullable(True),
    _column("peak_score", pa.float64(), "Largest score of the episode so far"),
    _column("duration_seconds", pa.float64(), "From since to the newest anomaly", unit="s"),
    _column("readings", pa.int64(), "Readings of the episode so far"),
    _column("anomalous_readings", pa.int64(), "Those of them that are anomalies"),
    _column("top_field", pa.string(), "Field with the largest share in the score"),
    _column("seen", pa.float64(), "Its value in this reading").with_nullable(True),
    _column("expected", pa.float64(), "Its normal value").with_nullable(True),
    _column("group_id", pa.string(), "Alert of the group, if any so far").with_nullable(True),
    _column("muted", pa.bool_(), "Whether the device was muted when the row was written"),
    _column("detector", pa.string(), "Detector that made the score"),
)


def _lineage(*, with_shard: bool) -> tuple[pa.Field, ...]:
    return (_SHARD_ID, *_POSITION) if with_shard else _POSITION


def readings(
    key: Iterable[Field], values: Iterable[Field], metadata: dict[str, str], *, with_shard: bool
) -> pa.Schema:
    """Columns of a reading; value columns may be null, the others never are.

    Args:
        key: The device and the time field.
        values: The value fields in order.
        metadata: Of the schema as a whole.
        with_shard: Whether each row says its raw shard (on a stream the wire header does).
    """
    measured = [_field_column(value).with_nullable(True) for value in values]
    columns = [*map(_field_column, key), _INGEST_TIME, *measured, _QUALITY]
    return pa.schema([*columns, *_lineage(with_shard=with_shard)], metadata=metadata)


def scores(
    key: Iterable[Field], measures: Iterable[Field], metadata: dict[str, str], *, with_shard: bool
) -> pa.Schema:
    """Columns of a score: its reading's key and lineage, and each measure's contribution.

    Arguments as for `readings`.
    """
    contributions = [_contribution(measure) for measure in measures]
    columns = [*map(_field_column, key), _INGEST_TIME, *_SCORE, *contributions]
    return pa.schema([*columns, *_lineage(with_shard=with_shard)], metadata=metadata)


def alerts(
    key: Iterable[Field], measures: Iterable[Field], metadata: dict[str, str], *, with_shard: bool
) -> pa.Schema:
    """Columns of a change of an episode: key and lineage of the reading that made it.

    Arguments as for `readings`.
    """
    contributions = [_contribution(measure) for measure in measures]
    columns = [*map(_field_column, key), _INGEST_TIME, *_ALERT, *contributions]
    return pa.schema([*columns, *_lineage(with_shard=with_shard)], metadata=metadata)


def _contribution(measure: Field) -> pa.Field:
    name = CONTRIBUTION_PREFIX + measure.column
    description = f"Share of {measure.column} in the score"
    return _column(name, pa.float32(), description).with_nullable(True)


def _derived_columns() -> frozenset[str]:
    made = readings((), (), {}, with_shard=True).names + scores((), (), {}, with_shard=True).names
    return frozenset([DEVICE_COLUMN, TIME_COLUMN, *made, *PARTITION_COLUMNS])


DERIVED_COLUMNS = _derived_columns()
"""Every column name we make ourselves."""


def glue_columns(schema: pa.Schema) -> list[dict[str, str]]:
    """An Arrow schema as the Glue API takes columns; the comment is description, unit, range."""
    return [
        {"Name": column.name, "Type": _GLUE_TYPES[column.type], "Comment": _comment(column)}
        for column in schema
    ]


def _comment(column: pa.Field) -> str:
    text = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
    unit = f" [{text['unit']}]" if "unit" in text else ""
    valid = f", valid {text['range']}" if "range" in text else ""
    return f"{text['description']}{unit}{valid}"[:MAX_GLUE_COMMENT_CHARACTERS]
