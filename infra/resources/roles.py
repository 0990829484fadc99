"""Roles of people. Whom they trust is the account: its own policies say who may take them."""

from collections.abc import Sequence

from aws_cdk import Aws, Duration
from aws_cdk import aws_iam as iam
from constructs import Construct

from resources import access, tracing
from resources.accepted import accept_wildcards
from resources.arns import arn, bucket_arn
from resources.catalog import ANALYSTS_WORKGROUP
from telemill import contract, names

SESSION_HOURS = 4
STREAMS = (names.RAW_STREAM, names.READINGS_STREAM, names.SCORES_STREAM)
QUERY = (
    "athena:BatchGetNamedQuery",
    "athena:GetNamedQuery",
    "athena:GetQueryExecution",
    "athena:GetQueryResults",
    "athena:GetWorkGroup",
    "athena:ListNamedQueries",
    "athena:StartQueryExecution",
    "athena:StopQueryExecution",
)
CATALOGUE = ("glue:GetDatabase", "glue:GetPartitions", "glue:GetTable", "glue:GetTables")
STATUS = (
    "cloudwatch:DescribeAlarms",
    "cloudwatch:GetDashboard",
    "cloudwatch:GetMetricData",
    "cloudwatch:ListMetrics",
)


def analyst(scope: Construct, key_arn: str) -> iam.Role:
    """Reads the tables, in a workgroup of its own; neither quarantine nor raw bytes."""
    return _role(
        scope,
        "analyst",
        [
            access.statement("Query", QUERY, [arn("athena", f"workgroup/{ANALYSTS_WORKGROUP}")]),
            access.statement("Catalogue", CATALOGUE, _catalogue()),
            access.statement("FindTables", ["s3:GetBucketLocation"], [_lake()]),
            access.statement(
                "ListTables",
                ["s3:ListBucket"],
                [_lake()],
                StringLike={"s3:prefix": [f"{table}/*" for table in contract.TABLES]},
            ),
            access.statement(
                "ReadTables",
                ["s3:GetObject"],
                [_lake(f"/{table}/*") for table in contract.TABLES],
            ),
            *_results(ANALYSTS_WORKGROUP),
            _key(key_arn, ["kms:Decrypt", "kms:GenerateDataKey"], "s3"),
        ],
        "Tables and results have many objects below fixed prefixes.",
    )


def operator(scope: Construct, key_arn: str) -> iam.Role:
    """Runs `telemill doctor`, `audit`, `backfill`, `quarantine`; restarts services; reads logs."""
    return _role(
        scope,
        "operator",
        [
            access.statement(
                "Streams",
                access.READ + access.DESCRIBE,
                [arn("kinesis", f"stream/{each}") for each in STREAMS],
            ),
            access.statement(
                "Progress",
                (*access.PROGRESS, "dynamodb:DescribeTimeToLive", "dynamodb:Query"),
                [arn("dynamodb", f"table/{names.PROGRESS_TABLE}")],
            ),
            access.statement("Find", ["s3:ListBucket"], [_lake(), bucket_arn(names.STATE_BUCKET)]),
            access.statement("Lake", ["s3:GetObject", "s3:PutObject"], [_lake("/*")]),
            access.statement("State", access.STATE, [bucket_arn(names.STATE_BUCKET, "/state/*")]),
            access.statement("Catalogue", (*access.GLUE, *CATALOGUE), _catalogue()),
            access.statement(
                "Query", QUERY, [arn("athena", f"workgroup/{names.ATHENA_WORKGROUP}")]
            ),
            *_results(names.ATHENA_WORKGROUP),
            access.statement(
                "Services",
                ["ecs:DescribeServices", "ecs:UpdateService"],
                [arn("ecs", "service/telemill/telemill-*")],
            ),
            access.statement(
                "Logs",
                ["logs:FilterLogEvents", "logs:GetLogEvents", "logs:StartQuery"],
                [arn("logs", "log-group:/telemill/*")],
            ),
            access.statement(
                "Status", [*STATUS, *tracing.LOOK, "logs:GetQueryResults", "sns:ListTopics"], ["*"]
            ),
            access.statement("Topic", ["sns:GetTopicAttributes"], [arn("sns", names.ALERT_TOPIC)]),
            _key(key_arn, ["kms:Decrypt", "kms:GenerateDataKey"], "s3", "kinesis", "dynamodb"),
        ],
        "Objects lie below fixed prefixes; services and logs are named telemill; CloudWatch's"
        " reading actions know no resources.",
    )


def administrator(scope: Construct, key_arn: str) -> iam.Role:
    """Changes Telemill's own resources, and nothing else of the account."""
    own = [
        *(arn("kinesis", f"stream/{each}") for each in STREAMS),
        *(arn("dynamodb", f"table/{each}") for each in (names.PROGRESS_TABLE,)),
    ]
    return _role(
        scope,
        "administrator",
        [
            access.statement(
                "StreamsAndTable",
                [
                    "dynamodb:DescribeContinuousBackups",
                    "dynamodb:DescribeTable",
                    "dynamodb:RestoreTableToPointInTime",
                    "kinesis:DescribeStreamSummary",
                    "kinesis:IncreaseStreamRetentionPeriod",
                    "kinesis:ListShards",
                    "kinesis:UpdateShardCount",
                    "kinesis:UpdateStreamMode",
                ],
                own,
            ),
            access.statement(
                "Buckets",
                [
                    "s3:GetBucketVersioning",
                    "s3:GetLifecycleConfiguration",
                    "s3:GetReplicationConfiguration",
                    "s3:PutBucketVersioning",
                    "s3:PutLifecycleConfiguration",
                ],
                [bucket_arn(each) for each in (names.LAKE_BUCKET, names.STATE_BUCKET)],
            ),
            access.statement(
                "Services",
                [
                    "ecs:DescribeServices",
                    "ecs:StopTask",
                    "ecs:UpdateService",
                ],
                [arn("ecs", "service/telemill/telemill-*"), arn("ecs", "task/telemill/*")],
            ),
            access.statement(
                "Stacks",
                [
                    "cloudformation:CreateChangeSet",
                    "cloudformation:DescribeChangeSet",
                    "cloudformation:DescribeStackEvents",
                    "cloudformation:DescribeStacks",
                    "cloudformation:DetectStackDrift",
                    "cloudformation:ExecuteChangeSet",
                    "cloudformation:GetTemplate",
                ],
                [arn("cloudformation", "stack/telemill-*/*")],
            ),
            access.statement("Status", STATUS, ["*"]),
            access.statement("Key", ["kms:DescribeKey", "kms:GetKeyPolicy"], [key_arn]),
        ],
        "Stacks, services and tasks are named telemill; CloudWatch's reading actions know no"
        " resources.",
    )


def _role(
    scope: Construct, name: str, statements: Sequence[iam.PolicyStatement], reason: str
) -> iam.Role:
    made = iam.Role(
        scope,
        name.capitalize(),
        role_name=f"telemill-{name}",
        description=f"Telemill: {name}",
        # Only with a second factor, and never a service.
        assumed_by=iam.AccountRootPrincipal().with_conditions(
            {"Bool": {"aws:MultiFactorAuthPresent": "true"}}
        ),
        max_session_duration=Duration.hours(SESSION_HOURS),
        inline_policies={name: iam.PolicyDocument(statements=list(statements))},
    )
    accept_wildcards(made, reason, statements)
    return made


def _lake(rest: str = "") -> str:
    return bucket_arn(names.LAKE_BUCKET, rest)


def _catalogue() -> list[str]:
    database = names.GLUE_DATABASE
    return [
        arn("glue", rest) for rest in ("catalog", f"database/{database}", f"table/{database}/*")
    ]


def _results(workgroup: str) -> list[iam.PolicyStatement]:
    bucket = names.RESULTS_BUCKET
    return [
        access.statement("FindResults", ["s3:GetBucketLocation"], [bucket_arn(bucket)]),
        access.statement(
            "Results",
            ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
            [bucket_arn(bucket, f"/{workgroup}/*")],
        ),
    ]


def _key(key_arn: str, actions: Sequence[str], *through: str) -> iam.PolicyStatement:
    hosts = [f"{each}.{Aws.REGION}.amazonaws.com" for each in through]
    return access.statement("Key", actions, [key_arn], StringEquals={"kms:ViaService": hosts})
