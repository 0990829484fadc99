"""The jars of the MultiLangDaemon: fetched once, checked against the lock."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from telemill import errors
from telemill.kcl import jars, lock
from telemill.kcl.lock import Jar, Lock

CONTENT = {
    "org/example/one/1.0/one-1.0.jar": b"first",
    "org/example/two-part/2.0.Final/two-part-2.0.Final.jar": b"second",
}
JARS = {
    Jar("org.example", "one", "1.0"): b"first",
    Jar("org.example", "two-part", "2.0.Final"): b"second",
}
LOCK = Lock("kcl9", "9.1.0", {jar: hashlib.sha256(each).hexdigest() for jar, each in JARS.items()})
POM = """<?xml version="1.0"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <properties><two.version>2.0</two.version></properties>
  <dependencies>
    <dependency><groupId>org.example</groupId><artifactId>two-part</artifactId>
      <version>${two.version}.Final</version></dependency>
    <dependency><groupId>org.example</groupId><artifactId>one</artifactId>
      <version>1.0</version>
      <exclusions><exclusion><groupId>no.such</groupId><artifactId>thing</artifactId></exclusion>
      </exclusions></dependency>
  </dependencies>
</project>"""


class Repository:
    """A Maven repository that counts what it is asked."""

    def __init__(self, content: Mapping[str, bytes] = CONTENT) -> None:
        self.content = dict(content)
        self.asked: list[str] = []

    def fetch(self, path: str) -> bytes:
        """As `jars.from_repository` gives it."""
        self.asked.append(path)
        if path not in self.content:
            raise jars.RefusedError("404 Not Found")
        return self.content[path]


def sdist(directory: Path, pom: str = POM) -> Path:
    """A source distribution of amazon_kclpy."""
    path = directory / "amazon_kclpy-9.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("amazon_kclpy-9.1.0/pom.xml")
        member.size = len(pom.encode())
        archive.addfile(member, io.BytesIO(pom.encode()))
    return path


def test_a_set_is_fetched_once(tmp_path: Path) -> None:
    """What is there and right is not fetched again."""
    repository = Repository()
    assert jars.fetch_all(tmp_path, LOCK, repository.fetch) == 2
    assert jars.fetch_all(tmp_path, LOCK, repository.fetch) == 0
    assert sorted(repository.asked) == sorted(CONTENT)
    paths = jars.class_path(tmp_path, LOCK)
    assert [path.read_bytes() for path in paths] == [b"first", b"second"]
    assert all(path.is_absolute() for path in paths)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "one-1.0.jar is missing"),
        (lambda path: path.write_bytes(b"firs"), "one-1.0.jar is not the one that is pinned"),
        (lambda path: path.write_bytes(b""), "one-1.0.jar is not the one that is pinned"),
    ],
)
def test_a_wrong_set_is_one_clear_error(tmp_path: Path, spoil: object, says: str) -> None:
    """A missing, half or foreign jar is named, with what mends it; fetching mends it."""
    repository = Repository()
    jars.fetch_all(tmp_path, LOCK, repository.fetch)
    assert callable(spoil)
    spoil(jars.directory_of(tmp_path, LOCK) / "one-1.0.jar")
    with pytest.raises(errors.ConfigurationError, match=rf"{says}; run `make kcl-jars`"):
        jars.class_path(tmp_path, LOCK)
    assert jars.fetch_all(tmp_path, LOCK, repository.fetch) == 1
    jars.class_path(tmp_path, LOCK)


def test_no_set_at_all_is_one_line(tmp_path: Path) -> None:
    """Nothing fetched yet: the first jar is named, the rest counted."""
    with pytest.raises(errors.ConfigurationError) as raised:
        jars.class_path(tmp_path, LOCK)
    assert "one-1.0.jar is missing and 1 more; run `make kcl-jars`" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_jars_in_the_folder_are_not_used(tmp_path: Path) -> None:
    """The class path is what the lock says, not what lies there."""
    jars.fetch_all(tmp_path, LOCK, Repository().fetch)
    (jars.directory_of(tmp_path, LOCK) / "one-0.9.jar").write_bytes(b"old")
    assert len(jars.class_path(tmp_path, LOCK)) == 2


def test_a_repository_with_other_files_is_refused(tmp_path: Path) -> None:
    """A jar with another checksum is never written: an error page of a proxy, or worse."""
    repository = Repository(dict.fromkeys(CONTENT, b"<html>login</html>"))
    with pytest.raises(errors.ConfigurationError, match="not the one that is pinned"):
        jars.fetch_all(tmp_path, LOCK, repository.fetch)
    assert not list(tmp_path.rglob("*.jar*"))


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    """What the repository does not have is named, with the variable that names another one."""
    repository = Repository({})
    with pytest.raises(errors.ConfigurationError, match=r"org.example:.*404.*KCL_MVN_REPO_SEARCH"):
        jars.fetch_all(tmp_path, LOCK, repository.fetch)


def test_a_lock_reads_what_it_wrote() -> None:
    """Rendering and parsing are inverse."""
    assert lock.parse("kcl9", LOCK.render()) == LOCK


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one:two:3 abc\n",
        "amazon_kclpy 1.0\norg.example:one:1.0 abc\n",
        f"amazon_kclpy 1.0\n../../etc:one:1.0 {'a' * 64}\n",
        f"amazon_kclpy 1.0\norg.example:one {'a' * 64}\n",
    ],
)
def test_what_is_no_lock_is_refused(text: str) -> None:
    """A broken lock is an error, never an empty set."""
    with pytest.raises(errors.ConfigurationError, match=r"kcl9\.lock"):
        lock.parse("kcl9", text)


@pytest.mark.parametrize("name", ["kcl2", "kcl3"])
def test_the_committed_locks_hold_a_daemon(name: str) -> None:
    """Both sets name the KCL, its daemon, the SDK and the log; each with a checksum."""
    committed = lock.load(name)
    artifacts = {jar.artifact for jar in committed.digests}
    assert {
        "amazon-kinesis-client",
        "amazon-kinesis-client-multilang",
        "kinesis",
        "dynamodb",
        "logback-classic",
    } <= artifacts
    assert lock.path_of(name).read_text() == committed.render()


def test_an_unknown_set_is_refused() -> None:
    """The sets there are, are named."""
    with pytest.raises(errors.ConfigurationError, match="kcl2, kcl3"):
        lock.load("kcl1")


def test_a_lock_is_made_from_the_source_distribution(tmp_path: Path) -> None:
    """Coordinates come from the pom.xml with its properties, checksums from the repository."""
    assert jars.update("kcl9", sdist(tmp_path), Repository().fetch) == LOCK


@pytest.mark.parametrize("pom", ["<broken", POM.replace("two.version>", "other.version>")])
def test_a_pom_that_cannot_be_read_is_refused(tmp_path: Path, pom: str) -> None:
    """Broken XML, or a version that is not there, is an error."""
    with pytest.raises(errors.ConfigurationError, match=r"pom\.xml"):
        jars.update("kcl9", sdist(tmp_path, pom), Repository().fetch)


def test_what_is_no_source_distribution_is_refused(tmp_path: Path) -> None:
    """A path that is none says what is taken."""
    with pytest.raises(errors.ConfigurationError, match=r"takes amazon_kclpy-VERSION\.tar\.gz"):
        jars.update("kcl9", tmp_path / "no.tar.gz", Repository().fetch)


class _Flaky(BaseHTTPRequestHandler):
    """Answers 503 once for each path, then serves `CONTENT`; everything else is missing."""

    failed: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        path = self.path.removeprefix("/maven/")
        status = 200 if path in self.failed else 503
        self.failed.add(path)
        status = 404 if path not in CONTENT else status
        content = CONTENT.get(path, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_mirror_is_used_and_its_failures_are_tried_again(tmp_path: Path) -> None:
    """The variable names the repository, without a slash too; a 503 is tried again, a 404 not."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Flaky)
    thread = Thread(target=server.serve_forever)
    thread.start()
    waits: list[float] = []
    try:
        url = f"http://127.0.0.1:{server.server_port}/maven"
        fetch = jars.from_repository({jars.REPOSITORY_VARIABLE: url}, waits.append)
        assert jars.fetch_all(tmp_path, LOCK, fetch) == 2
        with pytest.raises(jars.RefusedError):
            fetch("no/such/1/such-1.jar")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(waits) == 2


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` on an empty folder ends with status 2 and one line."""
    assert jars.main(["--directory", str(tmp_path), "--check"], {}) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "make kcl-jars" in error


def test_a_mirror_that_is_no_url_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The variable is named, with what it got."""
    assert jars.main([], {jars.REPOSITORY_VARIABLE: "file:///etc"}) == 2
    assert "KCL_MVN_REPO_SEARCH_URL: got file:///etc" in capsys.readouterr().err


def test_the_kcl_and_its_protobuf_fit() -> None:
    """The KCL refuses an older protobuf than it was generated by, once an aggregate comes."""
    least = {"kcl2": (4, 31, 1), "kcl3": (4, 27, 5)}
    for name, version in least.items():
        [protobuf] = [jar for jar in lock.load(name).digests if jar.artifact == "protobuf-java"]
        assert tuple(map(int, protobuf.version.split("."))) >= version


def test_a_correction_replaces_one_jar() -> None:
    """Only the versions named are corrected, and nothing is added."""
    old = Jar("com.google.protobuf", "protobuf-java", "4.27.5")
    other = Jar("org.example", "one", "1.0")
    assert lock.corrected("2.2.3", [old, other]) == [*lock.CORRECTIONS["2.2.3"], other]
    assert lock.corrected("2.2.3", [other]) == [other]
    assert lock.corrected("3.1.3", [old, other]) == [old, other]
