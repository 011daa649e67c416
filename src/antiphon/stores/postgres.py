"""PostgresStore: responses in a PostgreSQL database, which any number of servers share. Knows no HTTP and no model.

How it works. A few connections serve reads. Writes go through two lanes, in groups (postgres_writer.py), each with a
connection of its own. One more listens: so keys are read again only when one changed, by whichever server, and who
waits for a background response need not ask all the time (postgres_bell.py). What SQLite and PostgreSQL do alike is
told as scripts (script.py). A database that goes away makes requests fail, after a while in which it may come back, and
connections are made anew when it is there again.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import psycopg

from antiphon.config import Limits, Storage
from antiphon.core.ports import ApiKey, Check
from antiphon.errors import StorageError
from antiphon.keys import without_password
from antiphon.stores import postgres_play, postgres_saves, postgres_schema, sql
from antiphon.stores.database import AWAY, DatabaseStore
from antiphon.stores.postgres_bell import Bell
from antiphon.stores.postgres_connection import PATIENCE_S, Connection, Job, NoConnection, Pool, is_lost, reason
from antiphon.stores.postgres_ear import Ear
from antiphon.stores.postgres_saves import Saves
from antiphon.stores.postgres_writer import ATTEMPTS_MAX, Lane, Scripts
from antiphon.stores.responses import NOT_SAVED, Saving
from antiphon.stores.script import Row, Scene, Script
from antiphon.wire.items import Item
from antiphon.wire.response import Response

LANES: Final = 2
"""Each has a connection that no read takes from it."""
READS_MAX: Final = 10_000
"""Waiting for a connection."""
ABOUT: Final = """
SELECT split_part(current_setting('server_version'), ' ', 1), pg_database_size(current_database()),
  current_setting('max_connections')"""

T = TypeVar("T")


class PostgresStore(DatabaseStore):
    """Implements the port Store. Opening applies migrations, and may raise SettingsError."""

    def __init__(self, storage: Storage, limits: Limits, *, patience_s: float = PATIENCE_S) -> None:
        self._shown = without_password(storage.database)
        postgres_schema.prepare(storage.database)
        self._pool = Pool(storage.database, limits.store_connections_max - LANES, READS_MAX, patience_s)
        self._writing = Pool(storage.database, LANES, LANES, patience_s)
        self._saves = Lane(Saves(self._writing).commit, limits.store_queue_max)
        self._scripts = Lane(Scripts(self._writing).commit, limits.store_queue_max)
        self._ear = Ear(self._pool)
        self._ear.hear(postgres_schema.KEYS_CHANNEL, self._keys_may_differ)
        self._bell = Bell(self._pool, self._ear)
        super().__init__(_Access(self), limits, self._bell, AWAY)
        self._changes = 0
        """How often the keys may have changed."""
        self._changes_read: int | None = None
        self._is_open = True

    # -- writing

    async def save(self, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> None:
        saving = Saving.of(project, response, given, history)
        if response.conversation:
            await self.write(partial(postgres_saves.script, saving), saving.text_bytes, NOT_SAVED)
        elif response.store:
            async with self._explained(NOT_SAVED):
                await self._saves.write(saving, saving.text_bytes)

    async def add_key(self, key: ApiKey) -> None:
        await super().add_key(key)
        self._keys_may_differ()

    async def revoke_key(self, key_id: str) -> bool:
        revoked = await super().revoke_key(key_id)
        self._keys_may_differ()
        return revoked

    async def write(self, scene: Scene[T], text_bytes: int, failure: str) -> T:
        async with self._explained(failure):
            value: T = await self._scripts.write(scene, text_bytes)
            return value

    # -- reading

    async def keys(self) -> Sequence[ApiKey]:
        self._ear.open()
        if self._changes_read != self._changes:
            changes = self._changes
            await super().keys()
            self._changes_read = changes if self._ear.is_listening else None
        return self._keys

    def _keys_may_differ(self, _: str | None = None) -> None:
        self._changes += 1

    # -- the rest

    async def check(self) -> Check:
        try:
            await self.write(_probe, 0, "It cannot be written.")
            ((version, size, connections_max),) = await self._access.rows(ABOUT, ())
        except StorageError as error:
            remedy = "start that database, or let this user write to it"
            return Check(name="store", ok=False, detail=f"{self._shown}: {error.message}", remedy=remedy)
        about = f"PostgreSQL {version}, {size / 2**20:.1f} MiB, max_connections {connections_max}, writable"
        return Check(name="store", ok=True, detail=f"{self._shown}: {about}")

    async def close(self) -> None:
        """Waits for what is under way. Afterwards every call raises StorageError."""
        self._is_open = False
        await self._saves.finish()
        await self._scripts.finish()
        await self._bell.close()
        await self._ear.close()
        await self._pool.close()
        await self._writing.close()

    async def run(self, job: Job[T]) -> T:
        """A job that only reads."""
        async with self._explained(UNREADABLE):
            for _ in range(ATTEMPTS_MAX - 1):
                try:
                    return await self._pool.run(job)
                except psycopg.Error as error:
                    if not is_lost(error):
                        raise
            return await self._pool.run(job)

    @asynccontextmanager
    async def _explained(self, failure: str) -> AsyncIterator[None]:
        if not self._is_open:
            raise StorageError("The store is closed.")
        try:
            yield
        except NoConnection as error:
            raise StorageError(f"{failure} ({error.message})") from error
        except psycopg.Error as error:
            raise StorageError(f"{failure} ({reason(error)})") from error


class _Access:
    """How scripts are played here."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.write = store.write

    async def rows(self, query: str, values: Row) -> list[Row]:
        (rows,) = await self._store.run(partial(_asked, query, values))
        return rows

    async def read(self, scene: Scene[T]) -> T:
        return await self._store.run(partial(postgres_play.read, scene))

    read_far = read


UNREADABLE: Final = "The store could not be read."


async def _asked(query: str, values: Row, connection: Connection) -> list[list[Row]]:
    return await postgres_play.ask(connection, [(query, values)])


def _probe() -> Script[None]:
    yield [(sql.PROBE, ())]
