"""A server on 127.0.0.1 that plays scripts, one per request: for what a well-behaved HTTP server would never do."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Wire:
    """One request's connection, as its script sees it."""

    def __init__(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked = asked
        self.is_reusable = False
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def wait_gone(self) -> None:
        """Until the other side has closed."""
        try:
            while await self._reader.read(4096):
                pass
        except ConnectionError:
            return


Script: TypeAlias = Callable[[Wire], Awaitable[None]]


class RawServer:
    """Plays the scripts in order, the last one for all further requests."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self._scripts = list(scripts)
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            while asked := await _read_request(reader):
                self.asked.append(asked)
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                wire = Wire(asked, reader, writer)
                await script(wire)
                if not wire.is_reusable:
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the test is over
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    line, *fields = head.rstrip().split("\r\n")
    method, path, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Asked(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def answers(body: bytes, *, status: int = 200, kind: str = "application/json", headers: Iterable[str] = ()) -> Script:
    """A whole answer, after which the connection may be used again."""

    async def script(wire: Wire) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
        await wire.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        wire.is_reusable = True

    return script


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def streams(*pieces: bytes) -> Script:
    """An event stream, whole."""

    async def script(wire: Wire) -> None:
        await wire.send(HEAD)
        for piece in pieces:
            await wire.send(chunked(piece))
        await wire.send(b"0\r\n\r\n")
        wire.is_reusable = True

    return script


def breaks_off(*pieces: bytes) -> Script:
    """An event stream whose connection is lost."""

    async def script(wire: Wire) -> None:
        await wire.send(HEAD + b"".join(map(chunked, pieces)))

    return script


def stalls(*pieces: bytes, gone: asyncio.Event) -> Script:
    """An event stream that stops without an end; tells when the other side has left."""

    async def script(wire: Wire) -> None:
        await wire.send(HEAD + b"".join(map(chunked, pieces)))
        await wire.wait_gone()
        gone.set()

    return script


async def hangs_up(_: Wire) -> None:
    """No answer at all."""
