"""Makes a record poison: `python -m telemill.testing.poison MODULE [ARGUMENT…]`.

    TELEMILL_POISON=take:kill:4965… python -m telemill.testing.poison sink

runs `python -m sink`, which dies whenever it touches the record with that sequence number. The
product holds no test code: the function that touches it is wrapped from outside.
"""

import ctypes
import functools
import importlib
import os
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from telemill import errors

VARIABLE = "TELEMILL_POISON"
EXIT_CONFIGURATION = 2
NULL = 0


def _kill() -> None:
    """As the kernel does when memory runs out: nothing can be said any more."""
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    ctypes.string_at(NULL)


def _loop() -> None:
    """Pure Python that never ends: the event loop stands still, other threads do not."""
    while True:
        pass


def _hold() -> None:
    """C code that never ends and never lets another Python thread run."""
    ctypes.PyDLL(None).pause()


def _raise() -> None:
    raise RuntimeError("poison")


DEATHS: Mapping[str, Callable[[], None]] = {
    "kill": _kill,
    "segfault": _segfault,
    "loop": _loop,
    "hold": _hold,
    "raise": _raise,
}
"""How a worker ends that touches the record."""


def _in_chunk(arguments: Sequence[Any], number: str) -> bool:
    return any(record.sequence_number == number for record in arguments[1].records)


def _is_record(arguments: Sequence[Any], number: str) -> bool:
    return bool(arguments[0].sequence_number == number)


def _has_row(arguments: Sequence[Any], number: str) -> bool:
    """A row that came of the *raw* record with this number: Parquet knows no other."""
    return number in arguments[0].column("sequence_number").to_pylist()


@dataclass(frozen=True, slots=True)
class Place:
    """A function that touches records.

    Attributes:
        target: `module:function` or `module:Class.method`.
        touches: Whether a call with these arguments touches the record.
    """

    target: str
    touches: Callable[[Sequence[Any], str], bool]


PLACES: Mapping[tuple[str, str], Place] = {
    ("transform", "step"): Place("transform.core:TransformStep.step", _in_chunk),
    ("anomaly", "step"): Place("anomaly.core:AnomalyStep.step", _in_chunk),
    ("sink", "take"): Place("sink.core:take", _is_record),
    ("sink", "encode"): Place("sink.parquet:encode", _has_row),
}
"""By module to run and name."""


def install(module: str, text: str) -> None:
    """Wrap the function that touches the record.

    Args:
        module: The service.
        text: `place:death:sequence number`.

    Raises:
        ConfigurationError: There is no such place or death.
    """
    place, _, rest = text.partition(":")
    death, _, number = rest.partition(":")
    if (module, place) not in PLACES or death not in DEATHS or not number.isdecimal():
        raise errors.ConfigurationError(
            f"{VARIABLE}: got {text!r} for {module}; takes place:death:sequence number, the death"
            f" one of {', '.join(DEATHS)}"
        )
    found = PLACES[module, place]
    name, _, path = found.target.partition(":")
    *owners, attribute = path.split(".")
    owner: Any = importlib.import_module(name)
    for each in owners:
        owner = getattr(owner, each)
    setattr(owner, attribute, _wrapped(getattr(owner, attribute), found, DEATHS[death], number))


def _wrapped(
    function: Callable[..., Any], place: Place, die: Callable[[], None], number: str
) -> Callable[..., Any]:
    @functools.wraps(function)
    def touched(*arguments: Any, **named: Any) -> Any:
        if place.touches(arguments, number):
            die()
        return function(*arguments, **named)

    return touched


def main(argv: Sequence[str]) -> int:
    """Run a module for which one record is poison."""
    try:
        install(argv[0] if argv else "", os.environ.get(VARIABLE, ""))
    except errors.ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    sys.argv = list(argv)
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
