"""A small HTTP/1.1 client: requests out, bodies in as they arrive. Knows no retry, no meaning, no server's manners.

Written by hand because it is the hot path: every token of every stream passes here. bench/README.md has what it saves
beside aiohttp. httptools parses.
"""

import asyncio
import math
import os
import socket
import ssl
import zlib
from collections import deque
from collections.abc import Mapping
from typing import cast

import httptools

BUFFER_BYTES_MAX = 1024 * 1024
"""What may wait for its reader before the socket is no longer read."""
META_BYTES_MAX = 64 * 1024
"""A head, or what else comes without a piece of body: interim answers, a chunk's extensions, trailers. What one read
brings beyond it is seen only when it is there."""
INFLATED = frozenset({"gzip", "x-gzip", "deflate"})
GATHERED_BYTES = 64 * 1024
"""Enough for one step of a reader that gathers."""
IDLE_CONNECTIONS_MAX = 256
IDLE_SECONDS_MAX = 30.0
"""Below the keep-alive time of common servers, so that a connection is seldom closed just as it is used again."""


class Fault(Exception):
    """Something went wrong below HTTP's meaning."""


class Unreachable(Fault):
    """There is no connection. `may_pass`: another try may find one."""

    def __init__(self, reason: str, *, may_pass: bool) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


class Broken(Fault):
    """The connection was lost."""


class NotHttp(Fault):
    """The server does not speak HTTP."""


class Silent(Fault):
    """The server said nothing for too long."""


class Client:
    """Connections to one server. `connect_timeout_s` covers name resolution and TLS.

    With an `address` nothing is resolved: connections go there, while `host` stays the name that the server is called
    by and that its certificate must bear. A body comes as it was sent when it is not inflated.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float,
        silence_timeout_s: float,
        reuse: bool = True,
        inflate: bool = True,
        address: str | None = None,
    ) -> None:
        self.inflates = inflate
        self._host = host
        self._address = address or host
        self._port = port
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._reuse = reuse
        named = f"[{host}]" if ":" in host else host
        default_port = 443 if tls else 80
        lines = {"Host": named if port == default_port else f"{named}:{port}"} | dict(headers)
        if not reuse:
            lines["Connection"] = "close"
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: bytes = b"", *, may_repeat: bool = True
    ) -> "Answer":
        """The answer, once its head is there. `headers` are further lines, each with its end. A request that may not be
        repeated fails when a connection breaks that was used before: perhaps it has arrived. Raises a Fault."""
        head = b"%s %s HTTP/1.1\r\n%s%s" % (method.encode(), path.encode("ascii"), self._head, headers)
        message = b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body) if body else head + b"\r\n"
        while (connection := self._take_idle()) is not None:
            try:
                return await self._ask(connection, message)
            except Broken:
                if not may_repeat:
                    raise
                continue  # the server closed it between two uses: nothing was lost but the connection
        return await self._ask(await self._connect(), message)

    async def close(self) -> None:
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        self._idle.clear()

    async def _ask(self, connection: "_Connection", message: bytes) -> "Answer":
        self._busy.add(connection)
        answer = Answer(self, connection, self._silence_timeout_s)
        connection.send(answer, message)
        try:
            await answer.wait_for_head()
        except BaseException:
            answer.close()
            raise
        return answer

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        name = self._host if self._tls else None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    _Connection, self._address, self._port, ssl=self._tls, server_hostname=name
                )
        except TimeoutError:
            raise Unreachable(f"no connection within {self._connect_timeout_s:g} s", may_pass=False) from None
        except (socket.gaierror, ssl.SSLError) as error:
            raise Unreachable(_reason(error), may_pass=False) from None
        except OSError as error:
            raise Unreachable(_reason(error), may_pass=True) from None
        return connection

    def _take_idle(self) -> "_Connection | None":
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_lost and now - connection.idle_since < IDLE_SECONDS_MAX:
                return connection
            connection.abort()
        return None

    def give_back(self, connection: "_Connection", *, usable: bool) -> None:
        self._busy.discard(connection)
        if usable and self._reuse and not connection.is_lost:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
            if len(self._idle) > IDLE_CONNECTIONS_MAX:
                self._idle.popleft().abort()
        else:
            connection.abort()


def _reason(error: OSError) -> str:
    """What the system calls it. uvloop says "Connect call failed" with the address: the number tells more."""
    is_plain = (error.errno or 0) > 0 and not isinstance(error, ssl.SSLError)  # names and TLS have their own numbers
    return os.strerror(error.errno or 0) if is_plain else error.strerror or str(error)


class Answer:
    """One answer: its head, and its body as it comes. Close it when done; closed early, the connection goes with it."""

    __slots__ = (
        "_chunks",
        "_client",
        "_connection",
        "_error",
        "_gathers",
        "_inflater",
        "_is_paused",
        "_loop",
        "_silence_s",
        "_size",
        "_timer",
        "_waiter",
        "_waits_since_s",
        "headers",
        "is_complete",
        "keep_alive",
        "status",
    )

    def __init__(self, client: Client, connection: "_Connection", silence_s: float) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case; of a repeated one the last."""
        self.is_complete = False
        self.keep_alive = False
        self._client = client
        self._connection: _Connection | None = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_paused = False
        self._gathers = False
        self._inflater: zlib._Decompress | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._silence_s = silence_s
        self._waits_since_s = math.inf
        self._timer = self._loop.call_later(silence_s, self._tick)

    async def wait_for_head(self) -> None:
        while not self.status and self._error is None:
            await self._wait()
        if self._error is not None and not self.status:
            raise self._error

    async def read(self) -> bytes:
        """What has arrived since the last read, waiting for something; empty at the end of the body."""
        while not self._chunks:
            if self.is_complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        chunks, self._chunks, self._size = self._chunks, [], 0
        if self._is_paused and self._connection is not None:
            self._is_paused = False
            self._connection.resume()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def read_gathered(self, wait_s: float) -> bytes:
        """The same, but waits up to `wait_s` for more to come with it: for a reader that nobody waits for."""
        if not self.is_complete and self._error is None and self._size < GATHERED_BYTES:
            self._gathers = True
            timer = self._loop.call_later(wait_s, self._wake)
            try:
                await self._wait()
            finally:
                timer.cancel()
                self._gathers = False
        return await self.read()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._timer.cancel()
            connection.answer = None
            self._client.give_back(connection, usable=self.is_complete and self.keep_alive)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        self._waits_since_s = self._loop.time()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._waits_since_s = math.inf

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the connection tells

    def on_data(self) -> None:
        """Something was parsed: the reader may have something to read."""
        if self.status and not (self._gathers and not self.is_complete and self._size < GATHERED_BYTES):
            self._wake()

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        self.headers = headers
        self.status = status
        if self._client.inflates and headers.get("content-encoding", "").lower() in INFLATED:
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, whichever it is

    def on_body(self, data: bytes) -> None:
        if self._inflater is not None:
            try:
                data = self._inflater.decompress(data)
            except zlib.error:
                self.on_error(NotHttp())
                return
        self._chunks.append(data)
        self._size += len(data)
        if self._size > BUFFER_BYTES_MAX and not self._is_paused and self._connection is not None:
            self._is_paused = True
            self._connection.pause()

    def on_end(self, *, keep_alive: bool) -> None:
        self.is_complete = True
        self.keep_alive = keep_alive

    def on_error(self, error: Exception) -> None:
        if not self.is_complete and self._error is None:
            self._error = error
            self._wake()

    @property
    def ends_with_connection(self) -> bool:
        """A body without a length lasts until the server closes."""
        chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        return bool(self.status) and not chunked and "content-length" not in self.headers

    def _tick(self) -> None:
        """One timer an answer, not one a read: it looks how long the read in progress has waited. Time that the reader
        spends elsewhere is not the server's silence."""
        waited_s = max(0.0, self._loop.time() - self._waits_since_s)
        if waited_s >= self._silence_s:
            self.on_error(Silent())
        else:
            self._timer = self._loop.call_later(self._silence_s - waited_s, self._tick)


class _Connection(asyncio.Protocol):
    """One socket and its parser. Parser callbacks are named by httptools."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.is_lost = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called for each chunk: for most servers that is each token
        self._meta_bytes_left = META_BYTES_MAX

    def send(self, answer: Answer, message: bytes) -> None:
        self.answer = answer
        self._meta_bytes_left = META_BYTES_MAX
        self._parser = httptools.HttpResponseParser(self)
        if self._transport is None or self.is_lost:
            answer.on_error(Broken())
        else:
            self._transport.write(message)

    def pause(self) -> None:
        if self._transport is not None and not self.is_lost:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self.is_lost:
            self._transport.resume_reading()

    def abort(self) -> None:
        self.is_lost = True
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None or answer.is_complete or self._parser is None:
            self.abort()  # bytes nobody asked for: whatever they are, the next answer must not begin with them
            return
        self._meta_bytes_left -= len(data)  # a piece of body makes it whole again
        is_http = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            is_http = False
        self._hand_over(answer)
        if not is_http or self._meta_bytes_left < 0:
            answer.on_error(NotHttp())
            self.abort()
        answer.on_data()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        answer = self.answer
        if answer is None or answer.is_complete:
            return
        if exc is None and answer.ends_with_connection:
            answer.on_end(keep_alive=False)
            answer.on_data()
        else:
            answer.on_error(Broken())

    # -- httptools

    def on_message_begin(self) -> None:
        if self.answer is not None and self.answer.is_complete:
            raise ValueError("an answer that nobody asked for")  # to the parser, which stops there
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200 and self.answer is not None:  # an interim answer is followed by the real one
            self.answer.on_head(status, self._headers)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self.answer is not None and self.answer.status:
            self._hand_over(self.answer)
            self.answer.on_end(keep_alive=self._parser.should_keep_alive())

    def _hand_over(self, answer: Answer) -> None:
        """The pieces of body that one read brought."""
        if self._pieces:
            answer.on_body(b"".join(self._pieces))
            self._pieces.clear()
            self._meta_bytes_left = META_BYTES_MAX
