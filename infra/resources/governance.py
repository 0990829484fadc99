"""Who touched the data, and what it costs: trail, budget, cost anomalies."""

from aws_cdk import Aws, CfnParameter, RemovalPolicy
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_ce as ce
from aws_cdk import aws_cloudtrail as cloudtrail
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from resources.accepted import accept_wildcards
from resources.arns import arn, bucket_arn
from resources.lake import RAW_BUCKET
from telemill import names

TRAIL = "telemill-data"
BUDGET_USD = 400
ANOMALY_USD = 20


def trail(scope: Construct, key: kms.Key, bucket: s3.Bucket) -> None:
    """Every read and write of an object that holds readings."""
    within = Construct(scope, "Trail")
    log = logs.LogGroup(
        within,
        "Log",
        log_group_name="/telemill/trail",
        encryption_key=key,
        retention=logs.RetentionDays.ONE_YEAR,
        removal_policy=RemovalPolicy.RETAIN,
    )
    writing = iam.PolicyStatement(
        actions=["logs:CreateLogStream", "logs:PutLogEvents"],
        resources=[arn("logs", "log-group:/telemill/trail:log-stream:*")],
    )
    role = iam.Role(
        within,
        "Role",
        assumed_by=iam.ServicePrincipal("cloudtrail.amazonaws.com"),
        inline_policies={"log": iam.PolicyDocument(statements=[writing])},
    )
    accept_wildcards(role, "CloudTrail names its log streams.", [writing])
    cloudtrail.CfnTrail(
        within,
        "Trail",
        trail_name=TRAIL,
        is_logging=True,
        is_multi_region_trail=True,
        include_global_service_events=True,
        enable_log_file_validation=True,
        s3_bucket_name=bucket.bucket_name,
        s3_key_prefix="trail",
        kms_key_id=key.key_arn,
        cloud_watch_logs_log_group_arn=log.log_group_arn,
        cloud_watch_logs_role_arn=role.role_arn,
        event_selectors=[
            {
                "readWriteType": "All",
                "includeManagementEvents": True,
                "dataResources": [
                    {
                        "type": "AWS::S3::Object",
                        # Not state and progress: only services touch them, several times a second.
                        "values": [
                            bucket_arn(names.LAKE_BUCKET, "/"),
                            bucket_arn(RAW_BUCKET, "/"),
                            bucket_arn(names.RESULTS_BUCKET, "/"),
                        ],
                    },
                ],
            }
        ],
    )


def let_trail_write(bucket: s3.Bucket) -> None:
    """The statements of the bucket that CloudTrail checks before it starts."""
    source = {"aws:SourceArn": arn("cloudtrail", f"trail/{TRAIL}")}
    principal = iam.ServicePrincipal("cloudtrail.amazonaws.com")
    bucket.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[principal],
            actions=["s3:GetBucketAcl"],
            resources=[bucket.bucket_arn],
            conditions={"StringEquals": source},
        )
    )
    bucket.add_to_resource_policy(
        iam.PolicyStatement(
            principals=[principal],
            actions=["s3:PutObject"],
            resources=[f"{bucket.bucket_arn}/trail/AWSLogs/{Aws.ACCOUNT_ID}/*"],
            conditions={"StringEquals": {**source, "s3:x-amz-acl": "bucket-owner-full-control"}},
        )
    )


def spending(scope: Construct, topic: sns.Topic) -> None:
    """A monthly budget, told at 80 % and when the forecast passes it; odd days of a service."""
    limit = CfnParameter(
        scope,
        "MonthlyBudgetUsd",
        type="Number",
        default=BUDGET_USD,
        min_value=1,
        description="For everything tagged application=telemill",
    )
    budgets.CfnBudget(
        scope,
        "Budget",
        budget={
            "budgetName": "telemill",
            "budgetType": "COST",
            "timeUnit": "MONTHLY",
            "budgetLimit": {"amount": limit.value_as_number, "unit": "USD"},
            "costFilters": {"TagKeyValue": ["user:application$telemill"]},
        },
        notifications_with_subscribers=[
            {
                "notification": {
                    "notificationType": kind,
                    "comparisonOperator": "GREATER_THAN",
                    "threshold": threshold,
                    "thresholdType": "PERCENTAGE",
                },
                "subscribers": [{"subscriptionType": "SNS", "address": topic.topic_arn}],
            }
            for kind, threshold in (("ACTUAL", 80), ("FORECASTED", 100))
        ],
    )
    monitor = ce.CfnAnomalyMonitor(
        scope,
        "CostMonitor",
        monitor_name="telemill",
        monitor_type="DIMENSIONAL",
        monitor_dimension="SERVICE",
    )
    ce.CfnAnomalySubscription(
        scope,
        "CostSubscription",
        subscription_name="telemill",
        frequency="IMMEDIATE",
        monitor_arn_list=[monitor.attr_monitor_arn],
        subscribers=[{"type": "SNS", "address": topic.topic_arn}],
        threshold_expression=(
            '{"Dimensions": {"Key": "ANOMALY_TOTAL_IMPACT_ABSOLUTE",'
            f' "MatchOptions": ["GREATER_THAN_OR_EQUAL"], "Values": ["{ANOMALY_USD}"]}}}}'
        ),
    )
