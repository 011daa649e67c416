"""Locks: the conversations in which runs of this process are, kept from everybody else while they are. Knows no run."""

import asyncio

from antiphon.core.ids import Clock
from antiphon.core.ports import Conversations, Lock
from antiphon.errors import StorageError
from antiphon.observe import log

LEASE_S = 30
"""How long a conversation stays locked after a crash."""


class Locks:
    """One task renews them all. It lives while there are any, so that a plain request pays for nothing."""

    def __init__(self, store: Conversations, clock: Clock, *, renew_every_s: float = LEASE_S / 3) -> None:
        self._store = store
        self._clock = clock
        self._renew_every_s = renew_every_s
        self._held: dict[str, Lock] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def take(self, lock: Lock, version: int) -> None:
        """Raises ConversationLocked, also where the conversation has changed since it was of this version."""
        now = self._clock()
        try:
            await self._store.lock(lock, version=version, now=now, until=now + LEASE_S)
        except asyncio.CancelledError:  # it may have been taken nevertheless
            await self._store.release(lock)
            raise
        self._held[lock.response_id] = lock
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())

    def forget(self, response_id: str) -> None:
        """It was released, with what its run left there."""
        self._held.pop(response_id, None)
        if self._renewing is not None and not self._held:
            self._renewing.cancel()
            self._renewing = None

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_s)
            try:
                await self._store.renew([*self._held.values()], until=self._clock() + LEASE_S)
            except StorageError as error:  # the next time, perhaps: there are two before they end
                log.error("the locks of conversations could not be renewed", error=error.message)
