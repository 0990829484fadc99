"""Fetch the jars of Amazon's MultiLangDaemon once, and check them before every start.

    python -m telemill.kcl.jars --directory build/kcl           fetch what is missing, check all
    python -m telemill.kcl.jars --directory build/kcl --check   only check
    python -m telemill.kcl.jars --set kcl3 --update SDIST       write the lock anew

They come from Maven Central, or from the repository KCL_MVN_REPO_SEARCH_URL names (the variable
amazon_kclpy's own installer reads); HTTPS_PROXY and SSL_CERT_FILE are honoured. Nothing but the
standard library is needed, so an image build can call it before anything else is installed.
"""

import argparse
import hashlib
import os
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

from telemill import errors
from telemill.kcl import lock
from telemill.kcl.lock import Jar, Lock

DEFAULT_SET = "kcl2"
DEFAULT_DIRECTORY = Path("build/kcl")
REPOSITORY_VARIABLE = "KCL_MVN_REPO_SEARCH_URL"
MAVEN_CENTRAL = "https://repo1.maven.org/maven2/"
PARALLEL_DOWNLOADS = 4
ATTEMPTS = 4
TIMEOUT_SECONDS = 60.0
FIRST_WAIT_SECONDS = 1.0
NOT_THERE_STATUS = 404

Fetch = Callable[[str], bytes]
"""Gets what is at a URL; raises OSError."""


class RefusedError(OSError):
    """The repository answered that it has no such file: trying again is of no use."""


def directory_of(root: Path, chosen: Lock) -> Path:
    """Where the jars of a set are: a folder a set and version, so that none mixes with another."""
    return root / f"{chosen.name}-{chosen.version}"


def class_path(root: Path, chosen: Lock) -> list[Path]:
    """Every jar of a set, checked.

    Raises:
        ConfigurationError: Some are missing or are not what the lock says.
    """
    directory = directory_of(root, chosen)
    wrong = problems(directory, chosen)
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise errors.ConfigurationError(
            f"jars of {lock.PACKAGE} {chosen.version} in {directory}: {wrong[0]}{more};"
            " run `make kcl-jars`"
        )
    return [(directory / jar.file_name).absolute() for jar in chosen.digests]


def problems(directory: Path, chosen: Lock) -> list[str]:
    """What is missing or wrong, one line each."""
    found = []
    for jar, digest in chosen.digests.items():
        state = _digest_of(directory / jar.file_name)
        if state is None:
            found.append(f"{jar.file_name} is missing")
        elif state != digest:
            found.append(f"{jar.file_name} is not the one that is pinned")
    return found


def fetch_all(root: Path, chosen: Lock, fetch: Fetch) -> int:
    """Fetch what is missing or wrong; a file appears only once it is checked.

    Returns:
        How many were fetched.

    Raises:
        ConfigurationError: One cannot be fetched, or is not what the lock says.
    """
    directory = directory_of(root, chosen)
    directory.mkdir(parents=True, exist_ok=True)
    wanted = [
        jar
        for jar, digest in chosen.digests.items()
        if _digest_of(directory / jar.file_name) != digest
    ]

    def get(jar: Jar) -> None:
        content = fetch(jar.path)
        if hashlib.sha256(content).hexdigest() != chosen.digests[jar]:
            raise errors.ConfigurationError(
                f"{jar}: the repository's file is not the one that is pinned;"
                f" does {REPOSITORY_VARIABLE} name a Maven repository?"
            )
        _write(directory / jar.file_name, content)

    _each(wanted, get)
    return len(wanted)


def update(name: str, sdist: Path, fetch: Fetch) -> Lock:
    """A new lock: the jars an amazon_kclpy source distribution names, as the repository has them.

    Raises:
        ConfigurationError: It is not such a distribution, or a jar cannot be fetched.
    """
    version, pom = _read_sdist(sdist)
    digests: dict[Jar, str] = {}

    def get(jar: Jar) -> None:
        digests[jar] = hashlib.sha256(fetch(jar.path)).hexdigest()

    _each(lock.corrected(version, lock.jars_of(pom)), get)
    return Lock(name, version, dict(sorted(digests.items())))


def from_repository(
    environ: Mapping[str, str], sleep: Callable[[float], None] = time.sleep
) -> Fetch:
    """How files of the Maven repository are got: what the network breaks is tried again."""
    base = (environ.get(REPOSITORY_VARIABLE) or MAVEN_CENTRAL).rstrip("/") + "/"
    if not base.startswith(("https://", "http://")):
        raise errors.ConfigurationError(f"{REPOSITORY_VARIABLE}: got {base}; takes an http(s) URL")

    def fetch(path: str) -> bytes:
        for attempt in range(1, ATTEMPTS):
            try:
                return _get(base + path)
            except RefusedError:
                raise
            except (OSError, HTTPException):
                sleep(FIRST_WAIT_SECONDS * 2**attempt)
        return _get(base + path)

    return fetch


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == NOT_THERE_STATUS:
            raise RefusedError("404 Not Found") from error
        raise


def _each(jars: Sequence[Jar], get: Callable[[Jar], None]) -> None:
    """Do something with every jar, some at a time; the first failure ends it."""

    def attempt(jar: Jar) -> None:
        try:
            get(jar)
        except (OSError, HTTPException) as error:
            raise errors.ConfigurationError(
                f"{jar}: cannot be fetched ({error});"
                f" set {REPOSITORY_VARIABLE} to a Maven repository you can reach"
            ) from error

    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        doing = [pool.submit(attempt, jar) for jar in jars]
        try:
            for each in doing:
                each.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _digest_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _write(path: Path, content: bytes) -> None:
    """Under its name only when complete: whoever is killed here leaves no half jar."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise errors.ConfigurationError(f"{path}: cannot be written ({error})") from error


def _read_sdist(sdist: Path) -> tuple[str, str]:
    """Version and pom.xml of a source distribution."""
    version = sdist.name.removesuffix(".tar.gz").rpartition("-")[2]
    try:
        with tarfile.open(sdist) as archive:
            member = archive.extractfile(f"{lock.PACKAGE}-{version}/pom.xml")
            return version, member.read().decode() if member is not None else ""
    except (OSError, tarfile.TarError, KeyError) as error:
        raise errors.ConfigurationError(
            f"--update: got {sdist} ({error}); takes {lock.PACKAGE}-VERSION.tar.gz from PyPI"
        ) from error


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The command.

    Returns:
        The exit status: 0, or 2 after one line on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        sys.stdout.write(f"{_run(arguments, environ)}\n")
    except errors.ConfigurationError as error:
        sys.stderr.write(f"telemill.kcl.jars: {error}\n")
        return 2
    return 0


def _run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> str:
    if arguments.update is not None:
        made = update(arguments.set, arguments.update, from_repository(environ))
        lock.path_of(made.name).write_text(made.render())
        return f"{made.name}.lock: {len(made.digests)} jars of {lock.PACKAGE} {made.version}"
    chosen = lock.load(arguments.set)
    if not arguments.check:
        fetch_all(arguments.directory, chosen, from_repository(environ))
    count = len(class_path(arguments.directory, chosen))
    directory = directory_of(arguments.directory, chosen)
    return f"{directory}: {count} jars of {lock.PACKAGE} {chosen.version}, all as pinned"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m telemill.kcl.jars",
        description="Fetch the jars of Amazon's MultiLangDaemon and check them.",
        epilog=f"{REPOSITORY_VARIABLE} names another Maven repository than Maven Central.",
    )
    parser.add_argument(
        "--directory", type=Path, default=DEFAULT_DIRECTORY, help="where they go (%(default)s)"
    )
    parser.add_argument(
        "--set", default=DEFAULT_SET, help=f"one of {', '.join(lock.names())} (%(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="fetch nothing")
    parser.add_argument(
        "--update", type=Path, metavar="SDIST", help="write the lock from amazon_kclpy-*.tar.gz"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
