"""The one connection of a server that listens: what other servers tell each other. Knows no message's meaning."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psycopg
from psycopg import sql

from antiphon.stores.postgres_connection import Connection, Pool, cut

HEARTBEAT_S: Final = 5.0
"""A connection that has died in silence is noticed after it: until then, what is told is not heard."""
RETRY_S: Final = 0.5


class Ear:
    """Hears channels for as long as it is open, and says each time that something may have been missed."""

    def __init__(self, pool: Pool, channel: str, heard: Callable[[], None]) -> None:
        """`heard` is called for each message, and when listening begins or ends."""
        self._pool = pool
        self._channel = channel
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self.is_listening = False

    def open(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._listen_for_ever())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _listen_for_ever(self) -> None:
        while True:
            with suppress(psycopg.Error):
                connection = await self._pool.connect()
                try:
                    await self._listen(connection)
                finally:
                    self.is_listening = False
                    self._heard()
                    await connection.close()
            await asyncio.sleep(RETRY_S)

    async def _listen(self, connection: Connection) -> None:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        self.is_listening = True
        self._heard()
        while True:
            async for _ in connection.notifies(timeout=HEARTBEAT_S):
                self._heard()
            beat = asyncio.get_running_loop().call_later(HEARTBEAT_S, cut, connection)
            await connection.execute("SELECT 1")
            beat.cancel()
