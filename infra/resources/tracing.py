"""Traces to X-Ray: a collector beside the services, what it may do, and a group to look at.

Which polls and pushes are traced is decided by ingest (INGEST_TRACE_RATIO), not by X-Ray's sampling
rules: the services speak OpenTelemetry and do not ask for any.
"""

from aws_cdk import Aws
from aws_cdk import aws_iam as iam
from aws_cdk import aws_xray as xray
from constructs import Construct

from resources.access import statement
from resources.deployments import ALL

ENDPOINT = "http://127.0.0.1:4318"
"""Containers of a task share the loopback interface."""

IMAGE = "telemill/collector"
GROUP = "telemill"
WRITE = ("xray:PutTelemetryRecords", "xray:PutTraceSegments")
LOOK = (
    "xray:BatchGetTraces",
    "xray:GetGroups",
    "xray:GetServiceGraph",
    "xray:GetTraceGraph",
    "xray:GetTraceSummaries",
)
WHY_ALL = "X-Ray's actions know no resources."

CONFIGURATION = f"""receivers:
  otlp:
    protocols:
      http:
        endpoint: {ENDPOINT.removeprefix("http://")}
processors:
  memory_limiter:
    check_interval: 1s
    limit_mib: 100
  batch:
exporters:
  awsxray:
service:
  pipelines:
    traces:
      receivers: [otlp]
      processors: [memory_limiter, batch]
      exporters: [awsxray]
"""
"""The AWS Distro for OpenTelemetry reads it from AOT_CONFIG_CONTENT."""


def writing() -> iam.PolicyStatement:
    """What a collector may do."""
    return statement("Traces", WRITE, ["*"])


def side_container(registry: str, tag: str, log_group: str, prefix: str) -> dict[str, object]:
    """The collector of a task. Without it the task goes on: spans are lost, readings are not.

    Args:
        registry: Of our images.
        tag: Of the collector's.
        log_group: Of the deployment.
        prefix: Of its log streams.
    """
    return {
        "Name": "collector",
        "Image": f"{registry}/{IMAGE}:{tag}",
        "Essential": False,
        "Memory": 192,
        "MemoryReservation": 64,
        "ReadonlyRootFilesystem": True,
        "Environment": [{"Name": "AOT_CONFIG_CONTENT", "Value": CONFIGURATION}],
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": log_group,
                "awslogs-region": Aws.REGION,
                "awslogs-stream-prefix": prefix,
            },
        },
    }


def group(scope: Construct) -> None:
    """Our services' traces, told from others' in the account."""
    xray.CfnGroup(
        scope,
        "Traces",
        group_name=GROUP,
        filter_expression=" OR ".join(f'service("{each.name}")' for each in ALL),
    )
