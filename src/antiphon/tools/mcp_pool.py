"""Pool: connections to MCP servers, one for each project, server and login, kept while they are used. Knows no item.

A connection is the SDK's client in a task of its own, since what it opens must be closed by the task that opened it.
Whoever asks something asks in his own task, and being cancelled there cancels the request at the server. A request is
made again, on a new connection, only when it has certainly not arrived, or when it may be repeated.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple, Self, TypeAlias, TypeVar

import httpx2
from mcp.client.client import Client
from mcp.client.session import IncomingMessage
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, PARSE_ERROR, Implementation, ToolListChangedNotification
from pydantic import ValidationError

import antiphon
from antiphon.config import McpSettings
from antiphon.net.address import Target
from antiphon.net.fetch import Fetcher
from antiphon.tools.mcp_http import HTTP_FAULT, TOO_LARGE, Guarded
from antiphon.tools.mcp_place import Place

CLOSE_S: Final = 5.0
"""For all connections to end when the server stops."""
PROOF_S: Final = 5.0
"""For a command to answer anything after a call was given up: one that hangs would let everybody wait."""
LOST: Final = ("Connection closed", "SSE stream ")
"""How the SDK begins what it says itself under CONNECTION_CLOSED, a number that servers use for errors of any kind."""
UNREADABLE: Final = "The server's answer is not what MCP has for it."
T = TypeVar("T")
Ask: TypeAlias = Callable[[Client], Awaitable[T]]
Made: TypeAlias = Callable[[AbstractAsyncContextManager[Any]], Client]
"""A client on that transport."""

for _name in ("mcp", "client", "httpx2"):  # they log addresses, and what calls say
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class Failure(Exception):
    """A server failed, below MCP. `status` is HTTP's, or what a gateway would have answered; `is_undelivered`: what was
    asked has certainly not arrived."""

    def __init__(self, status: int, reason: str, *, is_undelivered: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.is_undelivered = is_undelivered


class Key(NamedTuple):
    project: str
    digest: bytes


class Pool:
    def __init__(self, settings: McpSettings, fetch: Fetcher, changed: Callable[[Key], object]) -> None:
        """`changed` is called when a server says that its tools are others now, or would no longer say so."""
        self._settings = settings
        self._fetch = fetch
        self._changed = changed
        self._connections: dict[Key, _Connection] = {}
        self._tasks: dict[asyncio.Task[None], _Connection] = {}

    async def ask(self, key: Key, place: Place, ask: Ask[T], *, may_repeat: bool) -> T:
        """What `ask` gives. Raises Failure, or the server's own MCPError."""
        connection = self._connection(key, place)
        if connection.proof is not None:
            await asyncio.wait([connection.proof])
            connection = self._connection(key, place)
        was_used = connection.was_used
        try:
            return await connection.ask(ask)
        except asyncio.CancelledError:
            if place.command and connection.was_used and connection.proof is None:
                connection.proof = asyncio.create_task(self._prove(connection))
            raise
        except Failure as failure:
            if not was_used or not (failure.is_undelivered or (may_repeat and connection.is_over)):
                raise
        self._drop(connection)
        return await self._connection(key, place).ask(ask)

    async def _prove(self, connection: "_Connection") -> None:
        try:
            async with asyncio.timeout(PROOF_S):
                await connection.ask(_anything)
        except TimeoutError:
            self._drop(connection)
        except (Failure, MCPError):
            pass  # an answer, or its end
        finally:
            connection.proof = None

    async def close(self) -> None:
        for connection in self._tasks.values():
            connection.ended.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()

    def _connection(self, key: Key, place: Place) -> "_Connection":
        found = self._connections.get(key)
        if found is not None and not found.is_over:
            if found.users or not found.deaf.is_set():
                return found
            self._drop(found)
        if len(self._connections) >= self._settings.connections_max:
            idle = min((one for one in self._connections.values() if not one.users), key=_idle_since, default=None)
            if idle is None:
                raise Failure(503, "Too many MCP servers are in use (tools.mcp.connections_max).", is_undelivered=True)
            self._drop(idle)
        opened, changed = partial(self._opened, key, place), partial(self._changed, key)
        made = self._connections[key] = _Connection(key, opened, changed, self._settings)
        self._tasks[made.task] = made
        made.task.add_done_callback(partial(self._forget, made))
        return made

    def _forget(self, connection: "_Connection", task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            task.exception()  # is told to whoever waits for the connection
        if self._connections.get(connection.key) is connection:
            del self._connections[connection.key]

    def _drop(self, connection: "_Connection") -> None:
        """Nobody gets it any more. It ends now, or some time after the last who uses it."""
        if self._connections.get(connection.key) is connection:
            del self._connections[connection.key]
        if not connection.users:
            connection.ended.set()

    def _opened(self, key: Key, place: Place, ended: asyncio.Event) -> AbstractAsyncContextManager["_Opened"]:
        client = partial(_client, partial(self._changed, key), ended)
        if place.command:
            return _command(place, client)
        guarded = Guarded(
            _anywhere if place.is_trusted else self._fetch.reach,
            self._tls,
            connect_timeout_s=self._settings.connect_timeout_s,
            bytes_max=self._settings.answer_bytes_max,
            ended=ended.set,
        )
        return _remote(place, guarded, self._settings.answer_bytes_max, ended, client)

    def _tls(self) -> ssl.SSLContext:
        return self._fetch.tls


async def _anything(client: Client) -> Any:
    """A ping would be it, but the newest MCP has none."""
    return await client.list_tools()


async def _anywhere(target: Target) -> Sequence[str]:
    return [target.host]


def _idle_since(connection: "_Connection") -> float:
    return connection.idle_since


class _Opened(NamedTuple):
    client: Client
    guarded: Guarded | None = None


class _Connection:
    """`ended` is set by whoever wants it closed, and when the server has closed it."""

    def __init__(
        self,
        key: Key,
        opened: Callable[[asyncio.Event], AbstractAsyncContextManager[_Opened]],
        changed: Callable[[], object],
        settings: McpSettings,
    ) -> None:
        self.key = key
        self.users = 0
        self.was_used = False
        self.proof: asyncio.Task[None] | None = None
        """Of a command, after a call was given up: does it still answer?"""
        self.ended = asyncio.Event()
        self.deaf = asyncio.Event()
        """It was told of changes once, and has lost that."""
        self._opened = opened
        self._changed = changed
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self.idle_since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._ready: asyncio.Future[_Opened] = self._loop.create_future()
        self.task = asyncio.create_task(self._live())

    @property
    def is_over(self) -> bool:
        return self.ended.is_set() or self.task.done()

    async def ask(self, ask: Ask[T]) -> T:
        self.users += 1
        if self._timer is not None:
            self._timer.cancel()
        guarded: Guarded | None = None
        try:
            client, guarded = await self._connected()
            self.was_used = True
            return await ask(client)
        except MCPError as error:
            if len(error.message) > self._settings.answer_bytes_max:  # of a command nobody has counted the bytes
                raise Failure(502, TOO_LARGE.format(self._settings.answer_bytes_max)) from None
            raise _failure(error, guarded) or error from None
        except ValidationError as error:
            place = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
            raise Failure(502, f"{UNREADABLE[:-1]}: {place}." if place else UNREADABLE) from None
        finally:
            self.users -= 1
            self.idle_since = self._loop.time()
            if not self.users:
                self._timer = self._loop.call_later(self._settings.idle_s, self.ended.set)

    async def _connected(self) -> _Opened:
        either: set[asyncio.Future[Any]] = {self._ready, self.task}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.done():
            return self._ready.result()
        raise _reason(None if self.task.cancelled() else self.task.exception())

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                opened = await stack.enter_async_context(self._opened(self.ended))
            self._ready.set_result(opened)
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(opened.client))
                await self.ended.wait()
                listening.cancel()

    async def _listen(self, client: Client) -> None:
        """Since MCP 2026-07-28 a server tells of changes those alone who ask for it, as long as they listen."""
        tools = client.server_capabilities.tools
        if tools is None or not tools.list_changed:
            return
        with suppress(MCPError, RuntimeError):  # refused, not known there, or ended before it began
            async with client.listen(tools_list_changed=True) as changes:
                if not changes.honored.tools_list_changed:
                    return
                with suppress(SubscriptionLost):
                    async for _ in changes:
                        pass  # the client hears of it, too
                self.deaf.set()
                self._changed()  # they may be others soon, and nobody would tell


def _failure(error: MCPError, guarded: Guarded | None) -> Failure | None:
    """What was no answer of the server's."""
    if error.code == HTTP_FAULT and isinstance(error.data, dict):
        is_lost = bool(error.data.get("lost"))
        return Failure(int(error.data.get("status", 502)), error.message, is_undelivered=is_lost)
    if error.code == PARSE_ERROR and error.message.startswith("Failed to parse "):  # the SDK's own, with its inside
        return Failure(502, UNREADABLE)
    if error.code == CONNECTION_CLOSED and error.message.startswith(LOST):
        trouble = guarded.trouble if guarded is not None and not guarded.is_two_way else None
        return Failure(*(trouble or (502, "The connection to the server was lost.")))
    return None


def _reason(error: BaseException | None) -> Failure | MCPError:
    """Why there is no connection."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case MCPError():
            return _failure(error, None) or error
        case TimeoutError():
            return Failure(504, "The server took too long to answer.", is_undelivered=True)
        case httpx2.HTTPStatusError():
            return Failure(error.response.status_code, "The server answered with an error.", is_undelivered=True)
        case OSError():
            return Failure(502, "The server could not be started.", is_undelivered=True)
        case _:
            return Failure(502, "No connection to the server could be made.", is_undelivered=True)


# -- ways to a server


def _client(changed: Callable[[], object], ended: asyncio.Event, transport: AbstractAsyncContextManager[Any]) -> Client:
    async def heard(message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            changed()

    info = Implementation(name="antiphon", version=antiphon.__version__)
    return Client(_watched(transport, ended), client_info=info, cache=None, message_handler=heard)


@asynccontextmanager
async def _command(place: Place, made: Made) -> AsyncGenerator[_Opened, None]:
    env = {name: os.environ[name] for name in place.env if name in os.environ}
    parameters = StdioServerParameters(command=place.command[0], args=list(place.command[1:]), env=env)
    async with made(stdio_client(parameters)) as client:
        yield _Opened(client)


@asynccontextmanager
async def _remote(
    place: Place, guarded: Guarded, event_bytes_max: int, ended: asyncio.Event, made: Made
) -> AsyncIterator[_Opened]:
    async with AsyncExitStack() as stack:
        client: Client | None = None
        if place.transport == "http":
            http = await stack.enter_async_context(_http(guarded, place))
            transport = streamable_http_client(place.url, http_client=http, max_sse_event_size=event_bytes_max)
            try:
                client = await stack.enter_async_context(made(transport))
            except (MCPError, ExceptionGroup):
                if not guarded.has_refused:
                    raise
        if client is None:
            ended.clear()  # it was the first transport's end
            guarded.is_two_way, guarded.trouble = False, None
            older = sse_client(place.url, httpx_client_factory=lambda *_, **__: _http(guarded, place))
            client = await stack.enter_async_context(made(older))
        yield _Opened(client, guarded)


def _http(guarded: Guarded, place: Place) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=guarded, headers=list(place.headers), trust_env=False)


@asynccontextmanager
async def _watched(transport: AbstractAsyncContextManager[Any], ended: asyncio.Event) -> AsyncIterator[Any]:
    async with transport as (incoming, outgoing):
        yield _Watched(incoming, ended), outgoing


class _Watched:
    """What comes from a server, with an eye on its end."""

    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._ended.set()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> Any:
        return await self._stream.__aexit__(*error)
