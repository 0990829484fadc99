"""docs/security.md says what the templates allow."""

from pathlib import Path

from infra import permissions
from tests.deploy import published

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_the_permissions_are_those_of_the_templates() -> None:
    """The tables of the page are what `make infra` makes of the published templates."""
    shown = PAGE.partition(permissions.BEGIN)[2].partition(permissions.END)[0]
    assert shown == f"\n{permissions.page()}"


def test_everybody_who_may_do_anything_is_on_the_page() -> None:
    """No policy or role of services and people is left out."""
    for name in published.APPLICATIONS:
        assert f"| `telemill-{name}` |" in PAGE
    for _, role in published.resources("people", "AWS::IAM::Role"):
        assert f"| `{role['RoleName']}` |" in PAGE


def test_an_analyst_cannot_read_the_quarantine() -> None:
    """Neither by object nor by listing."""
    ((_, analyst),) = [
        each
        for each in published.resources("people", "AWS::IAM::Role")
        if each[1]["RoleName"] == "telemill-analyst"
    ]
    (policy,) = analyst["Policies"]
    read = [
        published.text(resource)
        for statement in policy["PolicyDocument"]["Statement"]
        if "s3:GetObject" in statement["Action"]
        for resource in (
            statement["Resource"]
            if isinstance(statement["Resource"], list)
            else [statement["Resource"]]
        )
    ]
    assert read
    for each in read:
        assert each.rpartition(":::")[2].partition("/")[2] in {
            "readings/*",
            "scores/*",
            "alerts/*",
            "telemill-analysts/*",
        }


def test_nobody_deletes_rows() -> None:
    """No service or person but the account's own administrators may delete objects of the lake."""
    for stack, kind, held in (
        ("access", "AWS::IAM::ManagedPolicy", "PolicyDocument"),
        ("people", "AWS::IAM::Role", "Policies"),
    ):
        for _, properties in published.resources(stack, kind):
            found = properties[held]
            documents = found if isinstance(found, list) else [{"PolicyDocument": found}]
            for document in documents:
                for statement in document["PolicyDocument"]["Statement"]:
                    if any("Delete" in action for action in statement["Action"]):
                        text = str(statement["Resource"])
                        assert "telemill-lake" not in text
                        assert "telemill-state" in text or "dynamodb" in text
