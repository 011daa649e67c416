"""PostgresStore: responses in a PostgreSQL database, which any number of servers share. Knows no HTTP and no model.

How it works. A few connections serve reads. Writes go through two lanes, in groups (postgres_writer.py), each with a
connection of its own. One more listens: so keys are read again only when one changed, by whichever server, and who
waits for a background response need not ask all the time (postgres_bell.py). What SQLite and PostgreSQL do alike is
told as scripts (script.py). A database that goes away makes requests fail, after a while in which it may come back, and
connections are made anew when it is there again.
"""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import psycopg

from antiphon.config import Limits, Storage
from antiphon.core.ports import ApiKey, Check, Order, Page, ResponsePage, ResponseQuery
from antiphon.errors import StorageError
from antiphon.keys import without_password
from antiphon.stores import postgres_play, postgres_saves, postgres_schema, responses, sql
from antiphon.stores.conversations import StoredConversations
from antiphon.stores.files import StoredFiles
from antiphon.stores.listing import Bounds, Search, step
from antiphon.stores.postgres_bell import Bell
from antiphon.stores.postgres_connection import PATIENCE_S, Connection, Job, NoConnection, Pool, is_lost, reason
from antiphon.stores.postgres_ear import Ear
from antiphon.stores.postgres_saves import NOT_SAVED, Saves, Saving
from antiphon.stores.postgres_writer import ATTEMPTS_MAX, Lane, Scripts
from antiphon.stores.requests import StoredRequests
from antiphon.stores.responses import Reading
from antiphon.stores.retention import StoredRetention
from antiphon.stores.rollups import StoredRollups
from antiphon.stores.runs import StoredRuns
from antiphon.stores.script import Row, Scene, Script
from antiphon.wire.items import Item
from antiphon.wire.response import Response

LANES: Final = 2
"""Each has a connection that no read takes from it."""
READS_MAX: Final = 10_000
"""Waiting for a connection."""
LISTING: Final = Bounds(entries_max=20_000, bytes_max=sys.maxsize)
ABOUT: Final = """
SELECT split_part(current_setting('server_version'), ' ', 1), pg_database_size(current_database()),
  current_setting('max_connections')"""

T = TypeVar("T")


class PostgresStore:
    """Implements the port Store. Opening applies migrations, and may raise SettingsError."""

    def __init__(self, storage: Storage, limits: Limits, *, patience_s: float = PATIENCE_S) -> None:
        self._shown = without_password(storage.database)
        postgres_schema.prepare(storage.database)
        self._pool = Pool(storage.database, limits.store_connections_max - LANES, READS_MAX, patience_s)
        self._writing = Pool(storage.database, LANES, LANES, patience_s)
        self._saves = Lane(Saves(self._writing).commit, limits.store_queue_max)
        self._scripts = Lane(Scripts(self._writing).commit, limits.store_queue_max)
        self._access = _Access(self)
        self.conversations = StoredConversations(self._access, limits, sys.maxsize)
        self.files = StoredFiles(self._access)
        self.requests = StoredRequests(self._access)
        self.retention = StoredRetention(self._access)
        self.rollups = StoredRollups(self._access)
        self._page_chars_max = limits.page_chars_max
        self._ear = Ear(self._pool)
        self._ear.hear(postgres_schema.KEYS_CHANNEL, self._keys_may_differ)
        self._bell = Bell(self._pool, self._ear)
        self.runs = StoredRuns(self._access, self._bell)
        self._keys: tuple[ApiKey, ...] = ()
        self._keys_version = -1
        self._changes = 0
        """How often the keys may have changed."""
        self._changes_read: int | None = None
        self._is_open = True

    # -- writing

    async def save(self, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> None:
        if len(given) + len(history) + len(response.output) > sql.PLACES:
            raise StorageError(f"{NOT_SAVED} (it has more than {sql.PLACES} items)")
        rows = sql.item_rows(given, is_input=True) + sql.item_rows(response.output, is_input=False)
        saving = Saving(project, response, sql.encode_body(response), rows, history)
        if response.conversation:
            await self.write(partial(postgres_saves.script, saving), saving.text_bytes, NOT_SAVED)
        elif response.store:
            async with self._explained(NOT_SAVED):
                await self._saves.write(saving, saving.text_bytes)

    async def delete(self, project: str, response_id: str) -> bool:
        return await self.write(partial(responses.delete, project, response_id), 0, "The response was not deleted.")

    async def add_key(self, key: ApiKey) -> None:
        await self.write(partial(responses.add_key, key), 0, "The key was not saved.")
        self._keys_may_differ()

    async def revoke_key(self, key_id: str) -> bool:
        revoked = await self.write(partial(responses.revoke_key, key_id), 0, "The key was not revoked.")
        self._keys_may_differ()
        return bool(revoked)

    async def write(self, scene: Scene[T], text_bytes: int, failure: str) -> T:
        async with self._explained(failure):
            value: T = await self._scripts.write(scene, text_bytes)
            return value

    # -- reading

    async def response(self, project: str, response_id: str) -> Response | None:
        return await self._read_of(project, response_id, responses.read_response)

    async def has(self, project: str, response_id: str) -> bool:
        return bool(await self._access.rows(sql.FIND_LIVING, (project, response_id)))

    async def responses(self, project: str, query: ResponseQuery) -> ResponsePage:
        search = Search(project=project, query=query, page_chars_max=self._page_chars_max)
        while not search.is_over:
            search = await self._access.read(partial(step, search, LISTING))
        return search.page

    async def context(self, project: str, response_id: str) -> tuple[Item, ...] | None:
        return await self._read_of(project, response_id, responses.read_context)

    async def input_items(
        self, project: str, response_id: str, *, limit: int, order: Order, after: str | None
    ) -> Page | None:
        return await self._read_of(project, response_id, partial(responses.read_page, limit, order, after))

    async def items(self, project: str, ids: Sequence[str]) -> dict[str, Item]:
        return await self._access.read(partial(responses.read_items, project, list(dict.fromkeys(ids))))

    async def keys(self) -> Sequence[ApiKey]:
        """The same object until a key is added or revoked, by whichever server."""
        self._ear.open()
        if self._changes_read != self._changes:
            changes = self._changes
            ((version,),) = await self._access.rows(sql.KEYS_VERSION, ())
            if version != self._keys_version:
                self._keys = responses.keys_of(await self._access.rows(sql.READ_KEYS, ()))
                self._keys_version = version
            self._changes_read = changes if self._ear.is_listening else None
        return self._keys

    def _keys_may_differ(self, _: str | None = None) -> None:
        self._changes += 1

    async def _read_of(self, project: str, response_id: str, reading: Reading[T]) -> T | None:
        return await self._access.read(partial(responses.look, project, response_id, reading, sys.maxsize))

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
