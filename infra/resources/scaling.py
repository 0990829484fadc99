"""Autoscaling: readers by their own lag, ingest by CPU."""

from aws_cdk import CfnParameter, Duration
from aws_cdk import aws_applicationautoscaling as autoscaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from resources import metrics
from resources.deployments import Deployment

BEHIND_MILLIS = 30_000
FAR_BEHIND_MILLIS = 120_000
CAUGHT_UP_MILLIS = 1_000
BEHIND_MINUTES = 3
CAUGHT_UP_MINUTES = 15
OUT_COOLDOWN_SECONDS = 180
IN_COOLDOWN_SECONDS = 600
"""A shard's hand-over takes up to the drain; fewer workers must not chase it."""
INGEST_CPU_PERCENT = 60
MAX_INGEST = 4


def by_lag(
    scope: Construct, of: Deployment, service: ecs.FargateService, maximum: CfnParameter
) -> None:
    """One more worker when the worst shard is 30 s behind, two at 120 s, one less when none is."""
    target = autoscaling.CfnScalableTarget(
        scope,
        "Target",
        service_namespace="ecs",
        scalable_dimension="ecs:service:DesiredCount",
        resource_id=f"service/telemill/{service.service_name}",
        min_capacity=1,
        max_capacity=maximum.value_as_number,
    )
    out = _policy(
        scope,
        "Out",
        of,
        target,
        OUT_COOLDOWN_SECONDS,
        [
            {
                "MetricIntervalLowerBound": 0,
                "MetricIntervalUpperBound": FAR_BEHIND_MILLIS - BEHIND_MILLIS,
                "ScalingAdjustment": 1,
            },
            {
                "MetricIntervalLowerBound": FAR_BEHIND_MILLIS - BEHIND_MILLIS,
                "ScalingAdjustment": 2,
            },
        ],
    )
    less = _policy(
        scope,
        "In",
        of,
        target,
        IN_COOLDOWN_SECONDS,
        [{"MetricIntervalUpperBound": 0, "ScalingAdjustment": -1}],
    )
    _alarm(scope, "Behind", of, BEHIND_MILLIS, BEHIND_MINUTES, out, above=True)
    _alarm(scope, "CaughtUp", of, CAUGHT_UP_MILLIS, CAUGHT_UP_MINUTES, less, above=False)


def _policy(
    scope: Construct,
    name: str,
    of: Deployment,
    target: autoscaling.CfnScalableTarget,
    cooldown_seconds: int,
    steps: list[dict[str, int]],
) -> autoscaling.CfnScalingPolicy:
    made = autoscaling.CfnScalingPolicy(
        scope,
        name,
        policy_name=f"telemill-{of.name}-{name.lower()}",
        policy_type="StepScaling",
        scaling_target_id=target.ref,
    )
    made.add_property_override(
        "StepScalingPolicyConfiguration",
        {
            "AdjustmentType": "ChangeInCapacity",
            "Cooldown": cooldown_seconds,
            "MetricAggregationType": "Maximum",
            "StepAdjustments": steps,
        },
    )
    return made


def _alarm(
    scope: Construct,
    name: str,
    of: Deployment,
    threshold: float,
    minutes: int,
    policy: autoscaling.CfnScalingPolicy,
    *,
    above: bool,
) -> None:
    comparison = cloudwatch.ComparisonOperator
    made = metrics.metric("worst_millis_behind_latest", of.name, "Maximum").create_alarm(
        scope,
        name,
        alarm_name=f"telemill-scale-{of.name}-{'out' if above else 'in'}",
        alarm_description="Starts autoscaling; nobody needs to act",
        comparison_operator=comparison.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
        if above
        else comparison.LESS_THAN_OR_EQUAL_TO_THRESHOLD,
        threshold=threshold,
        evaluation_periods=minutes,
        treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
    )
    made.node.default_child.add_property_override("AlarmActions", [policy.ref])


def by_cpu(service: ecs.FargateService) -> None:
    """Ingest has no lag: its devices and pushes cost CPU."""
    scalable = service.auto_scale_task_count(min_capacity=1, max_capacity=MAX_INGEST)
    scalable.scale_on_cpu_utilization(
        "Cpu",
        target_utilization_percent=INGEST_CPU_PERCENT,
        scale_in_cooldown=Duration.seconds(IN_COOLDOWN_SECONDS),
        scale_out_cooldown=Duration.seconds(OUT_COOLDOWN_SECONDS),
    )
