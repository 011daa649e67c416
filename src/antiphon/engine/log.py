"""EventLog: the events of one run, written once, read by anyone from any number. Knows nothing of their meaning."""

import asyncio
from collections.abc import Callable, Sequence

from antiphon.wire.events import Event


class EventLog:
    """Append-only. Readers keep their own place, so that none can slow the run or another reader.

    `listener` is told of every change in the writer's own step, which saves a wake-up a token: it must return at once,
    and raise nothing.
    """

    __slots__ = ("_ending", "_waiting", "closed", "events", "listener")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False
        self.listener: Callable[[], None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._ending: list[asyncio.Future[None]] = []

    def extend(self, batch: Sequence[Event]) -> None:
        """Appends what one batch of deltas brought, and wakes the readers once."""
        if batch:
            assert not self.closed
            self.events.extend(batch)
            self.wake()

    def close(self) -> None:
        """No event will come any more."""
        self.closed = True
        self.wake()
        _wake(self._ending)

    def wake(self) -> None:
        if self.listener is not None:
            self.listener()
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            _wake(waiting)

    async def wait(self, known: int) -> None:
        """Returns when there are more than `known` events, or the log is closed, or somebody calls `wake`."""
        if len(self.events) > known or self.closed:
            return
        reader = asyncio.get_running_loop().create_future()
        self._waiting.append(reader)
        await reader

    async def end(self) -> None:
        """Returns when the log is closed."""
        if not self.closed:
            reader = asyncio.get_running_loop().create_future()
            self._ending.append(reader)
            await reader


def _wake(readers: Sequence[asyncio.Future[None]]) -> None:
    for reader in readers:
        if not reader.done():
            reader.set_result(None)
