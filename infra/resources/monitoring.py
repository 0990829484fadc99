"""Alarms by the thresholds of the domain, two composites, and whom they tell."""

from collections.abc import Mapping, Sequence

from aws_cdk import CfnParameter, Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from constructs import Construct

from resources.deployments import ALL, READERS
from resources.metrics import metric

LATENCY_SECONDS = 45
ERROR_PERCENT = 2
AVAILABILITY = 0.99
OUTAGE_MINUTES = 3
COMPLETENESS_PERCENT = 95
ACCURACY_PERCENT = 95
CONSISTENCY_PERCENT = 98
THROUGHPUT_PERCENT = 50
"""Of what the fleet offers: the published warning at 40 of 78 readings a second."""
BEHIND_MILLIS = 60_000
QUALITY_PERIOD_SECONDS = 900
HOUR_SECONDS = 3600

BELOW = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
ABOVE = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
ABSENT = ("missing", "sentinel", "wrong_type")


class Alarms(Construct):
    """Every alarm; `critical` and `degraded` are what the composites are made of."""

    def __init__(self, scope: Construct, topic: sns.Topic) -> None:
        super().__init__(scope, "Alarms")
        self._topic = topic
        self._offered = _offered(scope)
        critical = [self._latency(), *self._errors(), *self._availability()]
        degraded = self._quality()
        self._throughput()
        self._behind()
        self._trouble()
        self._composite("SystemHealth", "system-health-critical", critical)
        self._composite("DataQuality", "data-quality-degraded", degraded)

    def _alarm(
        self,
        name: str,
        of: cloudwatch.IMetric,
        comparison: cloudwatch.ComparisonOperator,
        threshold: float,
        description: str,
        *,
        periods: int = 5,
        tells: bool = False,
        missing: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
    ) -> cloudwatch.Alarm:
        made = cloudwatch.Alarm(
            self,
            "".join(each.capitalize() for each in name.split("-")),
            alarm_name=f"telemill-{name}",
            alarm_description=description,
            metric=of,
            comparison_operator=comparison,
            threshold=threshold,
            evaluation_periods=periods,
            treat_missing_data=missing,
        )
        if tells:
            made.add_alarm_action(actions.SnsAction(self._topic))
            made.add_ok_action(actions.SnsAction(self._topic))
        return made

    def _throughput(self) -> None:
        share = _math(
            f"100 * FILL(out, 0) / PERIOD(out) / ({self._offered})",
            {"out": metric("readings_out", "transform", "Sum")},
        )
        self._alarm(
            "throughput-low",
            share,
            BELOW,
            THROUGHPUT_PERCENT,
            "Fewer readings than half of what the fleet offers. Look at telemill_polls_total by"
            " outcome and at telemill_breaker_state",
            tells=True,
            missing=cloudwatch.TreatMissingData.BREACHING,
        )

    def _latency(self) -> cloudwatch.Alarm:
        mean = _math(
            "total / count",
            {
                "total": metric("lag_seconds", "sink-readings", "Sum", "_sum"),
                "count": metric("lag_seconds", "sink-readings", "Sum", "_count"),
            },
        )
        return self._alarm(
            "latency-high",
            mean,
            ABOVE,
            LATENCY_SECONDS,
            "Readings are older than 45 s when they get into the table",
        )

    def _behind(self) -> None:
        for each in READERS:
            self._alarm(
                f"{each.name}-behind",
                metric("worst_millis_behind_latest", each.name, "Maximum"),
                ABOVE,
                BEHIND_MILLIS,
                "The worst shard is more than a minute behind, and scaling out did not help",
                periods=10,
                tells=True,
            )

    def _errors(self) -> list[cloudwatch.Alarm]:
        rejected = _math(
            "100 * FILL(bad, 0) / (taken + FILL(bad, 0))",
            {
                "bad": metric("rejected", "transform", "Sum"),
                "taken": metric("readings_in", "transform", "Sum"),
            },
        )
        failed = _math(
            "100 * (polls - FILL(good, 0)) / polls",
            {
                "polls": metric("polls", "ingest", "Sum"),
                "good": metric("polls", "ingest", "Sum", outcome="ok"),
            },
        )
        return [
            self._alarm(
                "rejected-high",
                rejected,
                ABOVE,
                ERROR_PERCENT,
                "More than 2 % go to the quarantine: see docs/operations.md, The quarantine",
            ),
            self._alarm(
                "polls-failing",
                failed,
                ABOVE,
                ERROR_PERCENT,
                "More than 2 % of the polls bring no reading: telemill_polls_total by outcome",
            ),
        ]

    def _availability(self) -> list[cloudwatch.Alarm]:
        made = []
        for each in ALL:
            ready = metric("ready", each.name, "Maximum")
            made.append(
                self._alarm(
                    f"{each.name}-outage",
                    ready,
                    BELOW,
                    1,
                    "No worker was ready for three minutes; /readyz and the log say why",
                    periods=OUTAGE_MINUTES,
                    missing=cloudwatch.TreatMissingData.BREACHING,
                )
            )
            hourly = metric("ready", each.name, "Maximum").with_(statistic="Average")
            made.append(
                self._alarm(
                    f"{each.name}-availability",
                    hourly.with_(period=Duration.seconds(HOUR_SECONDS)),
                    BELOW,
                    AVAILABILITY,
                    "Ready for less than 99 % of an hour",
                    periods=1,
                )
            )
        return made

    def _quality(self) -> list[cloudwatch.Alarm]:
        all_checks = _checks()
        by_outcome = {each: _checks(outcome=each) for each in (*ABSENT, "ok", "out_of_range")}
        absent = " + ".join(f"FILL({each}, 0)" for each in ABSENT)
        completeness = _math(
            f"100 * (1 - ({absent}) / total)",
            {"total": all_checks, **{each: by_outcome[each] for each in ABSENT}},
        )
        accuracy = _math(
            "100 * ok / (ok + FILL(out_of_range, 0))",
            {each: by_outcome[each] for each in ("ok", "out_of_range")},
        )
        disorder = {
            name: metric(name, "transform", "Sum", period_seconds=QUALITY_PERIOD_SECONDS)
            for name in ("duplicates", "out_of_order", "readings_in")
        }
        consistency = _math(
            "100 * (1 - (FILL(duplicates, 0) + FILL(out_of_order, 0)) / readings_in)", disorder
        )
        return [
            self._alarm(name, of, BELOW, threshold, description, periods=2)
            for name, of, threshold, description in (
                (
                    "completeness-low",
                    completeness,
                    COMPLETENESS_PERCENT,
                    "More than 5 % of the values are missing: telemill_field_checks_total by field",
                ),
                (
                    "accuracy-low",
                    accuracy,
                    ACCURACY_PERCENT,
                    "More than 5 % of the values are out of range: a device, or the contract",
                ),
                (
                    "consistency-low",
                    consistency,
                    CONSISTENCY_PERCENT,
                    "More than 2 % are duplicates or out of order: two sources of one device?",
                ),
            )
        ]

    def _trouble(self) -> None:
        for each in READERS:
            self._alarm(
                f"{each.name}-poison",
                metric("poison_records", each.name, "Sum"),
                ABOVE,
                0,
                "A record that ends workers was quarantined: docs/operations.md, poison",
                periods=1,
                tells=True,
            )
        self._alarm(
            "fms-unreachable",
            metric("breaker_state", "ingest", "Maximum"),
            ABOVE,
            1,
            "The circuit breaker before an FMS API host is open",
            tells=True,
        )
        for each in ALL:
            self._alarm(
                f"{each.name}-throttled",
                metric("throttles", each.name, "Sum"),
                ABOVE,
                60,
                "AWS throttles more than one call a second: telemill_throttles_total by operation",
                tells=True,
            )

    def _composite(self, name: str, alarm_name: str, parts: Sequence[cloudwatch.Alarm]) -> None:
        rule = cloudwatch.AlarmRule.any_of(
            *(cloudwatch.AlarmRule.from_alarm(each, cloudwatch.AlarmState.ALARM) for each in parts)
        )
        made = cloudwatch.CompositeAlarm(
            self,
            name,
            composite_alarm_name=f"telemill-{alarm_name}",
            alarm_rule=rule,
            alarm_description="One message for: " + ", ".join(each.node.id for each in parts),
        )
        made.add_alarm_action(actions.SnsAction(self._topic))
        made.add_ok_action(actions.SnsAction(self._topic))


def _offered(scope: Construct) -> str:
    """Readings a second that the fleet offers, as an expression."""
    devices = CfnParameter(
        scope,
        "FleetDevices",
        type="Number",
        default=100,
        min_value=1,
        description="Devices of the fleet: the throughput alarm compares with what they offer",
    )
    interval = CfnParameter(
        scope,
        "FleetIntervalSeconds",
        type="Number",
        default=10,
        min_value=0.1,
        description="Time between two readings of a device",
    )
    return f"{devices.value_as_string} / {interval.value_as_string}"


def _checks(**labels: str) -> cloudwatch.Metric:
    return metric(
        "field_checks", "transform", "Sum", period_seconds=QUALITY_PERIOD_SECONDS, **labels
    )


def _math(expression: str, using: Mapping[str, cloudwatch.Metric]) -> cloudwatch.MathExpression:
    period = next(iter(using.values())).period
    return cloudwatch.MathExpression(
        expression=expression, using_metrics=dict(using), period=period, label="value"
    )
