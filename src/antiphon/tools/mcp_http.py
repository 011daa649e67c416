"""How the MCP SDK's HTTP reaches a server: through this server's own client and its rules. Knows no tool and no call.

The SDK resolves no name and opens no socket here: for each origin the addresses are looked up and judged
(net/fetch.py), and connections go to one that was judged, as long as it answers. Nothing is raised for what a server
does or fails to do, since that would end every call on the connection: it becomes a JSON-RPC error, with its HTTP
status in the data.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import httpx2
import msgspec
from msgspec import Struct

from antiphon.net import h1
from antiphon.net.address import Refused, Target, parse
from antiphon.net.fetch import UNREACHABLE

HTTP_FAULT: Final = -32099
"""The code of errors that are no JSON-RPC of the server's. In the range that is left to implementations."""
TOO_LARGE: Final = "The answer is larger than {:,} bytes."
OWN_HEADERS: Final = frozenset({b"host", b"content-length", b"connection", b"accept-encoding", b"user-agent"})
SILENCE_S: Final = 300.0
"""A stream may say nothing for long; calls have a limit of their own."""
REFUSALS: Final = frozenset({400, 404, 405})
"""Of a handshake by streamable HTTP, upon which the older SSE is tried (MCP 2025-06-18, backwards compatibility)."""
Reach = Callable[[Target], Awaitable[Sequence[str]]]


class Message(Struct):
    """What of a JSON-RPC message matters here."""

    id: Any = None
    method: str = ""
    error: Any = None


class Trouble(NamedTuple):
    """Why an answer is none. `status` is HTTP's, or what a gateway would have answered."""

    status: int
    reason: str


class Guarded(httpx2.AsyncBaseTransport):
    def __init__(
        self,
        reach: Reach,
        tls: Callable[[], ssl.SSLContext],
        *,
        connect_timeout_s: float,
        bytes_max: int,
        ended: Callable[[], None],
    ) -> None:
        """`ended` is called when a message is lost whose answer would come another way, so that nobody waits for it."""
        self.has_refused = False
        """The handshake, in such a way that the older transport may be tried."""
        self.trouble: Trouble | None = None
        """The last there was."""
        self.is_two_way = True
        """Answers come to their requests, not by a stream beside them."""
        self._reach = reach
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._bytes_max = bytes_max
        self._ended = ended
        self._clients: dict[tuple[str, str, int], h1.Client] = {}
        self._opened: list[h1.Client] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        asked = _message(body)
        try:
            answer = await self._ask(request, body, may_repeat=asked.method != "tools/call")
            return await self._response(request, answer, asked)
        except Refused as error:
            trouble = Trouble(502, f"The address cannot be used: {error}.")
        except h1.Silent:
            trouble = Trouble(504, "The server said nothing for too long.")
        except h1.Unreachable:
            trouble = Trouble(502, "No connection to the server, or none that is secure, could be made.")
        except h1.Fault:
            trouble = Trouble(502, "The server broke off, or does not speak HTTP.")
        return self._troubled(trouble, asked)

    async def aclose(self) -> None:
        for client in self._opened:
            await client.close()

    async def _ask(self, request: httpx2.Request, body: bytes, *, may_repeat: bool) -> h1.Answer:
        target = parse(str(request.url))
        headers = b"".join(
            b"%s: %s\r\n" % (name, value) for name, value in request.headers.raw if name.lower() not in OWN_HEADERS
        )
        origin = (target.scheme, target.host, target.port)
        known, fault = self._clients.get(origin), None
        if known is not None:
            try:
                return await known.request(request.method, target.path, body, headers, may_repeat=may_repeat)
            except h1.Unreachable:  # so nothing has arrived
                self._clients.pop(origin, None)
        for address in await self._reach(target):
            client = self._client(target, address)
            try:
                answer = await client.request(request.method, target.path, body, headers, may_repeat=may_repeat)
            except h1.Unreachable as error:
                fault = error
                continue
            self._clients[origin] = client
            self._opened.append(client)
            return answer
        raise fault or Refused("address", UNREACHABLE)

    def _client(self, target: Target, address: str) -> h1.Client:
        return h1.Client(
            target.host,
            target.port,
            address=address,
            headers={"Accept-Encoding": "identity", "User-Agent": "antiphon"},
            tls=self._tls() if target.scheme == "https" else None,
            connect_timeout_s=self._connect_timeout_s,
            silence_timeout_s=SILENCE_S,
            inflate=False,
        )

    async def _response(self, request: httpx2.Request, answer: h1.Answer, asked: Message) -> httpx2.Response:
        if answer.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            answer.close()
            return self._troubled(Trouble(502, "The server compressed its answer, though asked not to."), asked)
        kept = {name: value for name, value in answer.headers.items() if name in ("content-type", "location")}
        if session := answer.headers.get("mcp-session-id"):
            kept["mcp-session-id"] = session
        if answer.status < 300 and "text/event-stream" in kept.get("content-type", "").lower():
            return httpx2.Response(answer.status, headers=kept, stream=_Body(answer))
        try:
            content = await _whole(answer, self._bytes_max)
        finally:
            answer.close()
        if content is None:
            return self._troubled(Trouble(502, TOO_LARGE.format(self._bytes_max)), asked)
        if answer.status < 400:
            return httpx2.Response(answer.status, headers=kept, content=content)
        if asked.method == "initialize" and answer.status in REFUSALS:
            self.has_refused = True
        is_lost = answer.status == 404 and "mcp-session-id" in request.headers
        if _message(content).error is not None and not is_lost:
            return httpx2.Response(answer.status, headers=kept, content=content)
        return self._troubled(Trouble(answer.status, "The server answered with an error."), asked, is_lost=is_lost)

    def _troubled(self, trouble: Trouble, asked: Message, *, is_lost: bool = False) -> httpx2.Response:
        self.trouble = trouble
        if not self.is_two_way:
            self._ended()
        data = {"status": trouble.status, "lost": is_lost}
        error = {"code": HTTP_FAULT, "message": trouble.reason, "data": data}
        content = msgspec.json.encode({"jsonrpc": "2.0", "id": asked.id, "error": error})
        return httpx2.Response(trouble.status, headers={"content-type": "application/json"}, content=content)


class _Body(httpx2.AsyncByteStream):
    """A stream of events. Closed early, its connection goes with it, which tells the server."""

    def __init__(self, answer: h1.Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._answer.read():
                yield piece
        except h1.Fault as error:
            raise httpx2.ReadError(str(error)) from None

    async def aclose(self) -> None:
        self._answer.close()


async def _whole(answer: h1.Answer, bytes_max: int) -> bytes | None:
    """The body; None where it is larger."""
    pieces, size = [], 0
    while piece := await answer.read():
        pieces.append(piece)
        size += len(piece)
        if size > bytes_max:
            return None
    return b"".join(pieces)


def _message(content: bytes) -> Message:
    try:
        return msgspec.json.decode(content or b"{}", type=Message)
    except msgspec.DecodeError:
        return Message()
