"""Who may do what: one policy a deployment, and roles for people.

The actions of the services are those their code calls; docs/operations.md lists them, and a test
holds code, page and template equal. Statement ids say why an action is there: `Kcl…` is what the
KCL's documentation asks for and only the `kcl` coordinator uses, `Key…` is what encryption needs.
"""

from collections.abc import Sequence

from aws_cdk import Aws
from aws_cdk import aws_iam as iam
from constructs import Construct

from resources.accepted import accept_wildcards
from resources.arns import arn, bucket_arn
from resources.deployments import Deployment
from sink import core
from telemill import contract, names
from telemill.progress import snapshots

READ = ("kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards")
DESCRIBE = ("kinesis:DescribeStreamSummary",)
WRITE = ("kinesis:PutRecords",)
PROGRESS = ("dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:UpdateItem")
LEASES_OF_DEVICES = ("dynamodb:PutItem",)
SILENCE = ("dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:Query")
"""Muted devices and acknowledged alerts."""
STATE = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")
GLUE = (
    "glue:BatchCreatePartition",
    "glue:CreateDatabase",
    "glue:CreateTable",
    "glue:GetTable",
    "glue:UpdateTable",
)
KCL_STREAM = ("kinesis:DescribeStream", "kinesis:RegisterStreamConsumer")
KCL_CONSUMER = ("kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard")
KCL_TABLES = (
    "dynamodb:CreateTable",
    "dynamodb:DeleteItem",
    "dynamodb:DescribeTable",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Scan",
    "dynamodb:UpdateItem",
)
"""Kinesis developer guide, "IAM permissions required for KCL consumer applications"."""
KCL_LEASE_TABLE = ("dynamodb:UpdateTable",)
KCL_INDEX = ("dynamodb:Query",)
STATE_PREFIXES = (snapshots.LIVE_PREFIX, snapshots.ENDED_PREFIX)
KCL_MORE_TABLES = ("-CoordinatorState", "-WorkerMetricStats")


def policy(scope: Construct, of: Deployment, key_arn: str) -> iam.ManagedPolicy:
    """What a deployment may do, on ECS as on EKS.

    Args:
        scope: Where.
        of: The deployment.
        key_arn: Of the key that encrypts everything.
    """
    statements = [
        *_streams(of),
        statement(
            "Progress", _progress_actions(of), [arn("dynamodb", f"table/{names.PROGRESS_TABLE}")]
        ),
        *_buckets(of),
        *_own(of),
        *_key(of, key_arn),
    ]
    made = iam.ManagedPolicy(
        scope,
        of.name.title().replace("-", ""),
        managed_policy_name=f"telemill-{of.name}",
        description=f"Telemill {of.name}: what its code calls",
        statements=statements,
    )
    accept_wildcards(
        made,
        "Objects have names of their own below a fixed prefix; the KCL names its index and its"
        " consumers below this application's name.",
        statements,
    )
    return made


def statement(
    sid: str, actions: Sequence[str], resources: list[str], **conditions: object
) -> iam.PolicyStatement:
    """A statement with sorted actions; `StringEquals={…}` is a condition."""
    return iam.PolicyStatement(
        sid=sid, actions=sorted(actions), resources=resources, conditions=conditions or None
    )


def _streams(of: Deployment) -> list[iam.PolicyStatement]:
    made = []
    if of.reads:
        source = arn("kinesis", f"stream/{of.reads}")
        # As `ReaderSettings.lease_table` names it.
        lease_table = arn("dynamodb", f"table/telemill-leases-{of.name}")
        made = [
            statement("Read", READ + DESCRIBE, [source]),
            statement("KclStream", KCL_STREAM, [source]),
            statement("KclFanOut", KCL_CONSUMER, [f"{source}/consumer/*"]),
            statement(
                "KclTables",
                KCL_TABLES,
                [lease_table, *(f"{lease_table}{each}" for each in KCL_MORE_TABLES)],
            ),
            statement("KclLeaseTable", KCL_LEASE_TABLE, [lease_table]),
            statement("KclIndex", KCL_INDEX, [f"{lease_table}/index/*"]),
        ]
    if of.writes:
        made.append(statement("Write", WRITE + DESCRIBE, [arn("kinesis", f"stream/{of.writes}")]))
    return made


def _progress_actions(of: Deployment) -> tuple[str, ...]:
    if of.service == "anomaly":
        return PROGRESS + SILENCE
    return PROGRESS if of.reads else PROGRESS + LEASES_OF_DEVICES


def _buckets(of: Deployment) -> list[iam.PolicyStatement]:
    if not of.reads:
        return []
    prefixes = ["quarantine"]
    if of.service == "sink":
        prefixes += _tables(of)
    return [
        statement(
            "Find",
            ["s3:ListBucket"],
            [bucket_arn(names.LAKE_BUCKET), bucket_arn(names.STATE_BUCKET)],
        ),
        statement(
            "Put",
            ["s3:PutObject"],
            [bucket_arn(names.LAKE_BUCKET, f"/{each}/*") for each in prefixes],
        ),
        statement(
            "State",
            STATE,
            [bucket_arn(names.STATE_BUCKET, f"/{each}{of.name}/*") for each in STATE_PREFIXES],
        ),
    ]


def _own(of: Deployment) -> list[iam.PolicyStatement]:
    if of.service == "anomaly":
        return [statement("Alert", ["sns:Publish"], [arn("sns", names.ALERT_TOPIC)])]
    if of.service == "sink":
        return [statement("Catalog", GLUE, _glue_arns(_tables(of)))]
    return []


def _tables(of: Deployment) -> tuple[contract.Table, ...]:
    """What a sink fills: as the sink says it."""
    deployed: core.TableName = "scores" if dict(of.settings)["TABLE"] == "scores" else "readings"
    return core.tables_of(deployed)


def _glue_arns(tables: Sequence[str]) -> list[str]:
    database = names.GLUE_DATABASE
    found = [arn("glue", rest) for rest in ("catalog", f"database/{database}")]
    return found + [arn("glue", f"table/{database}/{table}") for table in tables]


def _key(of: Deployment, key_arn: str) -> list[iam.PolicyStatement]:
    """Encryption happens in the services: the key only through them."""
    through = ["kinesis", "dynamodb"]
    through += ["s3"] if of.reads else []
    through += ["sns"] if of.service == "anomaly" else []
    hosts = [f"{each}.{Aws.REGION}.amazonaws.com" for each in through]
    return [
        statement(
            "Key",
            ["kms:Decrypt", "kms:GenerateDataKey"],
            [key_arn],
            StringEquals={"kms:ViaService": hosts},
        ),
        statement(
            "KeyOfTable",
            ["kms:DescribeKey"],
            [key_arn],
            StringEquals={"kms:ViaService": [f"dynamodb.{Aws.REGION}.amazonaws.com"]},
        ),
    ]
