"""Arming, counting arrivals, wrapping functions, dying."""

import asyncio
import functools
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from telemill import errors
from telemill.testing.failpoints.table import Call, Failpoint

VARIABLE = "TELEMILL_FAILPOINT"
FILE_VARIABLE = "TELEMILL_FAILPOINT_FILE"
SIGNAL_VARIABLE = "TELEMILL_FAILPOINT_SIGNAL"
SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}
REACHED = "failpoint.reached"


class Arming(NamedTuple):
    """Which failpoint kills, at which arrival."""

    name: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.name}:{self.nth}"


def parse(text: str, points: Sequence[Failpoint]) -> Arming:
    """Read `name` or `name:nth`.

    Raises:
        ConfigurationError: It is not the name of one of the failpoints, or nth is no count.
    """
    name, _, nth = text.strip().partition(":")
    if name not in {point.name for point in points}:
        known = ", ".join(point.name for point in points)
        raise errors.ConfigurationError(f"{VARIABLE}: got {name!r}; takes one of {known}")
    if nth and not (nth.isdecimal() and int(nth)):
        raise errors.ConfigurationError(f"{VARIABLE}: got {text!r}; takes name or name:nth, 1, 2…")
    return Arming(name, int(nth or 1))


def sending(number: signal.Signals) -> Callable[[Failpoint, int], None]:
    """What happens at a failpoint: a line in the log, and a signal to oneself."""

    def send(point: Failpoint, nth: int) -> None:
        line = {"event": REACHED, "failpoint": point.name, "nth": nth, "signal": number.name}
        os.write(sys.stderr.fileno(), json.dumps(line).encode() + b"\n")
        os.kill(os.getpid(), number)

    return send


@dataclass(slots=True)
class Trigger:
    """Counts arrivals at the armed failpoint and kills at the nth.

    Attributes:
        points: Those of the service.
        armed: The one that kills; None while none does.
        path: A file that arms, looked at on every arrival.
        kill: What happens at the nth.
    """

    points: Sequence[Failpoint]
    armed: Arming | None = None
    path: Path | None = None
    kill: Callable[[Failpoint, int], None] = field(default_factory=lambda: sending(signal.SIGKILL))
    _arrivals: int = 0
    _changed_ns: int = 0

    def is_armed(self, point: Failpoint) -> bool:
        """Whether an arrival at this failpoint counts now."""
        self._look()
        return self.armed is not None and self.armed.name == point.name

    def arrive(self, point: Failpoint, call: Call) -> None:
        """Pass a failpoint, or die there."""
        if not self.is_armed(point) or self.armed is None:
            return
        if point.counts is not None and not point.counts(call):
            return
        self._arrivals += 1
        if self._arrivals == self.armed.nth:
            self.kill(point, self._arrivals)

    def _look(self) -> None:
        """Arm or disarm as the file says, when it was written since the last look."""
        if self.path is None:
            return
        try:
            changed_ns = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            self.armed, self._changed_ns = None, 0
            return
        if changed_ns != self._changed_ns:
            self.armed, self._changed_ns = parse(self.path.read_text(), self.points), changed_ns
            self._arrivals = 0


@dataclass(slots=True)
class _First:
    """The first object of a name."""

    ended: "asyncio.Event" = field(default_factory=asyncio.Event)
    is_put: bool = False


@dataclass(slots=True)
class _Pairs:
    """Holds the second object of a name back until the first is there."""

    firsts: dict[str, _First] = field(default_factory=dict)

    async def put(
        self, call: Call, put: Callable[[], Awaitable[Any]], between: Callable[[], None]
    ) -> Any:
        name = PurePosixPath(call.arguments[1]).name
        first = self.firsts.get(name)
        if first is None:
            return await self._put_first(name, put)
        await first.ended.wait()
        if first.is_put:
            between()
        return await put()

    async def _put_first(self, name: str, put: Callable[[], Awaitable[Any]]) -> Any:
        first = self.firsts[name] = _First()
        try:
            result = await put()
            first.is_put = True
        finally:
            if not first.is_put:
                del self.firsts[name]
            first.ended.set()
        return result


def install(points: Sequence[Failpoint], trigger: Trigger) -> None:
    """Wrap the functions of all given failpoints.

    Raises:
        ConfigurationError: A target is not there, or is not a coroutine function.
    """
    for point in points:
        owner, name, function = resolve(point)
        setattr(owner, name, _wrapped(function, point, trigger))


def resolve(point: Failpoint) -> tuple[Any, str, Callable[..., Awaitable[Any]]]:
    """Where a failpoint's function is: what holds it, its name there, and itself.

    Raises:
        ConfigurationError: It is not there, or is not a coroutine function.
    """
    module, _, path = point.target.partition(":")
    *owners, name = path.split(".")
    try:
        owner = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        function = getattr(owner, name)
    except (ImportError, AttributeError) as error:
        raise errors.ConfigurationError(f"failpoint {point.name}: {error}") from error
    if not inspect.iscoroutinefunction(function):
        raise errors.ConfigurationError(
            f"failpoint {point.name}: {point.target} is not a coroutine function"
        )
    return owner, name, function


def _wrapped(
    function: Callable[..., Awaitable[Any]], point: Failpoint, trigger: Trigger
) -> Callable[..., Awaitable[Any]]:
    pairs = _Pairs()

    @functools.wraps(function)
    async def before(*arguments: Any, **named: Any) -> Any:
        trigger.arrive(point, Call(arguments))
        return await function(*arguments, **named)

    @functools.wraps(function)
    async def after(*arguments: Any, **named: Any) -> Any:
        result = await function(*arguments, **named)
        trigger.arrive(point, Call(arguments, result))
        return result

    @functools.wraps(function)
    async def between(*arguments: Any, **named: Any) -> Any:
        call, put = Call(arguments), functools.partial(function, *arguments, **named)
        if not trigger.is_armed(point):
            return await put()
        return await pairs.put(call, put, lambda: trigger.arrive(point, call))

    return {"before": before, "after": after, "between": between}[point.moment]
