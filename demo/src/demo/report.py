"""The self-contained HTML report. Pure: summary and series in, one page out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from demo import charts

STYLE = """
:root { --ink:#1d2733; --soft:#64748b; --line:#dbe2ea; --blue:#2563eb; --green:#0f9d76;
  --amber:#d97706; --red:#dc2626; }
body { overflow-x:hidden; font:15px/1.5 system-ui,sans-serif;
  color:var(--ink); max-width:920px; margin:2rem auto;
  padding:0 1rem; }
h1 { font-size:1.6rem; margin:0 0 .2rem; } h2 { font-size:1.1rem; margin:2rem 0 .5rem; }
.sub { color:var(--soft); margin:0 0 1.2rem; }
.cards { display:grid; grid-template-columns:repeat(4,1fr); gap:.7rem; }
.card { border:1px solid var(--line); border-radius:8px; padding:.6rem .8rem; }
.card b { display:block; font-size:1.1rem; white-space:nowrap; font-variant-numeric:tabular-nums; }
.card span { color:var(--soft); font-size:.82rem; }
.good b { color:var(--green); } .bad b { color:var(--red); }
table { border-collapse:collapse; width:100%; } th,td { text-align:left; padding:.25rem .6rem;
  border-bottom:1px solid var(--line); } td.n,th.n { text-align:right;
  font-variant-numeric:tabular-nums; }
svg { width:100%; height:auto; } svg text { font:11px system-ui,sans-serif; fill:var(--soft); }
.bar { fill:var(--blue); } .grid { stroke:var(--line); } .line { fill:none; stroke-width:1.5; }
.s0 { stroke:var(--blue); } .s1 { stroke:var(--green); } .s2 { stroke:var(--amber); }
.mark { fill:none; stroke:var(--red); stroke-width:2; } .none { color:var(--soft); }
.legend { color:var(--soft); font-size:.85rem; } .legend i { font-style:normal; }
.legend .k0 { color:var(--blue); } .legend .k1 { color:var(--green); }
.legend .k2 { color:var(--amber); } .legend .km { color:var(--red); }
pre { background:#f6f8fa; padding:.7rem; overflow:auto; border-radius:6px; font-size:.8rem; }
"""

Points = list[tuple[float, float]]


@dataclass(slots=True)
class Signals:
    """One device's fields over time, and its anomalous readings."""

    device: str
    series: list[tuple[str, Points]] = field(default_factory=list)
    marks: Points = field(default_factory=list)


@dataclass(slots=True)
class Figures:
    """What the charts show.

    Attributes:
        latency_edges: Bin borders, seconds.
        latency_counts: Rows per bin.
        rates: (seconds since start, readings per second) stored.
        span: First and last second, the same for every chart over time.
        signals: A few devices.
        queries: Title, SQL, column names, rows.
        faults: Rows of `demo.faults.table`.
    """

    latency_edges: list[float] = field(default_factory=list)
    latency_counts: list[int] = field(default_factory=list)
    rates: Points = field(default_factory=list)
    span: tuple[float, float] = (0.0, 1.0)
    signals: list[Signals] = field(default_factory=list)
    queries: list[tuple[str, str, Sequence[str], Sequence[Sequence[Any]]]] = field(
        default_factory=list
    )
    faults: list[list[Any]] = field(default_factory=list)


def page(summary: Mapping[str, Any], figures: Figures) -> str:
    """The report as one HTML document."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>Telemill demo</title><style>{STYLE}</style><body>",
        "<h1>Telemill demo</h1>",
        f"<p class=sub>{escape(_headline(summary))}</p>",
        _cards(summary),
        "<h2>Event time to committed Parquet</h2>",
        charts.bars(figures.latency_edges, figures.latency_counts, "seconds"),
        "<h2>Readings stored, per second of arrival</h2>",
        charts.lines([("readings/s", figures.rates)], "seconds since start", span=figures.span),
        _faults(summary, figures),
        *(_signals(each, figures.span) for each in figures.signals),
        "<h2>Where every reading went</h2>",
        _table(("stage", "count"), list(summary["counts"].items())),
        _breakdown("Answers served, by HTTP status", summary["served_by_status"]),
        _breakdown("Quarantine by reason", summary["quarantined_by_reason"]),
        _breakdown("Served but never collected, by cause", summary["uncollected"]),
        *(_query(*each) for each in figures.queries),
        "</body></html>",
    ]
    return "\n".join(parts)


def _headline(summary: Mapping[str, Any]) -> str:
    verdict = "nothing lost, nothing twice" if summary["ok"] else "THE AUDIT FAILED"
    return (
        f"{summary['devices']} devices, {summary['seconds']} s, faults on: {verdict}. "
        f"Made {summary['made_at']}."
    )


def _cards(summary: Mapping[str, Any]) -> str:
    latency = summary["latency_seconds"]
    cells = [
        ("stored", summary["counts"]["stored"], ""),
        ("lost", summary["lost"], "bad" if summary["lost"] else "good"),
        ("duplicated", summary["duplicated"], "bad" if summary["duplicated"] else "good"),
        ("out of order", summary["out_of_order"], "bad" if summary["out_of_order"] else "good"),
        ("altered", summary["altered"], "bad" if summary["altered"] else "good"),
        ("latency p50 · p99, s", f"{latency['p50']:.1f} · {latency['p99']:.1f}", ""),
        ("faults found", f"{summary['faults']['found']} of {summary['faults']['injected']}", ""),
        ("alerts · groups", f"{summary['alerts']['device']} · {summary['alerts']['group']}", ""),
    ]
    return (
        "<div class=cards>"
        + "".join(
            f'<div class="card {kind}"><b>{escape(str(value))}</b><span>{escape(name)}</span></div>'
            for name, value, kind in cells
        )
        + "</div>"
    )


FAULT_COLUMNS = ("fault", "device", "injected, s", "alert, s", "delay, s", "severity", "why")


def _faults(summary: Mapping[str, Any], figures: Figures) -> str:
    found = summary["faults"]
    told = (
        f"{found['found']} of {found['injected']} found; {found['injected_in_warm_up']} were"
        f" injected while the device warmed up, {found['not_found']} were not seen."
        f" {found['alerts_without_fault']} episodes had no injected fault: the demo warms up for"
        " seconds only. Times are seconds since the start; an alert opens with the third anomalous"
        " reading in a row."
    )
    return (
        "<h2>Injected faults: found, when, why</h2>"
        f"<p class=legend>{escape(told)}</p>{_table(FAULT_COLUMNS, figures.faults)}"
    )


def _signals(signals: Signals, span: tuple[float, float]) -> str:
    names = " ".join(
        f'<i class="k{index}">━ {escape(name)}</i>'
        for index, (name, _) in enumerate(signals.series)
    )
    chart = charts.lines(signals.series, "seconds since start", signals.marks, span=span)
    return (
        f"<h2>Device {escape(signals.device)}</h2>{chart}"
        f'<p class=legend>{names} <i class="km">○ reading marked as an anomaly</i></p>'
    )


def _breakdown(title: str, counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    return f"<h2>{escape(title)}</h2>" + _table(("what", "count"), sorted(counts.items()))


def _query(title: str, sql: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return f"<h2>{escape(title)}</h2><pre>{escape(sql)}</pre>{_table(columns, rows)}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    head = "".join(
        f"<th{' class=n' * number}>{escape(str(name))}</th>"
        for name, number in zip(columns, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: object) -> str:
    if value is None:
        return '<td class="n">–</td>'
    if isinstance(value, float):
        return f'<td class="n">{value:,.4g}</td>'
    if _is_number(value):
        return f'<td class="n">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"
