"""Failpoints: every row is a function of the product, and a process dies there and nowhere else."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from telemill import errors
from telemill.testing.failpoints import __main__ as launcher
from telemill.testing.failpoints import table, trigger
from telemill.testing.failpoints.table import FAILPOINTS, Call, Failpoint
from telemill.testing.failpoints.trigger import Arming, Trigger

DIED: list[str] = []


class Product:
    """Stands for a class of the product."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def work(self, name: str) -> str:
        """Work takes a turn of the loop."""
        await asyncio.sleep(0)
        self.done.append(name)
        return name.upper()

    def at_once(self) -> None:
        """Not a coroutine function."""


def point(moment: str, target: str = "Product.work", **more: object) -> Failpoint:
    """A failpoint on this module."""
    return Failpoint("here", ("any",), f"{__name__}:{target}", moment, "…", **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failpoints find this module by name, and leave it as it was."""
    DIED.clear()
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(Product=Product))  # type: ignore[arg-type]
    monkeypatch.setattr(Product, "work", Product.work)


def killing(product: Product, *points: Failpoint, armed: Arming | None = None) -> Trigger:
    """Installed failpoints that note what was done when they were reached."""

    def kill(reached: Failpoint, nth: int) -> None:
        DIED.append(f"{reached.name}:{nth} after {product.done}")

    made = Trigger(points, armed=armed or Arming("here"), kill=kill)
    trigger.install(points, made)
    return made


@pytest.mark.parametrize("each", FAILPOINTS, ids=lambda each: str(each.name))
def test_every_failpoint_is_a_function_of_the_product(each: Failpoint) -> None:
    """Each row names a coroutine function that is there, in a service that can pass it."""
    _, _, function = trigger.resolve(each)
    assert asyncio.iscoroutinefunction(function)
    assert set(each.services) <= {"ingest", "transform", "anomaly", "sink"}


def test_names_are_unique() -> None:
    """A name arms one failpoint."""
    found = [each.name for each in FAILPOINTS]
    assert len(found) == len(set(found))


def test_every_service_can_die_around_its_outputs() -> None:
    """Each service has failpoints before and after what it puts out, and while it stops."""
    for service, needed in {
        "ingest": {"put-records.before", "put-records.after", "stop.before-acknowledgements"},
        "transform": {"put-records.before", "put-records.after", "state.uploaded"},
        "anomaly": {"put-records.before", "put-records.after", "state.uploaded"},
        "sink": {"intent.declared", "objects.between", "objects.put", "position.saved"},
    }.items():
        assert needed <= {each.name for each in table.of_service(service)}


async def test_before_is_before() -> None:
    """`before` dies when nothing of the call is done."""
    product = Product()
    killing(product, point("before"))
    await product.work("a")
    assert DIED == ["here:1 after []"]


async def test_after_is_after() -> None:
    """`after` dies when the call is done, and knows what it returned."""
    product = Product()
    killing(product, point("after", counts=lambda call: call.result == "B"))
    await product.work("a")
    assert DIED == []
    await product.work("b")
    assert DIED == ["here:1 after ['a', 'b']"]


async def test_only_the_nth_arrival_dies() -> None:
    """`name:2` lets the first arrival pass, and every one after the second."""
    product = Product()
    killing(product, point("before"), armed=Arming("here", 2))
    for name in "abc":
        await product.work(name)
    assert DIED == ["here:2 after ['a']"]


async def test_another_failpoint_does_not_die() -> None:
    """What is not armed passes, and returns what it returns."""
    product = Product()
    killing(product, point("before"), armed=Arming("elsewhere"))
    assert await product.work("a") == "A"
    assert DIED == []


async def test_between_holds_the_second_object_of_a_name_back() -> None:
    """Of two objects put at once under one name, the first is there and the second is not."""
    product = Product()
    killing(product, point("between"))
    await asyncio.gather(*(product.work(key) for key in ("h=1/x", "h=1/y", "h=2/x")))
    assert DIED == ["here:1 after ['h=1/x', 'h=1/y']"]


async def test_between_passes_when_the_first_object_failed() -> None:
    """A first object that was not put holds nobody back for ever."""
    product = Product()
    failed = False

    async def fails_once(_self: Product, key: str) -> str:
        nonlocal failed
        if not failed:
            failed = True
            raise OSError(key)
        return key

    Product.work = fails_once  # type: ignore[method-assign,assignment]
    killing(product, point("between"))
    results = await asyncio.gather(
        *(product.work(key) for key in ("h=1/x", "h=2/x")), return_exceptions=True
    )
    assert isinstance(results[0], OSError)
    assert results[1] == "h=2/x"
    assert DIED == []


async def test_a_file_arms_and_disarms_a_running_process(tmp_path: Path) -> None:
    """What is written to the file counts from then on; without the file nothing dies."""
    product, path = Product(), tmp_path / "failpoint"
    made = killing(product, point("before"))
    made.armed, made.path = None, path
    await product.work("a")
    assert DIED == []
    path.write_text("here:2")
    await product.work("b")
    assert DIED == []
    await product.work("c")
    assert DIED == ["here:2 after ['a', 'b']"]
    path.unlink()
    await product.work("d")
    assert len(DIED) == 1


def test_a_function_that_is_gone_is_an_error() -> None:
    """A target that was renamed is found at start, not by a test that never dies."""
    for target in ("Product.gone", "Gone.work", "Product.at_once"):
        with pytest.raises(errors.ConfigurationError, match="failpoint here"):
            trigger.resolve(point("before", target))


@pytest.mark.parametrize("text", ["nowhere", "claim.taken:0", "claim.taken:x", "put-records"])
def test_what_cannot_be_armed_is_an_error(text: str) -> None:
    """An unknown name or a count that is none ends the process at start."""
    with pytest.raises(errors.ConfigurationError, match=trigger.VARIABLE):
        trigger.parse(text, table.of_service("sink"))


def test_a_failpoint_of_another_service_is_an_error() -> None:
    """A service cannot be armed with what it never passes."""
    with pytest.raises(errors.ConfigurationError, match=r"quarantine\.before"):
        trigger.parse("quarantine.before", table.of_service("sink"))
    assert trigger.parse("quarantine.before:3", table.of_service("transform")) == Arming(
        "quarantine.before", 3
    )


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        ([], {trigger.VARIABLE: "claim.taken"}),
        (["nothing"], {trigger.VARIABLE: "claim.taken"}),
        (["sink"], {}),
        (["sink"], {trigger.VARIABLE: "alert.before"}),
    ],
)
def test_the_launcher_starts_nothing_it_cannot_kill(
    argv: list[str], environ: dict[str, str]
) -> None:
    """Without a module, a failpoint, or one that fits, nothing is run."""
    with pytest.raises(errors.ConfigurationError):
        launcher.prepare(argv, environ)


def test_only_a_resharded_shards_last_position_is_its_end() -> None:
    """SHARD_END and other positions are different failpoints, though saved by one function."""
    by_name = {each.name: each for each in FAILPOINTS}
    end, middle = by_name["shard-end.before"].counts, by_name["position.before"].counts
    assert end is not None
    assert middle is not None
    for position, is_end in (("SHARD_END", True), ("4", False)):
        call = Call((None, position))
        assert (end(call), middle(call)) == (is_end, not is_end)


def test_the_armed_process_dies_by_sigkill(tmp_path: Path) -> None:
    """The real thing: no clean-up runs, the status is that of SIGKILL, and the log says where."""
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, atexit\n"
        "from telemill.testing.failpoints import table, trigger\n"
        "class Work:\n"
        "    async def do(self): pass\n"
        "point = table.Failpoint('here', ('any',), '__main__:Work.do', 'before', '')\n"
        "trigger.install([point], trigger.Trigger([point], trigger.Arming('here')))\n"
        "atexit.register(print, 'cleaned up')\n"
        "asyncio.run(Work().do())\n"
        "print('went on')\n"
    )
    ended = subprocess.run(
        [sys.executable, str(program)], capture_output=True, check=False, env={**os.environ}
    )
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == b""
    assert b'"failpoint.reached", "failpoint": "here"' in ended.stderr
