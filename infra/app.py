"""Synthesise the templates: `python infra/app.py DIRECTORY`; the default is infra/templates.

Nothing is looked up in an account, so the same code gives the same templates everywhere.
"""

import json
import sys
import tempfile
from pathlib import Path

import cdk_nag
from aws_cdk import App, Validations

from resources import stacks

FLAGS = {
    # Access logs by bucket policy: access control lists are off.
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    # Templates below 51,200 bytes deploy without a bucket to put them in.
    "aws:cdk:enable-path-metadata": False,
}

TEMPLATES = Path(__file__).parent / "templates"


def synthesise(into: Path) -> list[Path]:
    """Write one template a stack.

    Args:
        into: Existing directory.

    Returns:
        The files written.

    Raises:
        RuntimeError: cdk-nag found something that nobody accepted.
    """
    with tempfile.TemporaryDirectory() as scratch:
        app = App(outdir=scratch, analytics_reporting=False, context=FLAGS)
        Validations.of(app).add_plugins(cdk_nag.AwsSolutionsChecks(app, verbose=True))
        stacks.build(app)
        assembly = app.synth()
        return [_write(into, stack.stack_name, stack.template) for stack in assembly.stacks]


def _write(into: Path, name: str, template: object) -> Path:
    path = into / f"{name}.json"
    # A line a value: changes can be read. No indents: CloudFormation takes it without a bucket.
    text = json.dumps(template, indent=0, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    path.write_text(f"{text}\n")
    return path


if __name__ == "__main__":
    for written in synthesise(Path(sys.argv[1]) if len(sys.argv) > 1 else TEMPLATES):
        sys.stdout.write(f"{written}\n")
