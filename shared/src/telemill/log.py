"""Logs: one JSON object a line on stdout.

Events are dotted and past tense (`sink.object_written`), one line per batch, never a record's
contents. Bind context once with `structlog.contextvars.bind_contextvars`.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

LEVELS = ("debug", "info", "warning", "error")
FIRST = ("time", "level", "service", "event")
Event = MutableMapping[str, Any]


def configure(service: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send structlog and the standard library's logging to one stream, as JSON.

    Called once, in `__main__`. Libraries (faust, mode, aiobotocore, aiohttp) speak from WARNING.

    Args:
        service: Put on every line.
        level: One of `LEVELS`, for our own events.
        stream: Defaults to stdout.
    """
    out = stream or sys.stdout
    shared = _shared_processors(service)
    renderer = structlog.processors.JSONRenderer(default=str)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, _order, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(out),
        # The proxy is asked again at each call: one line a batch costs nothing, and a logger
        # made at import follows the configuration made later.
        cache_logger_on_first_use=False,
    )
    _route_standard_library(out, shared, renderer)


def _shared_processors(service: str) -> list[structlog.typing.Processor]:
    def add_service(_logger: Any, _method: str, event: Event) -> Event:
        event.setdefault("service", service)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        add_service,
    ]


def _route_standard_library(
    out: TextIO, shared: list[structlog.typing.Processor], renderer: structlog.typing.Processor
) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _name_library_event,
            _order,
            renderer,
        ],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def _order(_logger: Any, _method: str, event: Event) -> Event:
    """When, how bad, who and what come first, for a person who reads the raw lines."""
    return {name: event[name] for name in FIRST if name in event} | dict(event)


def _name_library_event(_logger: Any, _method: str, event: Event) -> Event:
    """A library's free text is its message; the event has a name one can search for."""
    return {**event, "event": "library.logged", "message": event.get("event")}
