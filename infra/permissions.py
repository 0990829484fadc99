"""The permissions of docs/security.md, made from the published templates.

    python infra/permissions.py docs/security.md

writes them between the page's markers. It needs no CDK: it reads what is deployed.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
BEGIN, END = "<!-- made by infra/permissions.py -->", "<!-- end -->"
IN_ACCOUNT = re.compile(
    r"^arn:<AWS::Partition>:([a-z0-9]+):(?:<AWS::Region>:<AWS::AccountId>|::)?:?"
)
GLOBAL_SUFFIX = "-<AWS::AccountId>-<AWS::Region>"


def table(stack: str, kind: str, name: str, document: str) -> str:
    """One Markdown table: who, why, what, on what.

    Args:
        stack: Of the template.
        kind: CloudFormation type of what holds the policy.
        name: Property that names it.
        document: Property that is, or holds, the policy.
    """
    lines = ["| who | statement | actions | on | when |", "|---|---|---|---|---|"]
    template = json.loads((TEMPLATES / f"telemill-{stack}.json").read_text(encoding="utf-8"))
    held = [
        resource["Properties"]
        for resource in template["Resources"].values()
        if resource["Type"] == kind
    ]
    for properties in sorted(held, key=lambda each: str(each[name])):
        who = f"`{properties[name]}`"
        for statement in _statements(properties[document]):
            lines.append(f"| {who} | {' | '.join(_cells(statement))} |")
            who = ""
    return "\n".join(lines) + "\n"


def _statements(held: Any) -> Iterator[dict[str, Any]]:
    """Of a policy document, or of a role's inline policies."""
    documents = [held] if isinstance(held, dict) else [each["PolicyDocument"] for each in held]
    for document in documents:
        yield from document["Statement"]


def _cells(statement: dict[str, Any]) -> tuple[str, str, str, str]:
    return (
        statement.get("Sid", ""),
        " ".join(f"`{each}`" for each in _listed(statement["Action"])),
        " ".join(f"`{short(each)}`" for each in _listed(statement["Resource"])),
        _when(statement.get("Condition", {})),
    )


def _when(condition: dict[str, dict[str, Any]]) -> str:
    pairs = (pair for values in condition.values() for pair in values.items())
    return "; ".join(
        f"{key} {' '.join(f'`{short(each)}`' for each in _listed(value))}" for key, value in pairs
    )


def _listed(value: Any) -> list[str]:
    return [text(each) for each in (value if isinstance(value, list) else [value])]


def text(value: Any) -> str:
    """A value with its references written as <what>."""
    if not isinstance(value, dict):
        return str(value)
    ((function, of),) = value.items()
    if function == "Fn::Join":
        return "".join(text(each) for each in of[1])
    if function == "Fn::ImportValue":
        return "the key" if "Key" in str(of) else str(of)
    return f"<{of if isinstance(of, str) else '.'.join(map(str, of))}>"


def short(resource: str) -> str:
    """Without what is the same everywhere: partition, region, account."""
    without = IN_ACCOUNT.sub(r"\1:", resource)
    return without.replace(GLOBAL_SUFFIX, "-…").replace(".<AWS::Region>.amazonaws.com", "")


def page() -> str:
    """Both tables, with their headings."""
    services = table("access", "AWS::IAM::ManagedPolicy", "ManagedPolicyName", "PolicyDocument")
    people = table("people", "AWS::IAM::Role", "RoleName", "Policies")
    return f"### Services\n\n{services}\n### People\n\n{people}"


def into(path: Path) -> None:
    """Write the tables between the markers of a page."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{page()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    into(Path(sys.argv[1]))
