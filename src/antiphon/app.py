"""The composition root: settings in, a running server out. The one file that knows everyone."""

import asyncio
import ctypes
import gc
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from antiphon import blobs, models, observe, tools
from antiphon.api import routes
from antiphon.api.auth import LOOPBACK, Gate
from antiphon.config import LocalModel, Settings
from antiphon.console import pages
from antiphon.core.hosted import registry
from antiphon.core.ports import Blobs, Check, Fetch, FileStore, Model, Store
from antiphon.crypto import Secret
from antiphon.documents.reader import DocumentReader
from antiphon.engine.catalog import Catalog
from antiphon.engine.copies import Copies
from antiphon.engine.engine import Engine
from antiphon.engine.files import Files
from antiphon.engine.inputs import Inputs
from antiphon.engine.keys import Keys
from antiphon.engine.retention import Sweeper
from antiphon.engine.sources import Sources
from antiphon.engine.world import World
from antiphon.errors import InvalidRequest, SettingsError
from antiphon.listener import BACKLOG, address, listen
from antiphon.models.shared import SharedEngine
from antiphon.net.address import Allowed
from antiphon.net.fetch import Fetcher
from antiphon.sealing import Seal
from antiphon.stores import open_store
from antiphon.wire import codec

GC_ALLOCATIONS = 20_000
"""Between collections: little here is cyclic, and looking for it costs every token."""
IDLE_S = 75
"""How long a connection may stand idle. Longer than clients keep theirs (httpx: 5 s), so that it is they who close it:
a server that closes one just when it is used again makes the request fail."""
LAST_WORDS_S = 5
"""Beyond limits.shutdown_grace_s, for the last events of runs that were cancelled then."""
FIRST_REQUEST_S = 0.5
"""In which a connection that was just accepted brings its request."""
MALLOC_THRESHOLD_BYTES = 256 * 1024 * 1024
"""Below it glibc takes memory from its heap: fresh mmaps make copies over 1 MB fifteen times slower."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def serve(settings: Settings) -> int:
    """Serves until it is told to stop (SIGTERM, SIGINT); returns the exit code. Raises SettingsError."""
    observe.configure(settings.server.log_format, settings.server.log_level)
    settings = models.prepared(settings)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    tune_memory()
    async with running(settings) as app:
        with listen(settings.server) as listener:
            observe.log.info("serving", address=address(listener))
            spare_collector()
            await http_server(app, settings).serve(sockets=[listener])
    observe.log.info("stopped")
    return 0


def http_server(app: routes.Api, settings: Settings) -> "HttpServer":
    """uvicorn as this project runs it. Stops by SIGTERM or SIGINT, or when its `should_exit` is set."""
    return HttpServer(
        app,
        uvicorn.Config(
            app,
            http=_Http,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=round(settings.limits.shutdown_grace_s + LAST_WORDS_S),
        ),
    )


class _Http(HttpToolsProtocol):
    """Passes over an offer to speak HTTP/2, as Java's client makes it with every first request: to uvicorn's parser it
    ends the request, body and all."""

    def data_received(self, data: bytes) -> None:
        if b"h2c" in data and data.startswith(_METHODS):
            head, end, body = data.partition(b"\r\n\r\n")
            data = _OFFER.sub(b"", head) + end + body
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP at all gets the envelope too."""
        body = codec.error_body(InvalidRequest(msg))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}x-request-id: {_new_id('req')}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


_METHODS = (b"POST ", b"GET ", b"DELETE ", b"HEAD ")
_OFFER = re.compile(rb"\r\n(?:upgrade: *h2c|http2-settings:[^\r\n]*) *(?=\r\n|\Z)", re.IGNORECASE)


class HttpServer(uvicorn.Server):
    """Ends the runs before it closes its doors: whoever asks meanwhile is told that no new work is taken.

    uvicorn raises the signal it was stopped by again once it is done, which would cut short our own ending."""

    def __init__(self, app: routes.Api, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app
        self._is_replaced = False

    def retire(self) -> None:
        """Stops, and leaves what comes from now on to the other processes that listen on the same socket."""
        self._is_replaced = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._is_replaced:
            for server in self.servers:
                server.close()
            await asyncio.sleep(FIRST_REQUEST_S)
            await asyncio.gather(self._app.stop(), super().shutdown(sockets))
        else:
            await self._app.stop()
            await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


@asynccontextmanager
async def running(settings: Settings, engines: Sequence[SharedEngine] = ()) -> AsyncGenerator[routes.Api, None]:
    """The ASGI application with everything it needs opened, and closed again afterwards. `engines`: of the local
    models, where another process runs them."""
    role = settings.server.role
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings))
        if role != "worker":
            await _refuse_open_address(settings, store)
        key = secret(settings)
        fetcher = Fetcher(settings.fetch, settings.limits.fetches_max)
        stack.push_async_callback(fetcher.close)
        kept = blobs.build(settings.storage)
        stack.push_async_callback(kept.close)
        files = Files(store.files, kept, settings.limits, _new_id, _now)
        await stack.enter_async_context(_going_on(files.sweep_for_ever()))
        sweeper = Sweeper(store.retention, _now)
        await stack.enter_async_context(_going_on(sweeper.sweep_for_ever(settings.retention)))
        sources = _sources(settings, engines)
        for source in sources:
            stack.push_async_callback(source.close)
        for source in sources:
            await source.start()
        seal, limits = Seal(key.value, settings.sealing.keys), settings.limits
        runners = list(tools.build(settings.tools, fetcher))
        for runner in runners:
            stack.push_async_callback(runner.close)
        world = World(store, registry(runners, limits.tool_output_chars_max), limits, _new_id, _now, seal)
        inputs = _inputs(settings, fetcher, files, store.files, kept)
        engine = Engine(world, Catalog(sources), inputs, prompts=settings.prompts, strict=settings.server.strict)
        stack.push_async_callback(engine.close)
        if role != "api":
            engine.start()
        gate = Gate(
            store,
            key,
            settings.auth,
            settings.cors,
            needs_keys=_is_open_address(settings),
            hosts_open=settings.server.open_without_keys,
        )
        keys = Keys(store, key, _now) if settings.auth.manage_over_http else None
        strict = settings.server.strict
        beside = pages.routes() if settings.console.enabled and role != "worker" else ()
        limits, cors = settings.limits, settings.cors
        yield routes.build(engine, files, keys, gate, limits, cors, strict=strict, role=role, beside=beside)


def _sources(settings: Settings, engines: Sequence[SharedEngine]) -> list[Model]:
    shared = iter(engines)
    return [
        models.build(one, settings.limits, next(shared, None) if isinstance(one, LocalModel) else None)
        for one in models.chosen(settings)
    ]


@asynccontextmanager
async def _going_on(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Meanwhile, and no longer."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _inputs(settings: Settings, fetch: Fetch, files: Files, store: FileStore, kept: Blobs) -> Inputs:
    documents, limits = settings.documents, settings.limits
    copies = Copies(store, kept, limits, _new_id, _now)
    sources = Sources(fetch, files, DocumentReader(documents), copies, limits, file_bytes_max=documents.bytes_max)
    return Inputs(sources, bytes_max=limits.input_bytes_max)


def secret(settings: Settings) -> Secret:
    """What keys are hashed with: beside the database, so that it moves with it, unless the settings hold it."""
    database = settings.storage.database
    if settings.server.secret:
        return Secret.given(settings.server.secret)
    if settings.storage.is_postgres:
        raise SettingsError(
            "With PostgreSQL, all servers need one secret, which hashes API keys and seals what clients keep. Put the "
            "output of `openssl rand -base64 32` into an environment variable, and name that in server.secret_env."
        )
    return Secret.ephemeral() if database == ":memory:" else Secret.beside(Path(database))


async def doctor(settings: Settings) -> list[Check]:
    """Asks everything that is configured whether it works."""
    Allowed(settings.fetch.allow)  # what is wrong there ends the start, too
    checks = []
    async with open_store(settings) as store:
        checks.append(await store.check())
    if settings.storage.is_postgres:
        checks.append(_check_secret(settings))
    checks.append(await _check_files(settings))
    for one in models.chosen(settings):
        source = models.build(one, settings.limits)
        try:
            checks.append(await source.check())
        finally:
            await source.close()
    return checks + await _check_tools(settings)


async def _check_tools(settings: Settings) -> list[Check]:
    fetcher = Fetcher(settings.fetch, settings.limits.fetches_max)
    try:
        found = [await tool.check() for tool in tools.build(settings.tools, fetcher)]
    finally:
        await fetcher.close()
    return [check for check in found if check is not None]


def _check_secret(settings: Settings) -> Check:
    try:
        secret(settings)
    except SettingsError as error:
        remedy = "export ANTIPHON_SERVER__SECRET, the same on every server"
        return Check(name="secret", ok=False, detail=error.message, remedy=remedy)
    return Check(name="secret", ok=True, detail="given by the settings")


async def _check_files(settings: Settings) -> Check:
    try:
        kept = blobs.build(settings.storage)
    except SettingsError as error:
        return Check(name="files", ok=False, detail=error.message, remedy="choose another place: [storage] files")
    try:
        return await kept.check()
    finally:
        await kept.close()


async def _refuse_open_address(settings: Settings, store: Store) -> None:
    """Without keys everybody who reaches the server may use it: then only this machine may reach it."""
    guarded = settings.auth.required or settings.auth.keys
    if _is_open_address(settings) and not guarded and not await store.keys():
        raise SettingsError(
            f"{settings.server.host} can be reached from other machines, and no key exists. Create one "
            "(antiphon keys create --project NAME), or pass --open-without-keys if everyone may use this server."
        )


def _is_open_address(settings: Settings) -> bool:
    return settings.server.host not in LOOPBACK and not settings.server.open_without_keys


def _new_id(prefix: str) -> str:
    """Begins with the time: ids made together lie together in the store's index, which halves a save's cost."""
    return f"{prefix}_{int(time.time()):08x}{_random.hex()}"


class _Random:
    """Twenty bytes of the system's randomness at a time; one system call serves two hundred."""

    BYTES, READ = 20, 4_000

    def __init__(self) -> None:
        self._read = b""
        self._place = 0

    def hex(self) -> str:
        if self._place >= len(self._read):
            self._read, self._place = secrets.token_bytes(self.READ), 0
        self._place += self.BYTES
        return self._read[self._place - self.BYTES : self._place].hex()


_random = _Random()


def _now() -> int:
    return int(time.time())


def loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.Loop


def spare_collector() -> None:
    """What start-up made stays for ever: the collector need not look at it again."""
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)


def tune_memory() -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, MALLOC_THRESHOLD_BYTES)
            libc.mallopt(M_TRIM_THRESHOLD, MALLOC_THRESHOLD_BYTES)
