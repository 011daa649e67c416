"""Both ends of the HTTP border, bare: a client on a socket, and a server whose model is played by the test.

The client sends what a well-behaved one never would, and shows what such a one hides: headers, single writes, frames.
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias
from urllib.parse import urlsplit

from antiphon import app, tools
from antiphon.api import routes
from antiphon.api.auth import Gate
from antiphon.blobs.memory import MemoryBlobs
from antiphon.config import ScriptedModel, ScriptedToolSettings, Settings, Storage, Tools
from antiphon.core import usage
from antiphon.core.deltas import Delta, Finish
from antiphon.core.fold import fold
from antiphon.core.hosted import Tool, registry
from antiphon.core.ports import Check, Count, Model, ModelCard, Sense, Store
from antiphon.core.prompt import Prompt
from antiphon.engine.catalog import Catalog
from antiphon.engine.engine import Engine
from antiphon.engine.files import Files
from antiphon.engine.keys import Keys
from antiphon.engine.world import World
from antiphon.errors import ApiError
from antiphon.net.fetch import Fetcher
from antiphon.sealing import Seal
from tests.conftest import WAIT_S, listening

ERROR_BYTES_MAX = 4096
READ_BUFFER_BYTES = 1 << 26

Body: TypeAlias = bytes | str | Mapping[str, Any] | list[Any] | None
"""Bytes and text go out as they are, anything else as JSON."""
Headers: TypeAlias = Mapping[str, str | None] | None
"""None in place of a value leaves out a header that would be sent by itself."""


# -- answers


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        """The JSON of a request that was served."""
        assert self.status == 200, self
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, after a look at all that every error promises."""
        assert 400 <= self.status < 600, self
        assert len(self.body) <= ERROR_BYTES_MAX
        assert self.headers["content-type"] == "application/json", self
        assert self.headers["x-request-id"].startswith("req_")
        document = json.loads(self.body)
        assert document.keys() == {"error"}
        error: dict[str, Any] = document["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert all(error[key] is None or isinstance(error[key], str) for key in ("param", "code"))
        assert error["type"]
        assert error["message"]
        assert "Traceback" not in error["message"]
        return error

    @property
    def refusal(self) -> tuple[int, str | None, str | None]:
        """Status, code and param."""
        return self.status, self.error["code"], self.error["param"]


class Frame(NamedTuple):
    """One server-sent event. No `event` where the frame has no such line; neither in a comment."""

    event: str | None
    data: Any
    """JSON, or the text "[DONE]"."""


COMMENT = Frame(None, None)
DONE = Frame(None, "[DONE]")


def parsed(data: bytes) -> list[Frame]:
    """Whole frames, with LF line ends and nothing but the lines this server sends; anything else is an error."""
    text = data.decode()
    assert text.endswith("\n\n"), text[-200:]
    assert text.splitlines() == text.split("\n")[:-1], "some clients end a line at U+2028 and its like"
    return [_frame(frame) for frame in text[:-2].split("\n\n")]


def _frame(text: str) -> Frame:
    event = data = None
    for line in text.split("\n"):
        name, _, value = line.partition(": ")
        if name == "event":
            assert event is None, text
            event = value
        elif name == "data":
            assert data is None, text
            data = value if value == "[DONE]" else json.loads(value)
        else:
            assert line.startswith(":"), line
    return Frame(event, data)


def events_of(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """The numbered events of a stream."""
    return [frame.data for frame in frames if frame.event is not None]


def final(frames: Sequence[Frame]) -> dict[str, Any]:
    """The response that a whole stream adds up to; raises where the stream breaks a law."""
    assert frames[-1] == DONE
    return fold(events_of(frames))


# -- the client


class Exchange:
    """One connection, and the answer to what was last sent on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self._host = host

    @classmethod
    async def open(cls, url: str, *, read_buffer_bytes: int = READ_BUFFER_BYTES) -> Self:
        """A small `read_buffer_bytes` makes a client that takes nothing before it asks for it."""
        address = urlsplit(url)
        plug = socket.socket()
        plug.setblocking(False)
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(read_buffer_bytes, 1 << 20))
        try:
            async with asyncio.timeout(WAIT_S):
                await asyncio.get_running_loop().sock_connect(plug, (address.hostname, address.port))
                reader, writer = await asyncio.open_connection(sock=plug, limit=read_buffer_bytes)
        except BaseException:
            plug.close()
            raise
        return cls(reader, writer, address.netloc)

    def send(self, method: str, path: str, body: Body = None, headers: Headers = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else _text(body).encode()
        usual = {"host": self._host}
        if body is not None:
            usual |= {"content-type": "application/json", "content-length": str(len(data))}
        fields: dict[str, str | None] = {**usual, **(headers or {})}
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
        self.writer.write(head.encode("latin-1") + data)

    async def head(self) -> Self:
        """Reads status and headers; 100 is an answer like any other."""
        async with asyncio.timeout(WAIT_S):
            data = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = data.decode("latin-1").rstrip().split("\r\n")
        self.status = int(line.split(" ")[1])
        pairs = [field.partition(":") for field in fields]
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        assert len(self.headers) == len(pairs), "a header came twice"
        return self

    async def piece(self) -> bytes:
        """The next chunk of a chunked body, which is one write of the server; empty at the end."""
        async with asyncio.timeout(WAIT_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def frames(self) -> list[Frame]:
        """What is left of a stream."""
        frames: list[Frame] = []
        while piece := await self.piece():
            frames += parsed(piece)
        return frames

    async def frames_until(self, event: str | None) -> list[Frame]:
        """What comes up to a frame of that kind, and with it."""
        frames: list[Frame] = []
        while not any(frame.event == event for frame in frames):
            piece = await self.piece()
            assert piece, f"the stream ended: {frames}"
            frames += parsed(piece)
        return frames

    async def answer(self, *, has_body: bool = True) -> Answer:
        """The whole answer."""
        await self.head()
        body = b""
        if self.headers.get("transfer-encoding") == "chunked":
            while piece := await self.piece():
                body += piece
        elif has_body:
            async with asyncio.timeout(WAIT_S):
                body = await self.reader.readexactly(int(self.headers["content-length"]))
        return Answer(self.status, self.headers, body)

    async def leave(self) -> None:
        """At once, as a client does that is killed."""
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await asyncio.wait_for(self.writer.wait_closed(), WAIT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()


def _text(body: object) -> str:
    return body if isinstance(body, str) else json.dumps(body)


@asynccontextmanager
async def exchange(
    url: str, method: str, path: str, body: Body = None, headers: Headers = None
) -> AsyncIterator[Exchange]:
    """A request that was sent; the client leaves when the block ends."""
    async with await Exchange.open(url) as one:
        one.send(method, path, body, headers)
        yield one


async def ask(url: str, method: str, path: str, body: Body = None, headers: Headers = None) -> Answer:
    """A request and its whole answer, on a connection of their own."""
    async with exchange(url, method, path, body, headers) as one:
        return await one.answer(has_body=method != "HEAD")


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "input": "say hello", **fields}


async def create(url: str, headers: Headers = None, /, **fields: Any) -> Answer:
    """POST /v1/responses, to the scripted model where no other is named."""
    return await ask(url, "POST", "/v1/responses", request(**fields), headers)


@asynccontextmanager
async def streaming(url: str, headers: Headers = None, /, **fields: Any) -> AsyncIterator[Exchange]:
    """POST /v1/responses with `stream`; nothing of the answer is read yet."""
    async with exchange(url, "POST", "/v1/responses", request(stream=True, **fields), headers) as one:
        yield one


# -- the server


class Played:
    """Port Model, under the name "played": it says what the test hands over, when the test hands it over."""

    def __init__(self) -> None:
        self.is_wanted = asyncio.Event()
        """Somebody asks for the list of models."""
        self.is_listed = asyncio.Event()
        """Cleared, it keeps whoever asks for the list of models waiting."""
        self.is_listed.set()
        self.is_asked = asyncio.Event()
        self.is_over = asyncio.Event()
        """The generator of a turn has ended, or was closed."""
        self.prompts: list[Prompt] = []
        self._batches: asyncio.Queue[tuple[Delta, ...] | ApiError | None] = asyncio.Queue()

    def say(self, *batch: Delta) -> None:
        self._batches.put_nowait(batch)

    def fail(self, error: ApiError) -> None:
        self._batches.put_nowait(error)

    def hang_up(self) -> None:
        """Ends the turn without a Finish."""
        self._batches.put_nowait(None)

    takes: frozenset[Sense] = frozenset(("image", "audio"))
    can_prefill = False

    async def cards(self, *, fresh: bool = False) -> Sequence[ModelCard]:
        del fresh
        self.is_wanted.set()
        await self.is_listed.wait()
        return [ModelCard(id="played", created=0, owned_by="test")]

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Sequence[Delta], None]:
        self.prompts.append(prompt)
        self.is_asked.set()
        try:
            while batch := await self._batches.get():
                if isinstance(batch, ApiError):
                    raise batch
                yield batch
                if isinstance(batch[-1], Finish):
                    return
        finally:
            self.is_over.set()

    def prefills(self, prompt: Prompt) -> bool:
        return self.can_prefill

    async def count(self, prompt: Prompt) -> Count:
        return Count(usage.given(prompt), is_exact=False)

    def window(self, name: str) -> int | None:
        return None

    async def check(self) -> Check:
        return Check(name="played", ok=True, detail="")

    async def start(self) -> None: ...

    async def close(self) -> None:
        return None


def scripted_in(folder: Path) -> Settings:
    """The scripted model and tool, storing in this folder."""
    return Settings(
        models=(ScriptedModel(),),
        storage=Storage(database=str(folder / "test.db")),
        tools=Tools(scripted=ScriptedToolSettings(enabled=True)),
    )


@asynccontextmanager
async def serving(settings: Settings, store: Store, *models: Model, more: Sequence[Tool] = ()) -> AsyncIterator[str]:
    """The server as `app.running` puts it together, but around these models and this store, which stays open, and with
    more tools, which come before others of their tags."""
    fetcher = Fetcher(settings.fetch, 1)
    hosted = registry([*tools.build(settings.tools, fetcher), *more], settings.limits.tool_output_chars_max)
    key = app.secret(settings)
    gate = Gate(store, key, settings.auth, settings.cors, hosts_open=False)
    blobs = MemoryBlobs(settings.storage)
    files = Files(store.files, blobs, settings.limits, app._new_id, app._now)
    inputs = app._inputs(settings, fetcher, files, store.files, blobs)
    world = World(store, hosted, settings.limits, app._new_id, app._now, Seal(key.value))
    engine = Engine(world, Catalog(models), inputs)
    engine.start()
    asgi = routes.build(engine, files, Keys(store, key, app._now), gate, settings.limits, settings.cors, strict=False)
    async with listening(asgi, settings) as address:
        yield address
