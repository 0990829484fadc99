"""Fixtures every suite shares."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from telemill.testing import emulator

ROOT = Path(__file__).resolve().parents[1]

# A slow machine is no failure. In CI hypothesis's own profile says so already, and is repeatable.
if "CI" not in os.environ:
    hypothesis.settings.register_profile(
        "telemill", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("telemill")


@pytest.fixture(scope="session", autouse=True)
def _in_root() -> None:
    """Settings name files relative to the checkout, as the Makefile runs things."""
    os.chdir(ROOT)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command run in the test's own process configures logging to streams that end with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real AWS wire protocol on loopback: the emulator's URL, with AWS_* set for botocore."""
    os.environ.setdefault(
        emulator.BINARY_VARIABLE, str(ROOT / "build" / "ministack" / "bin" / "ministack")
    )
    with emulator.running(tmp_path_factory.mktemp("emulator")) as running:
        settings = emulator.aws_environment(running.url)
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        yield running.url
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
