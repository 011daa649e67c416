"""What the server says of itself: structured log lines on standard error. Never what a user said."""

import sys
from typing import Any

import msgspec
import structlog

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("antiphon")


def configure(form: str = "auto", level: str = "info") -> None:
    """`form` is "json", "console" or "auto" (console on a terminal)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        rendered: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        rendered = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _json(value: Any, **_: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=repr)
