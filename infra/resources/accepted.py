"""Findings of the checkers that are meant: each with its reason, where the resource is made.

What is not accepted here ends the synthesis (cdk-nag) or `make infra-check` (cfn-lint, checkov).
"""

from collections.abc import Sequence
from typing import Any

from aws_cdk import Acknowledgment, CfnResource, Stack, Validations
from aws_cdk import aws_iam as iam
from constructs import Construct

_NAG = "AwsSolutions-"


def accept(resource: Construct, reason: str, *rules: str) -> None:
    """Say why findings about a resource are meant.

    Args:
        resource: An L1 or L2 construct.
        reason: Why.
        *rules: Of cdk-nag ("AwsSolutions-S1") or checkov ("CKV_AWS_18").
    """
    nag = [each for each in rules if each.startswith(_NAG)]
    if nag:
        Validations.of(resource).acknowledge(*(Acknowledgment(id=i, reason=reason) for i in nag))
    skips = [{"id": each, "comment": reason} for each in rules if each not in nag]
    if skips:
        made = resource if isinstance(resource, CfnResource) else resource.node.default_child
        made.add_metadata("checkov", {"skip": skips})


def accept_empty_parameters(stack: Stack) -> None:
    """Parameters that may be left out are empty: cfn-lint takes that for a wrong ARN or id.

    What refers to them has the condition that they are not.
    """
    stack.template_options.metadata = {"cfn-lint": {"config": {"ignore_checks": ["W1030"]}}}


def accept_wildcards(
    resource: Construct, reason: str, statements: Sequence[iam.PolicyStatement]
) -> None:
    """Say why resources and actions with a star in a policy are meant."""
    found = [
        *(f"Action::{each}" for of in statements for each in of.actions),
        *(
            f"Resource::{_as_nag_writes(resource, each)}"
            for of in statements
            for each in of.resources
            if "*" in each
        ),
    ]
    accept(resource, reason, *(f"{_NAG}IAM5[{each}]" for each in found if "*" in each))


def _as_nag_writes(resource: Construct, arn: str) -> str:
    """cdk-nag shows a reference as <Parameter> or <Resource.Attribute>."""
    resolved = Stack.of(resource).resolve(arn)
    if isinstance(resolved, str):
        return resolved
    _, parts = resolved.get("Fn::Join", ("", [resolved]))
    return "".join(part if isinstance(part, str) else _reference(part) for part in parts)


def _reference(part: dict[str, Any]) -> str:
    ((_, of),) = part.items()
    return f"<{of}>" if isinstance(of, str) else f"<{'.'.join(of)}>"
