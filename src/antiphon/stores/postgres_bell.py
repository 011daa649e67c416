"""Bell: what servers on one PostgreSQL tell each other of background responses. Knows no row, and no run.

It is rung behind a commit, not in it: PostgreSQL lets transactions that hold a message commit one after the other, each
with its wait for the disk. A server that dies in between has told nothing, so whoever waits looks by itself too, seldom
while messages can be heard and often while they cannot.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from antiphon.observe import log
from antiphon.stores.postgres_connection import Pool, outcome_of
from antiphon.stores.postgres_ear import Ear
from antiphon.stores.postgres_play import ask

CHANNEL: Final = "antiphon_runs"
RING: Final = f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', ?)"
"""A message is not worth a wait for the disk."""
CALL: Final = "!"
ANY: Final = "*"
"""Instead of ids, when they are too many."""
WORDS_MAX: Final = 100
"""In a message, which PostgreSQL limits to 8000 bytes; and kept for who does not ask."""
PAUSE_S: Final = 0.005
"""Between two messages: what is told meanwhile goes in one."""
LOOK_S: Final = 0.1
"""Between looks while nothing can be heard."""
SWEEP_S: Final = 1.0
"""Between looks for runs, for what a server that died has not told."""


class Bell:
    """Implements News."""

    def __init__(self, pool: Pool, ear: Ear) -> None:
        self._pool = pool
        self._ear = ear
        ear.hear(CHANNEL, self._heard)
        self._me = secrets.token_hex(8)
        self._words: set[str] = set()
        self._ringing: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        self._is_told = asyncio.Event()
        self._called: Callable[[], None] = lambda: None

    # -- hearing

    def hear(self, called: Callable[[], None]) -> float:
        self._called = called
        self._ear.open()
        return SWEEP_S

    async def changed(self, timeout_s: float) -> Collection[str] | None:
        self._ear.open()
        try:
            async with asyncio.timeout(timeout_s if self._ear.is_listening else min(timeout_s, LOOK_S)):
                await self._is_told.wait()
        except TimeoutError:
            return None
        self._is_told.clear()
        told, self._told = self._told, set()
        return None if ANY in told else told

    def _heard(self, message: str | None) -> None:
        sender, *words = (message or f"? {CALL} {ANY}").split()
        if sender == self._me:
            return
        if CALL in words:
            self._called()
        self._told.update(words if len(self._told) < WORDS_MAX else [ANY])
        self._is_told.set()

    # -- telling

    def tell(self, response_id: str) -> None:
        self._words.add(response_id)
        if self._ringing is None:
            self._ringing = asyncio.create_task(self._ring())

    def call(self) -> None:
        self.tell(CALL)

    async def _ring(self) -> None:
        while self._words:
            words, self._words = self._words, set()
            told = words if len(words) <= WORDS_MAX else {CALL, ANY}
            job = partial(ask, queries=[(RING, (" ".join([self._me, *told]),))])
            outcome = await outcome_of(self._pool.run(job))
            if isinstance(outcome, BaseException):  # others look by themselves
                log.warning("other servers could not be told of background responses", error=str(outcome))
            await asyncio.sleep(PAUSE_S)
        self._ringing = None

    async def close(self) -> None:
        """Returns when all is told."""
        if self._ringing is not None:
            await asyncio.wait([self._ringing])
