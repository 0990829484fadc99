"""Glue database and tables from the contract; Athena workgroups and the domain's queries."""

from pathlib import Path

from aws_cdk import Aws, CfnParameter, Stack
from aws_cdk import aws_athena as athena
from aws_cdk import aws_glue as glue
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from resources import queries
from resources.accepted import accept
from sink import catalog, core
from telemill import contract, names

CONTRACT = Path(__file__).parents[2] / "contracts" / "fms.yaml"
SCAN_LIMIT_MEGABYTES = 10_240
MEGABYTE_ZEROS = "000000"
"""Appended to the parameter: CloudFormation does not calculate."""

ANALYSTS_WORKGROUP = f"{names.ATHENA_WORKGROUP}-analysts"


def tables(scope: Construct, lake: s3.Bucket) -> None:
    """The database and its tables, as the sink would make them."""
    database = glue.CfnDatabase(
        scope,
        "Database",
        catalog_id=Aws.ACCOUNT_ID,
        database_input={"name": names.GLUE_DATABASE, "description": "Telemill"},
    )
    reading = contract.load(CONTRACT)
    for name in contract.TABLES:
        form = core.form_of(reading, name)
        definition = catalog.define(form, names.GLUE_DATABASE, lake.bucket_name)
        table = glue.CfnTable(
            scope,
            f"Table{name.capitalize()}",
            catalog_id=Aws.ACCOUNT_ID,
            database_name=names.GLUE_DATABASE,
            table_input={},
        )
        table.add_property_override("TableInput", definition.table_input(definition.columns))
        table.add_resource_dependency(database)


def workgroups(scope: Construct, results: s3.Bucket, key: kms.Key) -> None:
    """One for the audit, one for analysts: results apart, encrypted, and a limit on every scan."""
    limit = CfnParameter(
        Stack.of(scope),
        "ScanLimitMegabytes",
        type="Number",
        default=SCAN_LIMIT_MEGABYTES,
        min_value=10,
        description="Athena ends a query that has read more",
    )
    for name in (names.ATHENA_WORKGROUP, ANALYSTS_WORKGROUP):
        group = athena.CfnWorkGroup(
            scope,
            f"Workgroup{'Analysts' if name == ANALYSTS_WORKGROUP else ''}",
            name=name,
            recursive_delete_option=False,
            work_group_configuration={
                "enforceWorkGroupConfiguration": True,
                "publishCloudWatchMetricsEnabled": True,
                "engineVersion": {"selectedEngineVersion": "Athena engine version 3"},
                "resultConfiguration": {
                    "outputLocation": f"s3://{results.bucket_name}/{name}/",
                    "encryptionConfiguration": {
                        "encryptionOption": "SSE_KMS",
                        "kmsKey": key.key_arn,
                    },
                    "expectedBucketOwner": Aws.ACCOUNT_ID,
                },
            },
        )
        group.add_property_override(
            "WorkGroupConfiguration.BytesScannedCutoffPerQuery",
            {"Fn::Sub": f"${{{limit.logical_id}}}{MEGABYTE_ZEROS}"},
        )
        accept(group, "The results are encrypted: by KMS, two lines above.", "AwsSolutions-ATH1")
    _name_queries(scope, group)


def _name_queries(scope: Construct, group: athena.CfnWorkGroup) -> None:
    for name, (description, text) in queries.all_of(contract.load(CONTRACT)).items():
        query = athena.CfnNamedQuery(
            scope,
            f"Query{name.title().replace('-', '')}",
            name=name,
            database=names.GLUE_DATABASE,
            description=f"{description}; ? is the day, as '2026-11-22'",
            query_string=text,
            work_group=ANALYSTS_WORKGROUP,
        )
        query.add_resource_dependency(group)
