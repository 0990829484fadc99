"""CloudWatch metrics of the services, taken from the code's own table."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from telemill import emf
from telemill import metrics as table

PERIOD_SECONDS = 60


def metric(
    attribute: str,
    service: str,
    statistic: str,
    part: str = "",
    period_seconds: int = PERIOD_SECONDS,
    **labels: str,
) -> cloudwatch.Metric:
    """One metric as the exporter writes it.

    Args:
        attribute: In `telemill.metrics.Metrics`; an unknown one ends the synthesis.
        service: The application.
        statistic: "Sum" of counters, "Maximum" or "Average" of gauges.
        part: "_sum" or "_count" of a histogram.
        period_seconds: Over which.
        **labels: Further dimensions.
    """
    name = getattr(table.Metrics, attribute).name + part
    return cloudwatch.Metric(
        namespace=emf.NAMESPACE,
        metric_name=name,
        dimensions_map={"service": service, **labels},
        statistic=statistic,
        period=Duration.seconds(period_seconds),
    )
