"""Image repositories, one a service and one for the collector of traces."""

import json

from aws_cdk import aws_ecr as ecr
from constructs import Construct

SERVICES = ("ingest", "transform", "sink", "anomaly", "collector")
KEPT_IMAGES = 30


def repositories(scope: Construct, key_arn: str) -> None:
    """Immutable tags, scanned when pushed, the newest 30 images kept."""
    rule = {
        "rulePriority": 1,
        "description": f"the newest {KEPT_IMAGES}",
        "selection": {
            "tagStatus": "any",
            "countType": "imageCountMoreThan",
            "countNumber": KEPT_IMAGES,
        },
        "action": {"type": "expire"},
    }
    for service in SERVICES:
        ecr.CfnRepository(
            scope,
            service.capitalize(),
            repository_name=f"telemill/{service}",
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration={"scanOnPush": True},
            encryption_configuration={"encryptionType": "KMS", "kmsKey": key_arn},
            lifecycle_policy={"lifecyclePolicyText": json.dumps({"rules": [rule]})},
        )
