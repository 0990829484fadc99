"""The figures of a run, from what was collected. Pure but for the clock it is given."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from demo.report import Figures, Signals
from telemill.audit import Report, StoredRow
from telemill.contract import QUALITY_LATE, Contract, Field

BINS = 30
QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
SIGNAL_FIELDS = 3
SIGNAL_DEVICES = 3


def latencies(rows: Sequence[StoredRow], committed_at: Mapping[str, float]) -> list[float]:
    """Seconds from event time to the commit of the row's object, ascending.

    Rows that were late on arrival are left out: their device's clock is wrong, so their event
    time says nothing about us. (Late is judged at the raw stream: what we delay is not hidden.)

    Args:
        rows: Of a table.
        committed_at: Object key → epoch seconds.
    """
    return sorted(
        committed_at[row.object_key] - row.columns["event_time"].timestamp()
        for row in rows
        if row.object_key in committed_at and not row.columns["quality"] & QUALITY_LATE
    )


def quantiles(ordered: Sequence[float]) -> dict[str, float]:
    """Selected quantiles of ascending values; zeros when there are none."""
    if not ordered:
        return dict.fromkeys(QUANTILES, 0.0)
    last = len(ordered) - 1
    return {name: round(ordered[round(share * last)], 3) for name, share in QUANTILES.items()}


def audit_figures(report: Report) -> dict[str, Any]:
    """The audit's part of summary.json."""
    return {
        "ok": report.ok,
        **{name: len(found) for name, found in report.wrong.items()},
        "uncollected": dict(sorted(report.uncollected.items())),
    }


def figures(
    contract: Contract,
    rows: Sequence[StoredRow],
    scores: Sequence[StoredRow],
    ordered_latencies: Sequence[float],
) -> Figures:
    """What the report's charts show."""
    made = Figures()
    made.latency_edges, made.latency_counts = _histogram(ordered_latencies)
    if not rows:
        return made
    start = min(_arrival(row) for row in rows)
    per_second = Counter(int(_arrival(row) - start) for row in rows)
    made.rates = [
        (float(second), float(per_second[second])) for second in range(max(per_second) + 1)
    ]
    made.span = (0.0, float(max(per_second) + 1))
    made.signals = _signals(contract, rows, scores, start)
    return made


def _histogram(ordered: Sequence[float]) -> tuple[list[float], list[int]]:
    if not ordered:
        return [], []
    # The tail beyond p99.5 (readings of wrong clocks) would squeeze everything else.
    high = ordered[int(0.995 * (len(ordered) - 1))]
    low = max(0.0, min(ordered[int(0.005 * len(ordered))], high - 1.0))
    width = (high - low) / BINS or 1.0
    counts = Counter(min(BINS - 1, int((each - low) / width)) for each in ordered if each >= low)
    return [low + width * index for index in range(BINS + 1)], [counts[i] for i in range(BINS)]


def _signals(
    contract: Contract, rows: Sequence[StoredRow], scores: Sequence[StoredRow], start: float
) -> list[Signals]:
    """The devices with the most anomalies: their first fields, and the marked readings."""
    anomalous = {row.lineage: row for row in scores if row.columns["is_anomaly"]}
    by_device: Counter[Any] = Counter(
        row.columns["device_id"] for row in rows if row.lineage in anomalous
    )
    chosen = [device for device, _ in by_device.most_common(SIGNAL_DEVICES)]
    fields = contract.measures[:SIGNAL_FIELDS]
    made = []
    for device in chosen:
        mine = sorted((row for row in rows if row.columns["device_id"] == device), key=_arrival)
        signals = Signals(str(device))
        for field in fields:
            points = [
                (_arrival(row) - start, float(row.columns[field.column]))
                for row in mine
                if row.columns[field.column] is not None
            ]
            signals.series.append((f"{field.column} {field.unit}".strip(), points))
        signals.marks = [
            (_arrival(row) - start, float(row.columns[column]))
            for row in mine
            if row.lineage in anomalous
            and (column := _leading(fields, anomalous[row.lineage])) is not None
            and row.columns[column] is not None
        ]
        made.append(signals)
    return made


def _leading(fields: Sequence[Field], score: StoredRow) -> str | None:
    """The shown field with the largest share in a score."""
    shares = {each.column: score.columns[f"contribution_{each.column}"] or 0.0 for each in fields}
    return max(shares, key=lambda column: shares[column], default=None)


def _arrival(row: StoredRow) -> float:
    """By arrival, not event time: some devices' clocks are wrong on purpose."""
    second: float = row.columns["ingest_time"].timestamp()
    return second
