"""One dashboard: what flows, how fast, how good, what it costs in trouble."""

from collections.abc import Sequence

from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from resources.deployments import ALL, READERS
from resources.metrics import metric

WIDTH = 8
OUTCOMES = ("ok", "missing", "sentinel", "out_of_range", "wrong_type")
POLL_OUTCOMES = ("ok", "timeout", "http_error", "refused", "skipped", "unwritten")


def dashboard(scope: Construct) -> None:
    """The dashboard `telemill`."""
    every = [each.name for each in ALL]
    readers = [each.name for each in READERS]
    cloudwatch.Dashboard(
        scope,
        "Dashboard",
        dashboard_name="telemill",
        widgets=[
            [
                _graph("Readings out", every, "readings_out", "Sum"),
                _graph("Readings in", every, "readings_in", "Sum"),
                _graph("Ready", every, "ready", "Maximum"),
            ],
            [
                _graph("Worst shard behind (ms)", readers, "worst_millis_behind_latest", "Maximum"),
                _means("Event time to commit (s)", every, "lag_seconds"),
                _means("Batch (s)", every, "batch_seconds"),
            ],
            [
                _split("Values checked", "transform", "field_checks", OUTCOMES),
                _graph("Rejected", every, "rejected", "Sum"),
                _consistency(),
            ],
            [
                _split("Polls", "ingest", "polls", POLL_OUTCOMES),
                _graph("Throttled calls", every, "throttles", "Sum"),
                _graph("Calls tried again", every, "retries", "Sum"),
            ],
            [
                _graph("Anomalous readings", ["anomaly"], "anomalies", "Sum"),
                _graph("Rows written", ["sink-readings", "sink-scores"], "rows_written", "Sum"),
                _graph("Bytes waiting", every, "buffered_bytes", "Maximum"),
            ],
        ],
    )


def _graph(
    title: str, services: Sequence[str], attribute: str, statistic: str
) -> cloudwatch.GraphWidget:
    return _widget(
        title, [metric(attribute, each, statistic).with_(label=each) for each in services]
    )


def _means(title: str, services: Sequence[str], attribute: str) -> cloudwatch.GraphWidget:
    """The mean of a histogram: its sum by its count."""
    lines = []
    for number, each in enumerate(services):
        using = {
            f"s{number}": metric(attribute, each, "Sum", "_sum"),
            f"c{number}": metric(attribute, each, "Sum", "_count"),
        }
        lines.append(
            cloudwatch.MathExpression(
                expression=f"s{number} / c{number}", using_metrics=using, label=each
            )
        )
    return _widget(title, lines)


def _split(
    title: str, service: str, attribute: str, outcomes: Sequence[str]
) -> cloudwatch.GraphWidget:
    return _widget(
        title,
        [metric(attribute, service, "Sum", outcome=each).with_(label=each) for each in outcomes],
    )


def _consistency() -> cloudwatch.GraphWidget:
    names = ("duplicates", "out_of_order", "late")
    return _widget(
        "Duplicates, out of order, late",
        [metric(each, "transform", "Sum").with_(label=each) for each in names],
    )


def _widget(title: str, left: Sequence[cloudwatch.IMetric]) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, left=list(left), width=WIDTH)
