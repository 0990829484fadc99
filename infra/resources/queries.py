"""The domain's questions, as Athena and DuckDB both understand them.

`dt` and `hour` are the partitions: a query without a day reads the whole table, and the workgroup's
scan limit ends it.
"""

from telemill.contract import Contract, Field


def all_of(contract: Contract) -> dict[str, tuple[str, str]]:
    """Name to (description, SQL); `?` is the day, as 'YYYY-MM-DD'."""
    return {
        "daily-summary": (
            "Per device: readings, failures and every measure, of a day",
            _day(contract),
        ),
        "hour-of-day": ("Trend over the hours of a day, over all devices", _hours(contract)),
        "anomaly-ranking": ("Devices by anomalous readings, of a day", _ranking()),
        "data-quality": ("Per field: completeness and accuracy, of a day", _quality(contract)),
        "freshness": ("Per device: how old the newest reading of a day is", _freshness()),
    }


def _day(contract: Contract) -> str:
    columns = ",\n  ".join(
        f"min({each.column}) AS {each.column}_min, avg({each.column}) AS {each.column}_avg,"
        f" max({each.column}) AS {each.column}_max, stddev({each.column}) AS {each.column}_sd,"
        f" count(*) - count({each.column}) AS {each.column}_nulls"
        for each in contract.measures
    )
    flags = "".join(
        f"  sum(CASE WHEN {each.column} THEN 1 ELSE 0 END) AS {each.column}_readings,\n"
        for each in contract.values
        if each.type == "bool"
    )
    return (
        f"SELECT device_id, count(*) AS readings,\n{flags}  {columns}\n"
        "FROM readings WHERE dt = ?\nGROUP BY device_id ORDER BY device_id"
    )


def _hours(contract: Contract) -> str:
    means = ",\n  ".join(f"avg({each.column}) AS {each.column}_avg" for each in contract.measures)
    return (
        f"SELECT hour, count(*) AS readings, count(DISTINCT device_id) AS devices,\n  {means}\n"
        "FROM readings WHERE dt = ?\nGROUP BY hour ORDER BY hour"
    )


def _ranking() -> str:
    return (
        "SELECT device_id, sum(CASE WHEN is_anomaly THEN 1 ELSE 0 END) AS anomalies,\n"
        "  count(score) AS scored, max(score) AS highest_score,\n"
        "  min(CASE WHEN is_anomaly THEN event_time END) AS first_anomaly\n"
        "FROM scores WHERE dt = ?\n"
        "GROUP BY device_id ORDER BY anomalies DESC, device_id LIMIT 20"
    )


def _quality(contract: Contract) -> str:
    return "\nUNION ALL\n".join(_quality_of(contract, each) for each in contract.values)


def _quality_of(contract: Contract, field: Field) -> str:
    """Present: neither missing nor a sentinel. Accurate: in range, of those present."""
    absent = contract.missing_bit(field) | contract.sentinel_bit(field)
    outside = contract.range_bit(field)
    lost = f"bitwise_and(quality, {absent}) <> 0"
    wrong = f"bitwise_and(quality, {outside}) <> 0"
    return (
        f"SELECT '{field.column}' AS field, count(*) AS readings,\n"
        f"  1.0 - avg(CASE WHEN {lost} THEN 1.0 ELSE 0.0 END) AS completeness,\n"
        f"  1.0 - avg(CASE WHEN {lost} THEN NULL WHEN {wrong} THEN 1.0 ELSE 0.0 END) AS accuracy\n"
        "FROM readings WHERE dt = ?"
    )


def _freshness() -> str:
    return (
        "SELECT device_id, max(event_time) AS newest, max(ingest_time) AS arrived,\n"
        "  date_diff('second', max(event_time), CAST(current_timestamp AS timestamp))"
        " AS age_seconds\n"
        "FROM readings WHERE dt = ?\nGROUP BY device_id ORDER BY age_seconds DESC"
    )
