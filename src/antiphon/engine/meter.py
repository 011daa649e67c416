"""Meter: adds up what was asked for and what came of it, and writes it down by the minute. Knows no HTTP.

It is added up in memory and written every few seconds: with each response's own commit, all servers on one database
would wait for each other at the one row of a minute. What a process has not written when it dies is lost: two seconds.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from antiphon.core.ids import NewId
from antiphon.core.rollups import Ending, Rollup, Rollups, Tally, class_of
from antiphon.errors import StorageError
from antiphon.observe import log
from antiphon.wire.response import Response

WRITE_S: Final = 2.0
MINUTE_S: Final = 60
KEPT_S: Final = 31 * 24 * 3600
DROPPED_AT_ONCE: Final = 1_000
SERVER: Final = ""
"""The project of what is no project's alone."""


class Meter:
    def __init__(self, rollups: Rollups, new_id: NewId, waiting: Callable[[], Awaitable[int]]) -> None:
        """`waiting` gives how many background responses wait."""
        self._rollups = rollups
        self._waiting = waiting
        self._process = f"{new_id('process')}_{os.getpid()}"
        self._tallies: dict[tuple[int, str, str], Tally] = {}
        self._changed: set[tuple[int, str, str]] = set()
        self._running = 0
        self._writing: asyncio.Task[None] | None = None

    # -- what happens

    def begun(self) -> None:
        self._running += 1
        tally = self._tally(SERVER, "")
        tally.running_max = max(tally.running_max, self._running)

    def over(self) -> None:
        """Whatever `begun` was called for is made here no longer: it has ended, or was left to others."""
        self._running -= 1

    def ended(self, project: str, response: Response, seconds: float | None, first_token_s: float | None) -> None:
        """`seconds`: how long it took here, if it was made here."""
        tally, usage, error = self._tally(project, response.model), response.usage, response.error
        _count(tally, cast("Ending", response.status), error.code if error else None)
        if seconds is not None:
            tally.durations[class_of(seconds)] += 1
        if first_token_s is not None:
            tally.first_tokens[class_of(first_token_s)] += 1
        if usage is not None:
            tally.input_tokens += usage.input_tokens
            tally.cached_tokens += usage.input_tokens_details.cached_tokens
            tally.output_tokens += usage.output_tokens
            tally.reasoning_tokens += usage.output_tokens_details.reasoning_tokens

    def refused(self, project: str, error: str) -> None:
        """A request that nothing was begun for."""
        _count(self._tally(project, ""), "refused", error)

    def _tally(self, project: str, model: str) -> Tally:
        key = (_minute(), project, model)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        self._changed.add(key)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_for_ever())
        return tally

    # -- writing

    async def close(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._written()

    async def _write_for_ever(self) -> None:
        dropped_at = 0.0
        while True:
            await asyncio.sleep(WRITE_S)
            await self._written()
            if time.monotonic() - dropped_at > MINUTE_S:
                dropped_at = time.monotonic()
                await self._drop()

    async def write(self) -> None:
        """What has changed since the last time. Raises StorageError; then it is tried again the next time."""
        if self._running or self._changed:
            tally = self._tally(SERVER, "")
            tally.running_max = max(tally.running_max, self._running)
            tally.waiting_max = max(tally.waiting_max, await self._waiting())
        changed, self._changed = self._changed, set()
        try:
            await self._rollups.write(
                [
                    Rollup(minute=minute, process=self._process, project=project, model=model, tally=self._tallies[key])
                    for key in sorted(changed)
                    for minute, project, model in (key,)
                ]
            )
        except StorageError:
            self._changed |= changed
            raise
        minute = _minute()
        for key in [key for key in self._tallies if key[0] < minute and key not in self._changed]:
            del self._tallies[key]

    async def _written(self) -> None:
        try:
            await self.write()
        except StorageError as error:
            log.warning("rollups could not be written", error=error.message)

    async def _drop(self) -> None:
        try:
            while await self._rollups.drop(_minute() - KEPT_S, DROPPED_AT_ONCE) == DROPPED_AT_ONCE:
                pass
        except StorageError as error:
            log.warning("old rollups could not be dropped", error=error.message)


def _count(tally: Tally, ending: Ending, error: str | None) -> None:
    tally.endings[ending] = tally.endings.get(ending, 0) + 1
    if error is not None:
        tally.errors[error] = tally.errors.get(error, 0) + 1


def _minute() -> int:
    now = int(time.time())
    return now - now % MINUTE_S
