"""The one connection of a server that listens: what other servers tell each other. Knows no message's meaning."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

import psycopg
from psycopg import sql

from antiphon.stores.postgres_connection import Connection, Pool, cut

HEARTBEAT_S: Final = 5.0
"""Between questions whether anybody is still there, while nothing is told."""
ANSWER_S: Final = 5.0
"""For an answer to it. A connection that has died in silence is noticed then: until then, what is told is not heard."""
RETRY_S: Final = 0.5

Heard: TypeAlias = Callable[[str | None], None]
"""Takes a message. None: something may have been missed."""


class Ear:
    """Hears channels for as long as it is open, and says each time that something may have been missed: when listening
    begins, and when it ends."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._channels: dict[str, Heard] = {}
        self._task: asyncio.Task[None] | None = None
        self.is_listening = False

    def hear(self, channel: str, heard: Heard) -> None:
        """Before it is opened."""
        self._channels[channel] = heard

    def open(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._listen_for_ever())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _listen_for_ever(self) -> None:
        while True:
            with suppress(psycopg.Error):
                connection = await self._pool.connect()
                try:
                    await self._listen(connection)
                finally:
                    self._listens(is_so=False)
                    await connection.close()
            await asyncio.sleep(RETRY_S)

    async def _listen(self, connection: Connection) -> None:
        names = (sql.SQL("LISTEN {}").format(sql.Identifier(channel)) for channel in self._channels)
        await connection.execute(sql.SQL(";").join(names))
        self._listens(is_so=True)
        while True:
            async for message in connection.notifies(timeout=HEARTBEAT_S):
                self._channels[message.channel](message.payload)
            beat = asyncio.get_running_loop().call_later(ANSWER_S, cut, connection)
            await connection.execute("SELECT 1")
            beat.cancel()

    def _listens(self, *, is_so: bool) -> None:
        self.is_listening = is_so
        for heard in self._channels.values():
            heard(None)
