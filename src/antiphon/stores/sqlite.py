"""SqliteStore: responses in one SQLite file, through APSW. Knows no HTTP, no model and no run.

How it works. Five connections, so that the event loop waits for nobody:

    near      reads on the event loop, what is short
    far       reads in its own thread: what is long, and what met a lock
    writer    writes. Saves that are asked for in the same turn of the event loop share one transaction. A small one
              runs right there, if nothing is under way and no other process holds the lock; any other in its thread
    sweeper   checkpoints, that is copies the journal into the file, in its own thread
    watcher   is asked on the event loop whether somebody else has written

One event loop uses a store; any number of processes may use its file.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Final, TypeVar

import apsw

from antiphon.config import Limits, Storage
from antiphon.core.ports import Check
from antiphon.errors import StorageError
from antiphon.stores import conversations, sql
from antiphon.stores.database import UNBOUNDED, DatabaseStore
from antiphon.stores.listing import Bounds
from antiphon.stores.responses import NOT_SAVED, Saving
from antiphon.stores.script import Row, Scene
from antiphon.stores.sqlite_file import (
    Job,
    connector,
    explained,
    files,
    played,
    prepare_reader,
    prepare_sweeper,
    prepare_writer,
    reason,
    rows_of,
    transaction,
)
from antiphon.stores.sqlite_watch import Watch
from antiphon.stores.sqlite_writer import Journal, Lane, Writer
from antiphon.wire.items import Item
from antiphon.wire.response import Response

LOCK_WAIT_S: Final = 5.0
"""How long a thread waits for another process's lock: longer than any sane transaction takes."""
INLINE_BYTES_MAX: Final = 256 * 1024
"""What may be read or written on the event loop at once: about a millisecond."""
HERE: Final = Bounds(entries_max=1_000, bytes_max=INLINE_BYTES_MAX)
"""On the event loop: about a millisecond too, if nothing of a list matches."""

T = TypeVar("T")


class SqliteStore(DatabaseStore):
    """Implements the port Store. Opening may raise SettingsError."""

    def __init__(self, storage: Storage, limits: Limits, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._database = storage.database
        lock_wait_ms = round(lock_wait_s * 1000)
        with ExitStack() as opened, explained(storage.database):
            connect = connector(storage.database)
            writer, far, sweeper = (opened.enter_context(Lane(connect(), name)) for name in ("write", "read", "sweep"))
            self._near = opened.enter_context(closing(connect()))
            watcher = opened.enter_context(closing(connect()))
            self._far = far
            self._journal = Journal(sweeper)
            # A full commit waits for the disk: nothing for the event loop.
            inline_bytes_max = INLINE_BYTES_MAX if storage.synchronous == "normal" else 0
            self._writer = Writer(writer, self._journal, lock_wait_ms, limits.store_queue_max, inline_bytes_max)
            prepare_writer(writer.connection, storage, lock_wait_ms)
            writer.connection.set_wal_hook(self._journal.note)
            prepare_reader(self._near, 0)
            prepare_reader(far.connection, lock_wait_ms)
            prepare_sweeper(sweeper.connection, storage, lock_wait_ms)
            self._opened: ExitStack | None = opened.pop_all()
        super().__init__(_Access(self), limits, Watch(watcher), HERE)

    async def save(self, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> None:
        saving = Saving.of(project, response, given, history)
        await self.write(partial(_save, saving), saving.text_bytes, NOT_SAVED)

    async def write(self, job: Job[T], text_bytes: int, failure: str) -> T:
        self._require_open()
        try:
            return await self._writer.write(job, text_bytes)
        except apsw.Error as error:
            raise StorageError(f"{failure} ({reason(error)})") from error

    async def read(self, job: Job[T]) -> T:
        self._require_open()
        try:
            return job(self._near)
        except apsw.BusyError:
            return await self.read_far(job)
        except apsw.Error as error:
            raise _unreadable(error) from error

    async def read_far(self, job: Job[T]) -> T:
        self._require_open()
        try:
            return await self._far.run(job)
        except apsw.Error as error:
            raise _unreadable(error) from error

    async def check(self) -> Check:
        if self._database == ":memory:":
            return Check(name="store", ok=True, detail="SQLite in memory: nothing is kept when the server stops")
        try:
            await self.write(_probe, UNBOUNDED, "It cannot be written.")
        except StorageError as error:
            remedy = "make room on that disk, or end the program that holds the file locked"
            return Check(name="store", ok=False, detail=f"{self._database}: {error.message}", remedy=remedy)
        size = sum(path.stat().st_size for path in files(self._database) if path.exists())
        detail = f"{self._database}: SQLite {apsw.sqlite_lib_version()}, {size / 2**20:.1f} MiB, writable"
        return Check(name="store", ok=True, detail=detail)

    async def close(self) -> None:
        """Waits for what is under way. Afterwards every call raises StorageError."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await self._writer.finish()
            await self._journal.finish()
            await asyncio.to_thread(opened.close)

    def _require_open(self) -> None:
        if self._opened is None:
            raise StorageError("The store is closed.")


class _Access:
    """How scripts are played here: as jobs, each in a transaction."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def rows(self, query: str, values: Row) -> list[Row]:
        return await self._store.read(lambda connection: rows_of(connection, query, values))

    async def read(self, scene: Scene[T]) -> T:
        return await self._store.read(partial(transaction, "BEGIN", partial(played, scene)))

    async def read_far(self, scene: Scene[T]) -> T:
        return await self._store.read_far(partial(transaction, "BEGIN", partial(played, scene)))

    async def write(self, scene: Scene[T], text_bytes: int, failure: str) -> T:
        return await self._store.write(partial(played, scene), text_bytes, failure)


# -- jobs


def _save(saving: Saving, connection: apsw.Connection) -> None:
    if saving.response.store:
        _save_response(saving, connection)
    if saving.response.conversation:
        played(partial(conversations.join, saving.project, saving.response, saving.rows), connection)


def _save_response(saving: Saving, connection: apsw.Connection) -> None:
    project, response = saving.project, saving.response
    parent, bytes_before = _parent(connection, project, response.previous_response_id)
    if parent is None and response.previous_response_id is not None:
        saving = saving.orphaned()
    chain_bytes = bytes_before + saving.text_bytes
    created_at = response.created_at
    values = (project, response.id, parent, chain_bytes, response.status, response.model, created_at, saving.body)
    connection.execute(sql.ADD_RESPONSE, values)
    n = connection.last_insert_rowid()
    place, _ = sql.places(n)
    connection.executemany(sql.ADD_ITEM, [(place + at, project, *row) for at, row in enumerate(saving.rows)])
    if response.metadata:
        labels = [(project, key, value, created_at, n) for key, value in response.metadata.items()]
        connection.executemany(sql.ADD_METADATA, labels)


def _parent(connection: apsw.Connection, project: str, response_id: str | None) -> tuple[int | None, int]:
    found = [] if response_id is None else rows_of(connection, sql.FIND_PARENT, (project, response_id))
    return (found[0][0], found[0][1]) if found else (None, 0)


def _probe(connection: apsw.Connection) -> None:
    connection.execute(sql.PROBE)


def _unreadable(error: apsw.Error) -> StorageError:
    return StorageError(f"The store could not be read. ({reason(error)})")
