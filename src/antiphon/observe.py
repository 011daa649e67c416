"""What the server says of itself: structured log lines on standard error. Never what a user said."""

import logging
import sys
from contextlib import suppress
from typing import Any

import msgspec
import structlog

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("antiphon")


def configure(form: str = "auto", level: str = "info", **named: int) -> None:
    """`form` is "json", "console" or "auto" (console on a terminal). What is `named` stands in every line."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        *([lambda _logger, _method, line: {**line, **named}] if named else []),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        rendered: list[structlog.typing.Processor] = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # a richer one would print what users said
            )
        ]
    else:
        rendered = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line is one write: those of several processes must not mix.
        logger_factory=structlog.WriteLoggerFactory(_StandardError()),  # type: ignore[arg-type] # all that it needs
        cache_logger_on_first_use=True,
    )
    for name in ("antiphon", "uvicorn"):
        library = logging.getLogger(name)
        library.handlers = [_Bridge()]
        library.propagate = False
        library.setLevel(level.upper() if name == "antiphon" else "WARNING")


class _Bridge(logging.Handler):
    """What libraries, and the model adapters, log by the standard library's means."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


class _StandardError:
    """Standard error as it is when something is written, not as it was when logging was set up. Where it takes nothing,
    for the disk is full or its reader gone, what is served goes on."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def _json(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value, enc_hook=repr).decode()
