"""Streams, the progress table, the alert topic and the archive of the raw stream."""

from aws_cdk import Aws, CfnCondition, CfnParameter, Duration, Fn, RemovalPolicy, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from resources.accepted import accept, accept_wildcards
from telemill import names
from telemill.progress import store

RETENTION_HOURS = 168
SHARDS = 2
ARCHIVE_BUFFER_SECONDS = 300
ARCHIVE_BUFFER_MEBIBYTES = 64


class Streams(Construct):
    """The three streams, encrypted; provisioned or on-demand by parameter."""

    def __init__(self, scope: Construct, key: kms.Key) -> None:
        super().__init__(scope, "Streams")
        stack = Stack.of(self)
        mode = CfnParameter(
            stack,
            "StreamMode",
            default="PROVISIONED",
            allowed_values=["PROVISIONED", "ON_DEMAND"],
            description="Shards by number (cheaper, a steady fleet), or as many as it takes",
        )
        self._retention = CfnParameter(
            stack,
            "RetentionHours",
            type="Number",
            default=RETENTION_HOURS,
            min_value=24,
            max_value=8760,
            description="Retention of the streams; the services' RAW_RETENTION_HOURS",
        )
        self._mode = mode.value_as_string
        provisioned = CfnCondition(
            stack, "Provisioned", expression=Fn.condition_equals(self._mode, "PROVISIONED")
        )
        self.by_name = {
            name: self._make(name, parameter, key, provisioned)
            for name, parameter in (
                (names.RAW_STREAM, "RawShards"),
                (names.READINGS_STREAM, "ReadingsShards"),
                (names.SCORES_STREAM, "ScoresShards"),
            )
        }

    def _make(
        self, name: str, parameter: str, key: kms.Key, provisioned: CfnCondition
    ) -> kinesis.CfnStream:
        shards = CfnParameter(
            Stack.of(self),
            parameter,
            type="Number",
            default=SHARDS,
            min_value=1,
            max_value=10000,
            description=f"Shards of {name} where StreamMode is PROVISIONED",
        )
        made = kinesis.CfnStream(
            self,
            parameter.removesuffix("Shards"),
            name=name,
            retention_period_hours=self._retention.value_as_number,
            stream_mode_details={"streamMode": self._mode},
            stream_encryption={"encryptionType": "KMS", "keyId": key.key_arn},
        )
        made.add_property_override(
            "ShardCount",
            Fn.condition_if(provisioned.logical_id, shards.value_as_number, Aws.NO_VALUE),
        )
        made.apply_removal_policy(RemovalPolicy.RETAIN)
        accept(
            made,
            "One key of the customer's for everything: who may read readings is decided once.",
            "AwsSolutions-KDS3",
        )
        return made


def progress_table(scope: Construct, key: kms.Key) -> dynamodb.CfnTable:
    """Claims and positions: on demand, restorable to any second of 35 days."""
    definition = store.TABLE_DEFINITION
    made = dynamodb.CfnTable(
        scope,
        "Progress",
        table_name=names.PROGRESS_TABLE,
        billing_mode="PAY_PER_REQUEST",
        attribute_definitions=[_lower(each) for each in definition["AttributeDefinitions"]],
        key_schema=[_lower(each) for each in definition["KeySchema"]],
        point_in_time_recovery_specification={"pointInTimeRecoveryEnabled": True},
        sse_specification={
            "sseEnabled": True,
            "sseType": "KMS",
            "kmsMasterKeyId": key.key_arn,
        },
        time_to_live_specification={
            "enabled": True,
            "attributeName": store.TIME_TO_LIVE_ATTRIBUTE,
        },
        deletion_protection_enabled=True,
    )
    made.apply_removal_policy(RemovalPolicy.RETAIN)
    return made


def _lower(names_to_values: dict[str, str]) -> dict[str, str]:
    """boto3 says AttributeName, the CDK attributeName."""
    return {name[0].lower() + name[1:]: value for name, value in names_to_values.items()}


def topic(scope: Construct, name: str, key: kms.Key, *publishers: str) -> sns.Topic:
    """An encrypted topic that takes messages over TLS only.

    Args:
        scope: Where.
        name: Of the topic.
        key: Encrypts it.
        *publishers: AWS services that publish by themselves.
    """
    made = sns.Topic(scope, "Topic", topic_name=name, master_key=key, enforce_ssl=True)
    if publishers:
        made.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal(f"{each}.amazonaws.com") for each in publishers],
                actions=["sns:Publish"],
                resources=[made.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )
    return made


def archive(scope: Construct, stream: kinesis.CfnStream, bucket: s3.Bucket, key: kms.Key) -> None:
    """Every raw record to S3, beyond the stream's retention, unless the operator says no.

    At-least-once and outside the promise: for audits and for contracts yet to come.
    """
    wanted = CfnCondition(
        Stack.of(scope),
        "Archives",
        expression=Fn.condition_equals(
            CfnParameter(
                Stack.of(scope),
                "ArchiveRaw",
                default="true",
                allowed_values=["true", "false"],
                description="Keep raw records on S3 beyond the retention of the stream",
            ).value_as_string,
            "true",
        ),
    )
    within = Construct(scope, "Archive")
    log = logs.LogGroup(
        within,
        "Log",
        log_group_name="/telemill/archive",
        encryption_key=key,
        retention=logs.RetentionDays.ONE_MONTH,
        removal_policy=RemovalPolicy.DESTROY,
    )
    log_stream = logs.CfnLogStream(
        within, "LogStream", log_group_name=log.log_group_name, log_stream_name="delivery"
    )
    role = _archive_role(within, stream, bucket, key, log)
    delivery = firehose.CfnDeliveryStream(
        within,
        "Delivery",
        delivery_stream_name="telemill-raw-archive",
        delivery_stream_type="KinesisStreamAsSource",
        kinesis_stream_source_configuration={
            "kinesisStreamArn": stream.attr_arn,
            "roleArn": role.role_arn,
        },
        extended_s3_destination_configuration={
            "bucketArn": bucket.bucket_arn,
            "roleArn": role.role_arn,
            "prefix": "raw/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/",
            "errorOutputPrefix": "errors/!{firehose:error-output-type}/dt=!{timestamp:yyyy-MM-dd}/",
            # Records are compressed already.
            "compressionFormat": "UNCOMPRESSED",
            "bufferingHints": {
                "intervalInSeconds": ARCHIVE_BUFFER_SECONDS,
                "sizeInMBs": ARCHIVE_BUFFER_MEBIBYTES,
            },
            "encryptionConfiguration": {"kmsEncryptionConfig": {"awskmsKeyArn": key.key_arn}},
            "cloudWatchLoggingOptions": {
                "enabled": True,
                "logGroupName": log.log_group_name,
                "logStreamName": log_stream.log_stream_name,
            },
        },
    )
    delivery.node.add_dependency(log_stream)
    accept(
        delivery,
        "Its source is an encrypted stream; encryption of its own is for direct puts.",
        "AwsSolutions-KDF1",
    )
    for made in (log.node.default_child, log_stream, role.node.default_child, delivery):
        made.cfn_options.condition = wanted


def _archive_role(
    scope: Construct,
    stream: kinesis.CfnStream,
    bucket: s3.Bucket,
    key: kms.Key,
    log: logs.LogGroup,
) -> iam.Role:
    allowed = [
        (
            [
                "kinesis:DescribeStream",
                "kinesis:GetShardIterator",
                "kinesis:GetRecords",
                "kinesis:ListShards",
            ],
            [stream.attr_arn],
        ),
        (
            ["s3:AbortMultipartUpload", "s3:PutObject"],
            [f"{bucket.bucket_arn}/raw/*", f"{bucket.bucket_arn}/errors/*"],
        ),
        (
            ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
            [bucket.bucket_arn],
        ),
        (["kms:Decrypt", "kms:GenerateDataKey"], [key.key_arn]),
        (["logs:PutLogEvents"], [f"{log.log_group_arn}:log-stream:delivery"]),
    ]
    statements = [
        iam.PolicyStatement(actions=actions, resources=resources) for actions, resources in allowed
    ]
    role = iam.Role(
        scope,
        "Role",
        assumed_by=iam.ServicePrincipal(
            "firehose.amazonaws.com",
            conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
        ),
        max_session_duration=Duration.hours(1),
        inline_policies={"archive": iam.PolicyDocument(statements=statements)},
    )
    accept_wildcards(role, "Firehose names the objects below these prefixes.", statements)
    return role
