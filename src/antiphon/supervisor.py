"""`antiphon serve --workers N`: one small process that keeps N workers running, and the embedded models they share.

How it works. It takes the port, loads the local models, starts the first worker, which brings the database up to date
by itself, and then the others. A worker (worker.py) is a fresh interpreter. What it shall do comes on its stdin as JSON
lines: `Orders`, then `News` of the models; it answers with one, `Serves` or `Fails`. Each has a socket of its own, all
on one port, over which the system shares out connections. It is closed when its worker ends unasked, so that the others
get what comes until the next is there; a worker that replaces one takes over its socket, with what waits in it.

SIGTERM and SIGINT are passed on: each worker ends as a single server would. SIGHUP replaces them, one by one. A worker
whose stdin closes was replaced, or is alone: it accepts no more, and ends its work. So none outlives this process long.

Knows no HTTP, no store and no run.
"""

import asyncio
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from antiphon import models, observe
from antiphon.config import LocalModel, Settings
from antiphon.errors import AntiphonError, SettingsError
from antiphon.listener import Port
from antiphon.models.llama_worker import explained
from antiphon.models.shared import Engines, News

START_S = 120.0
"""For a worker to serve. It takes a second, or longer where the database is migrated."""
END_S = 15.0
"""Beyond limits.shutdown_grace_s; then a worker that has not ended is killed."""
STEADY_S = 60.0
"""A worker that lived as long did not end soon after its start."""
RESTART_FIRST_S = 0.1
"""The wait before a restart, doubled with each in a row that ended soon after its start."""
RESTART_DOUBLINGS_MAX = 7


class Orders(Struct, frozen=True, kw_only=True):
    """The first line to a worker."""

    number: int
    """Counted from 1."""
    settings: Settings
    listener: int
    """The descriptor of the socket, which the worker inherits."""
    engines: list[News]


class Serves(Struct, frozen=True, tag=True):
    """The worker serves."""


class Fails(Struct, frozen=True, tag=True):
    """It cannot."""

    message: str
    is_settings: bool


Answer: TypeAlias = Serves | Fails


def serve(settings: Settings) -> int:
    """Serves until it is told to stop (SIGTERM, SIGINT); returns the exit code. Raises AntiphonError."""
    observe.configure(settings.server.log_format, settings.server.log_level)
    return asyncio.run(_serve(models.prepared(settings)))


async def _serve(settings: Settings) -> int:
    with Port(settings.server) as port:
        supervisor = Supervisor(settings, port)
        serving = asyncio.create_task(supervisor.serve())
        stopping = asyncio.Event()

        def stop(number: int) -> None:
            supervisor.signal(number)
            stopping.set()
            serving.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        try:
            await asyncio.wait({serving})
        finally:
            await supervisor.close()
        if not stopping.is_set():
            serving.result()  # its error
    observe.log.info("stopped")
    return 0


class Supervisor:
    """The workers of one port, and the engines of the models they share."""

    def __init__(self, settings: Settings, port: Port) -> None:
        self._settings = settings
        self._port = port
        self._engines = Engines([one for one in settings.models if isinstance(one, LocalModel)], self._tell)
        self._places = [_Place(number, port, self._start) for number in range(1, settings.server.workers + 1)]
        self._workers: set[_Worker] = set()
        """All that have not ended."""
        self._renewing: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """For ever. Raises AntiphonError when a model or a worker cannot be started to begin with."""
        await self._engines.start()
        first, *others = self._places
        await first.fill()
        await asyncio.gather(*(place.fill() for place in others))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._renew)
        observe.log.info("serving", address=self._port.address, workers=len(self._places))
        await asyncio.gather(*(place.keep() for place in self._places))

    def signal(self, number: int) -> None:
        for worker in self._workers:
            worker.signal(number)

    async def close(self) -> None:
        """Ends the workers, and then the engines that they still needed."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
        if self._renewing is not None:
            self._renewing.cancel()
        for place in self._places:
            place.shut()
        self.signal(signal.SIGTERM)
        await self._wait_ended()
        self.signal(signal.SIGKILL)
        await self._wait_ended()
        await self._engines.close()

    async def _wait_ended(self) -> None:
        if self._workers:
            timeout_s = self._settings.limits.shutdown_grace_s + END_S
            await asyncio.wait([worker.ended for worker in self._workers], timeout=timeout_s)

    async def _start(self, number: int, listener: socket.socket) -> "_Worker":
        """Returns once it serves. Raises AntiphonError."""
        worker = await _Worker.spawned(listener.fileno())
        self._workers.add(worker)
        worker.ended.add_done_callback(lambda _: self._workers.discard(worker))
        engines = list(self._engines.news)
        worker.tell(Orders(number=number, settings=self._settings, listener=listener.fileno(), engines=engines))
        try:
            async with asyncio.timeout(START_S):
                await worker.wait_serves()
        except BaseException as error:
            worker.signal(signal.SIGKILL)
            if isinstance(error, TimeoutError):
                raise AntiphonError(f"Worker {number} did not serve after {START_S:g} s.") from None
            raise
        return worker

    def _tell(self, news: News) -> None:
        for worker in self._workers:
            worker.tell(news)

    def _renew(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew_all())

    async def _renew_all(self) -> None:
        """One after the other, so that all but one serve at any time."""
        for place in self._places:
            try:
                former = await place.renew()
            except AntiphonError as error:
                observe.log.error("the workers are not replaced", error=error.message)
                return
            await asyncio.wait([former.ended], timeout=self._settings.limits.shutdown_grace_s + END_S)
            former.signal(signal.SIGKILL)
        observe.log.info("the workers are replaced")


class _Place:
    """Where one worker stands, and after it the next."""

    def __init__(self, number: int, port: Port, start: Callable[[int, socket.socket], Awaitable["_Worker"]]) -> None:
        self._number = number
        self._port = port
        self._start = start
        self._listener: socket.socket | None = None
        self._worker: _Worker
        self._filling = asyncio.Lock()

    async def fill(self) -> None:
        """Raises AntiphonError."""
        if self._listener is None:
            self._listener = self._port.listener()
        self._worker = await self._start(self._number, self._listener)

    def shut(self) -> None:
        """Gives up its socket, which lives on for as long as a worker holds it."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def keep(self) -> None:
        early = 0
        while True:
            worker, began = self._worker, time.monotonic()
            how = await asyncio.shield(worker.ended)
            async with self._filling:
                is_lost = worker is self._worker
                early = 0 if time.monotonic() - began > STEADY_S else early + 1
                while is_lost:
                    self.shut()
                    observe.log.error("a worker ended; it is started again", worker=self._number, how=how)
                    await asyncio.sleep(RESTART_FIRST_S * 2 ** min(early, RESTART_DOUBLINGS_MAX))
                    early += 1
                    try:
                        await self.fill()
                        is_lost = False
                    except AntiphonError as error:
                        how = error.message

    async def renew(self) -> "_Worker":
        """Puts another in its place, and gives the former, which is ending. Raises AntiphonError; then it stays."""
        async with self._filling:
            former = self._worker
            await self.fill()
        former.retire()
        return former


class _Worker:
    """A worker process."""

    def __init__(self, process: Process) -> None:
        assert process.stdin and process.stdout  # noqa: PT018 -- piped in `spawned`
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self.ended = asyncio.create_task(self._wait_ended())
        """Gives how, in words."""

    @classmethod
    async def spawned(cls, listener: int) -> "_Worker":
        # A session of its own: Ctrl-C reaches the whole group, and it is for this process to pass it on.
        flags = [] if str(Path.cwd()) in sys.path else ["-P"]
        command = (sys.executable, *flags, "-m", "antiphon.worker")
        try:
            return cls(
                await asyncio.create_subprocess_exec(
                    *command, stdin=PIPE, stdout=PIPE, pass_fds=(listener,), start_new_session=True
                )
            )
        except OSError as reason:
            raise AntiphonError(f"No process can be started: {reason}.") from reason

    def tell(self, message: Orders | News) -> None:
        self._stdin.write(msgspec.json.encode(message) + b"\n")

    async def wait_serves(self) -> None:
        """Raises AntiphonError."""
        line = await self._stdout.readline()
        if not line:
            raise AntiphonError(f"A worker cannot start: {await self.ended}.")
        answer: Answer = msgspec.json.decode(line, type=Answer)
        if isinstance(answer, Fails):
            raise (SettingsError if answer.is_settings else AntiphonError)(answer.message)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def retire(self) -> None:
        self._stdin.close()

    async def _wait_ended(self) -> str:
        return explained(await self._process.wait(), "")
