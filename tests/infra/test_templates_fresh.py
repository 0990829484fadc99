"""The published templates are what infra/ synthesises; cdk-nag has nothing to say about them."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "infra" / "templates"


def test_the_templates_are_fresh(tmp_path: Path) -> None:
    """Who deploys a published template deploys what the code says."""
    made = subprocess.run(
        [ROOT / "build" / "infra" / "bin" / "python", ROOT / "infra" / "app.py", tmp_path],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    published = {path.name: path.read_text() for path in PUBLISHED.iterdir()}
    assert sorted(fresh) == sorted(published)
    assert [name for name in fresh if fresh[name] != published[name]] == [], "run `make infra`"
