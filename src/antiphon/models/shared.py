"""Embedded engines that several server processes share: `Engines` in the process that runs them, `SharedEngine` in
those that ask them. So a host holds each model once. Knows no prompt, nor how news travels between the two.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from antiphon.config import LocalModel
from antiphon.errors import SettingsError
from antiphon.models.llama_worker import CLOSED, REST_S, Ready, Supervisor, Wanted, Worker, WorkerFailed

RETRY_S = REST_S + 1
"""A supervisor that gave up tries again when it is asked after its rest."""


class News(Struct, frozen=True, kw_only=True):
    """How an engine is: it runs (`ready`), cannot run (`failure`), or is being started again."""

    engine: int
    """Which of the local models in the settings, counted from 0."""
    pid: int = 0
    key: str = ""
    ready: Ready | None = None
    ended: str = ""
    """How the one before ended."""
    failure: str = ""


class Engines:
    """Runs an engine for each of these models, and tells how they are."""

    def __init__(self, models: Sequence[LocalModel], tell: Callable[[News], None]) -> None:
        self._models = models
        self._tell = tell
        self._supervisors = [
            Supervisor(msgspec.convert(model, Wanted, from_attributes=True), start_timeout_s=model.start_timeout_s)
            for model in models
        ]
        self._watching: list[asyncio.Task[None]] = []
        self.news: list[News] = []
        """The latest of each."""

    async def start(self) -> None:
        """Returns when all are loaded. Raises SettingsError for one that cannot be."""
        for number, (model, supervisor) in enumerate(zip(self._models, self._supervisors, strict=True)):
            try:
                self.news.append(_runs(number, await supervisor.worker()))
            except WorkerFailed as failure:
                raise SettingsError(f"The model {model.name} cannot run: {failure}.") from failure
        self._watching = [asyncio.create_task(self._watch(number)) for number in range(len(self._models))]

    async def _watch(self, number: int) -> None:
        while True:
            try:
                worker = await self._supervisors[number].worker()
            except WorkerFailed as failure:
                self._say(News(engine=number, failure=str(failure)))
                await asyncio.sleep(RETRY_S)
            else:
                self._say(_runs(number, worker))
                self._say(News(engine=number, ended=await worker.wait_ended()))

    def _say(self, news: News) -> None:
        if news != self.news[news.engine]:
            self.news[news.engine] = news
            self._tell(news)

    async def close(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for supervisor in self._supervisors:
            await supervisor.close()


def _runs(number: int, worker: Worker) -> News:
    return News(engine=number, pid=worker.pid, key=worker.key, ready=worker.ready)


class SharedEngine:
    """Stands in for a `Supervisor`: it is told what becomes of a worker that another process runs."""

    def __init__(self, news: News) -> None:
        self._worker: SharedWorker | None = None
        self._is_settled = asyncio.Event()
        self.hear(news)

    def hear(self, news: News) -> None:
        if self._worker is not None:
            self._worker.end(news.ended or news.failure)
        self._failure = news.failure
        self._worker = SharedWorker(news.pid, news.key, news.ready) if news.ready else None
        if self._worker or news.failure:
            self._is_settled.set()
        else:
            self._is_settled.clear()

    async def worker(self) -> "SharedWorker":
        """The running one, as soon as there is one. Raises WorkerFailed when there is none to be had."""
        await self._is_settled.wait()
        if self._worker is None:
            raise WorkerFailed(self._failure)
        return self._worker

    async def close(self) -> None:
        self._worker, self._failure = None, CLOSED
        self._is_settled.set()


class SharedWorker:
    """A worker that runs, or ran."""

    def __init__(self, pid: int, key: str, ready: Ready) -> None:
        self.pid = pid
        self.key = key
        self.ready = ready
        self._how = ""
        self._has_ended = asyncio.Event()

    def end(self, how: str) -> None:
        self._how = how
        self._has_ended.set()

    async def ended_within(self, wait_s: float) -> str:
        """How it ended, if that is known in that time; else empty."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._has_ended.wait()
        return self._how
