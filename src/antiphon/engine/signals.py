"""Signals: who waits for a response to have told more, in this process and through the store. Knows no event."""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from antiphon.core.runs import Runs
from antiphon.errors import StorageError
from antiphon.observe import log

Key: TypeAlias = tuple[str, str]
"""Project and id of a response."""
LOOK_S = 1.0
"""What a reader may miss for, should nothing tell it."""


class Signals:
    """One task asks the store what other processes did. It lives while somebody waits."""

    def __init__(self, runs: Runs, is_here: Callable[[Key], bool]) -> None:
        """`is_here`: whether this process makes the response, and so wakes its readers itself."""
        self._runs = runs
        self._is_here = is_here
        self._waiting: dict[Key, list[asyncio.Future[None]]] = {}
        self._watching: asyncio.Task[None] | None = None

    def expect(self, key: Key) -> "asyncio.Future[None]":
        """Done at the next change: asked for before one looks whether there has been one already."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(waiting)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return waiting

    def wake(self, key: Key) -> None:
        for waiting in self._waiting.pop(key, ()):
            if not waiting.done():
                waiting.set_result(None)

    def wake_all(self) -> None:
        for key in list(self._waiting):
            self.wake(key)

    def forget(self, key: Key, waiting: "asyncio.Future[None]") -> None:
        """Nobody waits for it any more."""
        others = self._waiting.get(key, [])
        if waiting in others:
            others.remove(waiting)
            if not others:
                del self._waiting[key]

    async def _watch(self) -> None:
        while self._waiting:
            try:
                told = await self._runs.changed(LOOK_S)
            except StorageError as error:
                log.error("the store could not be watched", error=error.message)
                await asyncio.sleep(LOOK_S)
                told = None
            for key in list(self._waiting):
                if (told is None or key[1] in told) and not self._is_here(key):
                    self.wake(key)
        self._watching = None

    async def close(self) -> None:
        self.wake_all()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
