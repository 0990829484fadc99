"""The key and the buckets: tables, state, raw archive, query results, access logs."""

from aws_cdk import Aws, CfnCondition, CfnParameter, Duration, Fn, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from resources.accepted import accept, accept_wildcards
from resources.arns import bucket_arn, bucket_name
from telemill import names, provision
from telemill.progress import snapshots

RAW_BUCKET = "telemill-raw"
INFREQUENT_ACCESS_DAYS = 30
GLACIER_DAYS = 90
DEEP_ARCHIVE_DAYS = 365
FAILURE_RETENTION_DAYS = 1095
QUARANTINE_RETENTION_DAYS = 30
RESULTS_RETENTION_DAYS = 14
LOG_RETENTION_DAYS = 400
SUPERSEDED_DAYS = 30
UPLOAD_DAYS = 7


class Key(kms.Key):
    """One customer-managed key: streams, buckets, table, topics and logs."""

    def __init__(self, scope: Construct) -> None:
        super().__init__(
            scope,
            "Key",
            alias="alias/telemill",
            description="Telemill: readings at rest",
            enable_key_rotation=True,
            removal_policy=RemovalPolicy.RETAIN,
        )
        self._allow("logs", f"logs.{Aws.REGION}.amazonaws.com", "kms:Encrypt*", "kms:Describe*")
        # These services publish to encrypted topics, and write encrypted trails, by themselves.
        for service in ("cloudwatch", "budgets", "costalerts", "events", "cloudtrail"):
            self._allow(service, f"{service}.amazonaws.com", "kms:DescribeKey")

    def _allow(self, name: str, principal: str, *actions: str) -> None:
        condition = {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
        if name == "logs":
            log_groups = f"arn:{Aws.PARTITION}:logs:{Aws.REGION}:{Aws.ACCOUNT_ID}:log-group:*"
            condition = {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": log_groups}}
        self.add_to_resource_policy(
            iam.PolicyStatement(
                sid=f"For{name.capitalize()}",
                principals=[iam.ServicePrincipal(principal)],
                actions=["kms:Decrypt", "kms:GenerateDataKey*", *actions],
                resources=["*"],
                conditions=condition,
            )
        )


class Buckets(Construct):
    """Versioned, encrypted, TLS-only, not public; what ages goes to cheaper storage."""

    def __init__(self, scope: Construct, key: kms.Key) -> None:
        super().__init__(scope, "Buckets")
        self._key = key
        self.logs = self._make_logs()
        self.lake = self._make("Lake", names.LAKE_BUCKET, _lake_rules())
        self.raw = self._make("Raw", RAW_BUCKET, [_ageing("raw", "raw/")])
        self.state = self._make("State", names.STATE_BUCKET, _state_rules())
        self.results = self._make("Results", names.RESULTS_BUCKET, _results_rules())
        self._replicate()

    def _make(self, name: str, bucket: str, rules: list[s3.LifecycleRule]) -> s3.Bucket:
        return s3.Bucket(
            self,
            name,
            bucket_name=bucket_name(bucket),
            versioned=True,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self._key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            server_access_logs_bucket=self.logs,
            server_access_logs_prefix=f"s3/{bucket}/",
            lifecycle_rules=[*rules, _superseded()],
            removal_policy=RemovalPolicy.RETAIN,
        )

    def _make_logs(self) -> s3.Bucket:
        made = s3.Bucket(
            self,
            "Logs",
            bucket_name=bucket_name("telemill-logs"),
            versioned=True,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            lifecycle_rules=[
                s3.LifecycleRule(id="logs", expiration=Duration.days(LOG_RETENTION_DAYS)),
                _superseded(),
            ],
            removal_policy=RemovalPolicy.RETAIN,
        )
        accept(made, "The bucket of the access logs does not log itself.", "AwsSolutions-S1")
        accept(made, "The bucket of the access logs does not log itself.", "CKV_AWS_18")
        return made

    def _replicate(self) -> None:
        """The lake to a second region, when a bucket there is named."""
        target = CfnParameter(
            self.node.scope,
            "ReplicaBucketArn",
            default="",
            description="ARN of a versioned bucket in another region that gets a copy of the lake;"
            " empty: none",
            allowed_pattern="^$|^arn:aws[a-z-]*:s3:::[a-z0-9.-]{3,63}$",
        )
        key = CfnParameter(
            self.node.scope,
            "ReplicaKeyArn",
            default="",
            description="ARN of the KMS key of that bucket; needed with ReplicaBucketArn",
            allowed_pattern="^$|^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+$",
        )
        wanted = CfnCondition(
            self.node.scope,
            "Replicates",
            expression=Fn.condition_not(Fn.condition_equals(target.value_as_string, "")),
        )
        role = self._replication_role(target.value_as_string, key.value_as_string)
        role.node.default_child.cfn_options.condition = wanted
        self.lake.node.default_child.add_property_override(
            "ReplicationConfiguration",
            Fn.condition_if(
                wanted.logical_id,
                _replication(role.role_arn, target.value_as_string, key.value_as_string),
                Aws.NO_VALUE,
            ),
        )

    def _replication_role(self, target: str, target_key: str) -> iam.Role:
        # By name: the bucket itself refers to this role.
        source = bucket_arn(names.LAKE_BUCKET)
        statements = [
            _allow(source, "s3:GetReplicationConfiguration", "s3:ListBucket"),
            _allow(
                f"{source}/*",
                "s3:GetObjectVersionAcl",
                "s3:GetObjectVersionForReplication",
                "s3:GetObjectVersionTagging",
            ),
            _allow(f"{target}/*", "s3:ReplicateDelete", "s3:ReplicateObject", "s3:ReplicateTags"),
            _allow(self._key.key_arn, "kms:Decrypt"),
            _allow(target_key, "kms:Encrypt"),
        ]
        role = iam.Role(
            self,
            "Replication",
            assumed_by=iam.ServicePrincipal("s3.amazonaws.com"),
            inline_policies={"replicate": iam.PolicyDocument(statements=statements)},
        )
        accept_wildcards(role, "Every object of the lake is replicated.", statements)
        return role


def _allow(resource: str, *actions: str) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=list(actions), resources=[resource])


def _replication(role_arn: str, bucket_arn: str, key_arn: str) -> dict[str, object]:
    return {
        "Role": role_arn,
        "Rules": [
            {
                "Id": "lake",
                "Status": "Enabled",
                "Priority": 1,
                "Filter": {"Prefix": ""},
                "DeleteMarkerReplication": {"Status": "Disabled"},
                "SourceSelectionCriteria": {"SseKmsEncryptedObjects": {"Status": "Enabled"}},
                "Destination": {
                    "Bucket": bucket_arn,
                    "EncryptionConfiguration": {"ReplicaKmsKeyID": key_arn},
                },
            }
        ],
    }


def _ageing(name: str, prefix: str, *, keeps_queryable: bool = False) -> s3.LifecycleRule:
    """Standard, infrequent access, Glacier, Deep Archive, gone.

    Args:
        name: Of the rule.
        prefix: Of its objects.
        keeps_queryable: Athena reads Glacier Instant Retrieval, and skips the other Glacier.
    """
    glacier = s3.StorageClass.GLACIER
    if keeps_queryable:
        glacier = s3.StorageClass.GLACIER_INSTANT_RETRIEVAL
    steps = (
        (s3.StorageClass.INFREQUENT_ACCESS, INFREQUENT_ACCESS_DAYS),
        (glacier, GLACIER_DAYS),
        (s3.StorageClass.DEEP_ARCHIVE, DEEP_ARCHIVE_DAYS),
    )
    return s3.LifecycleRule(
        id=name,
        prefix=prefix,
        transitions=[
            s3.Transition(storage_class=kind, transition_after=Duration.days(days))
            for kind, days in steps
        ],
        expiration=Duration.days(FAILURE_RETENTION_DAYS),
    )


def _lake_rules() -> list[s3.LifecycleRule]:
    """Failures stand among the other readings of their hour, so the tables are kept as long."""
    return [
        _ageing("readings", "readings/", keeps_queryable=True),
        _ageing("scores", "scores/", keeps_queryable=True),
        _ageing("alerts", "alerts/", keeps_queryable=True),
        s3.LifecycleRule(
            id="quarantine",
            prefix="quarantine/",
            expiration=Duration.days(QUARANTINE_RETENTION_DAYS),
        ),
    ]


def _state_rules() -> list[s3.LifecycleRule]:
    """Never those of live shards: an idle shard's state is old and still needed."""
    return [
        s3.LifecycleRule(
            id="ended-shards",
            prefix=snapshots.ENDED_PREFIX,
            expiration=Duration.days(provision.ENDED_STATE_DAYS),
        )
    ]


def _results_rules() -> list[s3.LifecycleRule]:
    return [s3.LifecycleRule(id="results", expiration=Duration.days(RESULTS_RETENTION_DAYS))]


def _superseded() -> s3.LifecycleRule:
    return s3.LifecycleRule(
        id="superseded",
        noncurrent_version_expiration=Duration.days(SUPERSEDED_DAYS),
        abort_incomplete_multipart_upload_after=Duration.days(UPLOAD_DAYS),
    )
