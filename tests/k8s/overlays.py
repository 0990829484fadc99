"""The manifests as kustomize builds them."""

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]


@functools.cache
def kustomize(directory: Path) -> list[Manifest]:
    """What an overlay or component makes, by the kustomize of the machine."""
    own = ROOT / "build" / "bin" / "kustomize"
    command = [own, "build"] if own.exists() else [shutil.which("kubectl"), "kustomize"]
    built = subprocess.run(
        [*map(str, command), str(directory)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return [each for each in yaml.safe_load_all(built.stdout) if each]
