"""The fake upstream: a chat-completions server whose model names say what it sends; it never reads the prompt.

Unpaced streams take turns: every turn of the event loop sends one token of each, and as each is one write it is one
send(2) and usually one TCP segment. How many of them a relay reads at once is then up to how fast the relay is.
A paced stream sends its tokens at their times, to the millisecond that the loop's timers have.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Callable
from typing import cast

import httptools
import msgspec
import uvloop

from bench import chunks
from bench.fakemodel import FakeModel, fake_model
from bench.measures import MEASURES

CLOSED_MAX = 100_000
PROBE = re.compile(rb"probe-\d+")
MODELS = sorted({measure.model for measures in MEASURES.values() for measure in measures})


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Request(msgspec.Struct):
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None


class Closed(msgspec.Struct):
    """A client that left in the middle of its stream."""

    probe: str
    at_us: int


def now_us() -> int:
    return time.monotonic_ns() // 1000


class Ring:
    """The unpaced streams, served one token each per turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._streams: dict[Stream, None] = {}

    def add(self, stream: "Stream") -> None:
        if not self._streams:
            self._loop.call_soon(self._turn)
        self._streams[stream] = None

    def _turn(self) -> None:
        for stream in list(self._streams):
            if not stream.send_next():
                del self._streams[stream]
        if self._streams:
            self._loop.call_soon(self._turn)


class Upstream:
    """What all connections share: the clock, the ring, and what is told under /bench."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ring = Ring(loop)
        self.closed: list[Closed] = []
        self.active = 0

    def left(self, probe: str) -> None:
        assert len(self.closed) < CLOSED_MAX
        self.closed.append(Closed(probe, now_us()))

    def page(self, path: bytes) -> bytes:
        pages: dict[bytes, Callable[[], object]] = {
            b"/v1/models": lambda: {"object": "list", "data": [_model(name) for name in MODELS]},
            b"/bench/closed": lambda: self.closed,
            b"/bench/active": lambda: self.active,
        }
        if path not in pages:
            return chunks.missing(b"page")
        return chunks.plain(b"200 OK", msgspec.json.encode(pages[path]()))


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_750_000_000, "owned_by": "bench"}


class Stream:
    """One streamed answer: what is left to send, and when."""

    def __init__(self, connection: "Connection", model: FakeModel, *, with_usage: bool) -> None:
        self._connection = connection
        self._loop = connection.upstream.loop
        self._model = model
        self._with_usage = with_usage
        self._sent = 0
        self._due_s = 0.0
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._model.delay_ms:
            self._timer = self._loop.call_later(self._model.delay_ms / 1000, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._connection.write(chunks.HEAD)
        if self._model.tokens_per_s:
            self._due_s = self._loop.time()
            self._send_paced()
        else:
            self._connection.upstream.ring.add(self)

    def _send_paced(self) -> None:
        self._due_s += 1 / self._model.tokens_per_s
        if self.send_next():
            self._timer = self._loop.call_at(self._due_s, self._send_paced)

    def send_next(self) -> bool:
        """Whether there is more to send now."""
        if self._paused or self._connection.stream is not self:
            return False
        self._sent += 1
        if self._sent < self._model.tokens:
            self._connection.write(chunks.content(now_us()))
            return True
        rest = chunks.tail(self._model.tokens, with_usage=self._with_usage)
        self._connection.write(chunks.content(now_us()) + rest)
        self._connection.finish()
        return False

    def pause(self) -> None:
        """Only unpaced streams wait for a slow reader; a paced one is late on its own account."""
        self._paused = not self._model.tokens_per_s

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._connection.upstream.ring.add(self)

    def cancel(self) -> None:
        if self._timer:
            self._timer.cancel()


class Connection(asyncio.Protocol):
    """One client's connection; answers one request at a time."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.stream: Stream | None = None
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body = b""
        self._probe = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_begin(self) -> None:
        assert self.stream is None, "pipelining is not supported"
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._path != b"/v1/chat/completions":
            self.write(self.upstream.page(self._path))
            return
        request = msgspec.json.decode(self._body, type=Request)
        model = fake_model(request.model)
        if model is None or not model.tokens:
            self.write(chunks.missing(b"model"))
        elif request.stream:
            self._begin(model, request)
        else:
            self.upstream.loop.call_later(model.delay_ms / 1000, self._complete, model)

    def _begin(self, model: FakeModel, request: Request) -> None:
        options = request.stream_options
        probe = PROBE.search(self._body)
        self._probe = probe[0].decode() if probe else ""
        self.stream = Stream(self, model, with_usage=options is not None and options.include_usage)
        self.upstream.active += 1
        self.stream.start()

    def _complete(self, model: FakeModel) -> None:
        self.write(chunks.plain(b"200 OK", chunks.completion(model.tokens, now_us())))

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def finish(self) -> None:
        self.stream = None
        self.upstream.active -= 1

    def pause_writing(self) -> None:
        if self.stream:
            self.stream.pause()

    def resume_writing(self) -> None:
        if self.stream:
            self.stream.resume()

    def connection_lost(self, _error: Exception | None) -> None:
        if self.stream:
            self.upstream.left(self._probe)
            self.stream.cancel()
            self.finish()


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    upstream = Upstream(loop)
    server = await loop.create_server(lambda: Connection(upstream), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake chat-completions server.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
