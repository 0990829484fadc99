"""Find a Java that runs the MultiLangDaemon."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from telemill import errors

LEAST_VERSION = 8
"""The class files of every pinned jar, of KCL 2.7 and of 3.1, are Java 8's."""
TIMEOUT_SECONDS = 30.0
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_HOW = f"takes a Java {LEAST_VERSION} or newer (Debian: apt install openjdk-17-jre-headless)"


def find(environ: Mapping[str, str]) -> Path:
    """The Java of JAVA_HOME, else of the PATH.

    Raises:
        ConfigurationError: There is none, it does not run, or is too old.
    """
    home = environ.get("JAVA_HOME")
    if home:
        java, source = Path(home, "bin", "java"), f"JAVA_HOME: got {home}"
        if not java.is_file():
            raise errors.ConfigurationError(f"{source}, which holds no bin/java; {_HOW}")
    else:
        found = shutil.which("java", path=environ.get("PATH"))
        if found is None:
            raise errors.ConfigurationError(f"JAVA_HOME: no java on the PATH either; {_HOW}")
        java, source = Path(found), f"java on the PATH: got {found}"
    version = _version(java, source)
    if version < LEAST_VERSION:
        raise errors.ConfigurationError(f"{source}, which is Java {version}; {_HOW}")
    return java


def _version(java: Path, source: str) -> int:
    """Its major version: 8 for "1.8.0_402", 17 for "17.0.15"."""
    try:
        ran = subprocess.run(
            [str(java), "-version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise errors.ConfigurationError(
            f"{source}, which does not run ({error}); {_HOW}"
        ) from error
    match = _VERSION.search(ran.stderr) or _VERSION.search(ran.stdout)
    if match is None:
        raise errors.ConfigurationError(f"{source}, which does not tell its version; {_HOW}")
    return int(match[1])
