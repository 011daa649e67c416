"""Journal: what one background run has told, written as it goes, under the fence of its attempt. Knows no model.

Who streams the run reads what is written and nothing else: so nobody has seen what an attempt that broke off never
wrote. A run whose events nobody may stream is written too, but only around its tools: so that none runs twice.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from antiphon.core.past import Past
from antiphon.core.runs import Claimed, Runs
from antiphon.engine.log import EventLog
from antiphon.engine.wholly import wholly
from antiphon.errors import StorageError
from antiphon.observe import log as logger
from antiphon.wire.events import Terminal

FLUSH_S: Final = 0.025
"""How long events gather before they are written: what a reader may lag behind, and forty transactions a second."""
RETRY_S: Final = 0.5


def time_ms() -> int:
    """In Unix milliseconds."""
    return round(time.time() * 1000)


class Left(Exception):
    """This attempt is not the last any more, or could not be written: whatever it does is nobody's."""


class Journal:
    def __init__(self, runs: Runs, claimed: Claimed, past: Past, lease_s: float, wake: Callable[[], None]) -> None:
        """`wake` is called when something has been written."""
        self.ticket = claimed.ticket
        self.past = past
        self.is_left = False
        self.is_over = False
        self._runs = runs
        self._streams = claimed.streams
        self._lease_s = lease_s
        self._wake = wake
        self._log = EventLog()
        self._written = self._opening = 0
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._stop: Callable[[], None] = lambda: None

    def keep(self, log: EventLog, stop: Callable[[], None]) -> None:
        """Writes the events of this log from now on. `stop` is called when the attempt is no longer the last."""
        self._log, self._stop = log, stop
        self._opening = not self.past.is_begun
        if self._streams:
            log.listener = self._note

    @property
    def tells_something(self) -> bool:
        """Whether another attempt would find more than a response that was begun."""
        return bool(self.past.items) or self._written > self._opening

    def leave(self) -> None:
        """From now on nothing is written."""
        self.is_left = True
        self._stop()

    async def flush(self) -> None:
        """Returns when all that was told up to now is written. Raises Left."""
        await wholly(self._flush())

    async def finish(self, final: Terminal) -> None:
        """Writes the rest, and the response as it ended. Raises Left."""
        await wholly(self._finish(final))

    async def close(self) -> None:
        """Waits for what is being written."""
        if self._timer is not None:
            self._timer.cancel()
        if self._flushing is not None:
            await asyncio.wait([self._flushing])

    def _note(self) -> None:
        self._flush_in(FLUSH_S)

    def _flush_in(self, seconds: float) -> None:
        if self._timer is None and not self.is_left and not self.is_over:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._start_flush)

    def _start_flush(self) -> None:
        self._flushing = asyncio.create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        """One that cannot be written is tried again, until the lease ends and with it the attempt."""
        wait_s = FLUSH_S
        try:
            await self._flush()
        except Left:
            return
        except StorageError as error:
            logger.error("the events of a response could not be written", response=self._id, error=error.message)
            wait_s = RETRY_S
        finally:
            self._timer = None
        if self._written < len(self._log.events):
            self._flush_in(wait_s)

    async def _flush(self) -> None:
        async with self._lock:
            events = self._log.events[self._written :]
            if not events or self.is_over:
                return
            now_ms = time_ms()
            until_ms = now_ms + round(self._lease_s * 1000)
            if self.is_left or not await self._runs.append(self.ticket, events, now_ms, until_ms):
                self._lose()
            self._written += len(events)
        self._wake()

    async def _finish(self, final: Terminal) -> None:
        async with self._lock:
            try:
                events = [*self._log.events[self._written :], final]
                if self.is_left or not await self._runs.finish(self.ticket, final.response, events, time_ms()):
                    self._lose()
            except StorageError as error:
                logger.error("a response could not be saved", response=self._id, error=error.message)
                raise Left from error
            self.is_over = True
        self._wake()

    def _lose(self) -> None:
        if not self.is_left:
            logger.warning("a response is made by somebody else now", response=self._id)
            self.leave()
        raise Left

    @property
    def _id(self) -> str:
        return self.ticket.response_id
