"""Take out of an image's packages what no service loads: `python prune.py SITE_PACKAGES`.

It runs while an image is built, before the service is started once in the build: what was taken
and is needed after all ends the build, not the deployment.
"""

import shutil
import sys
from pathlib import Path

NOT_LOADED = {
    # Headers and sources for who compiles against Arrow, its tests, and clients that we do not use:
    # Flight (RPC), Arrow's own S3, Azure, GCS and HDFS file systems.
    "pyarrow": (
        "include",
        "includes",
        "src",
        "tests",
        "*flight*",
        "libarrow_s3*",
        "_s3fs*",
        "_azurefs*",
        "_gcsfs*",
        "_hdfs*",
        "_pyarrow_cpp_tests*",
        # The wheel holds the same library under three names; this one is linked to.
        "libarrow_python.so",
        "libarrow_python.so.*.*.*",
        "*parquet_encryption*",
    ),
    # Compiling Fortran and C, and tests.
    "numpy": ("f2py", "distutils", "*/tests", "tests", "core/include", "_core/include"),
    # The binding for PyPy.
    "zstandard": ("_cffi*",),
    "boto3": ("examples",),
}
AWS_SERVICES = frozenset(
    {
        "athena",
        "dynamodb",
        "glue",
        "kinesis",
        "s3",
        "sns",
        # How botocore finds credentials: assumed roles, pod identity, single sign-on.
        "sso",
        "sso-oidc",
        "sts",
        "signin",
    }
)


def prune(packages: Path) -> int:
    """Remove, and say how many bytes that were."""
    before = size(packages)
    for package, patterns in NOT_LOADED.items():
        for pattern in patterns:
            for found in (packages / package).glob(pattern):
                remove(found)
    for described in (packages / "botocore" / "data").iterdir():
        if described.is_dir() and described.name not in AWS_SERVICES:
            remove(described)
    return before - size(packages)


def remove(path: Path) -> None:
    """A file or a directory."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def size(path: Path) -> int:
    """Bytes of everything in it."""
    return sum(each.lstat().st_size for each in path.rglob("*") if each.is_file())


if __name__ == "__main__":
    sys.stdout.write(f"pruned {prune(Path(sys.argv[1])) / 1e6:.0f} MB\n")
