"""Bodies in and out: reading a JSON body within its limit, answering with JSON or an error. Knows no route."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

from msgspec import Struct
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from antiphon.errors import (
    ApiError,
    BodyTooLarge,
    InvalidType,
    InvalidValue,
    UnsupportedMediaType,
    UnsupportedParameter,
)
from antiphon.wire.dialect import Dialect
from antiphon.wire.included import shown

JSON_HEADERS = [(b"content-type", b"application/json")]
HEADER_CHARS_MAX = 1_000
QUICK_BYTES_MAX = 256 * 1024
"""A longer body is decoded in a thread: at some 30 ms a megabyte, all others would wait."""

YES_OR_NO = frozenset({"true", "false"})

D = TypeVar("D")


class ClientLeft(Exception):
    """The client went away before its request was complete: nobody is there to answer."""


async def read_json(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """The body. An absent Content-Type counts as JSON, any other than JSON is refused."""
    headers = Headers(scope=scope)
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType(f"Unsupported content type '{kind[:100]}'. The request body must be JSON.")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > bytes_max:
        raise _too_large(bytes_max)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        if not message.get("more_body") and not body:
            body = chunk  # the usual case: one read, no copy
        else:
            body += chunk
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        if not message.get("more_body"):
            return bytes(body)


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {bytes_max} bytes (limits.body_bytes_max).")


async def decoded(body: bytes, decoding: Callable[[], D]) -> D:
    return await asyncio.to_thread(decoding) if len(body) > QUICK_BYTES_MAX else decoding()


class Answering:
    """How far the answer to one request has come. Stands in the scope, so that nothing need wrap every `send`."""

    __slots__ = ("dialect", "has_begun", "request_id")

    def __init__(self, request_id: str, dialect: Dialect) -> None:
        self.request_id = request_id
        self.dialect = dialect
        self.has_begun = False

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Message:
        """The start of the answer, with its x-request-id."""
        self.has_begun = True
        stamped = [*headers, (b"x-request-id", self.request_id.encode())]
        return {"type": "http.response.start", "status": status, "headers": stamped}


async def send_json(
    scope: Scope, send: Send, body: bytes, *, status: int = 200, headers: Mapping[bytes, bytes] | None = None
) -> None:
    lines = [*JSON_HEADERS, (b"content-length", b"%d" % len(body)), *(headers or {}).items()]
    await send(scope["antiphon"].head(status, lines))
    await send({"type": "http.response.body", "body": body})


async def send_value(
    call: Call,
    value: Any,
    ignored: tuple[str, ...] = (),
    *,
    wanted: Collection[str] = (),
    headers: Mapping[bytes, bytes] | None = None,
) -> None:
    """`ignored`: the unknown parameters that the request was tolerated with. `wanted`: what its `include` asks for."""
    if ignored:
        headers = {b"antiphon-ignored-parameters": header_value(ignored)}
    await send_json(call.scope, call.send, call.dialect.encode(shown(value, wanted)), headers=headers)


async def send_error(scope: Scope, send: Send, error: ApiError, headers: Mapping[bytes, bytes] | None = None) -> None:
    status, body = scope["antiphon"].dialect.error(error)
    await send_json(scope, send, body, status=status, headers=headers)


def header_value(names: tuple[str, ...]) -> bytes:
    """Names from a client's body, safe to stand in a header."""
    text = ", ".join(names)
    safe = "".join(char if char.isascii() and char.isprintable() else "?" for char in text[:HEADER_CHARS_MAX])
    return safe.encode("ascii")


class Call:
    """One admitted request, as endpoints see it."""

    __slots__ = ("project", "receive", "scope", "send")

    def __init__(self, project: str, scope: Scope, receive: Receive, send: Send) -> None:
        self.project = project
        self.scope = scope
        self.receive = receive
        self.send = send

    @property
    def dialect(self) -> Dialect:
        dialect: Dialect = self.scope["antiphon"].dialect
        return dialect

    def path(self, name: str) -> str:
        value: str = self.scope["path_params"][name]
        return value

    def query(self) -> Query:
        return Query(parse_qsl(self.scope["query_string"].decode("utf-8", "replace"), keep_blank_values=True))


class Query:
    """Query parameters. A list is sent as `name=a&name=b` or `name[]=a&name[]=b`."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def every(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key in {name, f"{name}[]"}]

    def one(self, name: str) -> str | None:
        """The last value given; an empty one counts as absent."""
        return next((value for key, value in reversed(self.pairs) if key == name and value), None)

    def refuse_empty(self, names: Container[str]) -> None:
        for name, value in self.pairs:
            if name in names and not value:
                raise InvalidValue(f"Invalid '{name}': it is empty. Leave it out, or give it a value.", param=name)

    def refuse(self, name: str, *defaults: str) -> None:
        """A parameter of the reference that this server does not serve yet."""
        value = self.one(name)
        if value is not None and value not in defaults:
            raise UnsupportedParameter(
                f"Unsupported parameter: '{name}' is not supported by this server yet.", param=name
            )

    def integer(self, name: str, default: D, least: int, most: int) -> int | D:
        text = self.one(name)
        if text is None:
            return default
        if not text.removeprefix("-").isdecimal() or len(text) > 18:
            raise InvalidType(
                f"Invalid type for '{name}': expected an integer, but got '{text[:32]}' instead.", param=name
            )
        value = int(text)
        if not least <= value <= most:
            side = "below_min" if value < least else "above_max"
            raise InvalidValue(
                f"Invalid '{name}': expected a value from {least} to {most}, but got {value} instead.",
                param=name,
                code=f"integer_{side}_value",
            )
        return value

    def yes(self, name: str) -> bool:
        return self.choice(name, "false", YES_OR_NO) == "true"

    def choice(self, name: str, default: D, supported: frozenset[str]) -> str | D:
        value = self.one(name)
        if value is None:
            return default
        if value not in supported:
            known = ", ".join(f"'{one}'" for one in sorted(supported))
            raise InvalidValue(f"Invalid value: '{value[:64]}'. Supported values are: {known}.", param=name)
        return value


class Parameter(Struct, frozen=True, kw_only=True):
    """One query parameter, as /openapi.json describes it."""

    name: str
    description: str
    schema: Mapping[str, object]
    """JSON Schema of its value."""
    style: Literal["form", "deepObject"] = "form"
    """deepObject: `name[key]=value`."""


class Served(Struct, frozen=True, kw_only=True):
    """One operation, as it is routed and as /openapi.json describes it. `takes` and `gives` are wire types."""

    method: str
    path: str
    endpoint: Callable[[Call], Awaitable[None]]
    summary: str
    takes: Any = None
    takes_file: str = ""
    """The field that is a file: the body is a form with it and with what `takes` says."""
    gives: Any = None
    """A wire type, or `bytes`."""
    streams: bool = False
    query: Sequence[str | Parameter] = ()
    """A bare name: any text."""
    needs_key: bool = True
