"""Who writes, and when: the queue before the one connection that writes, and the journal behind it. Knows no SQL.

All state here belongs to the event loop; a thread sees only the jobs it is handed. A job is a function of a connection
and runs in one transaction, wholly or not at all, perhaps more than once.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import apsw

from antiphon.errors import StorageError
from antiphon.stores.sqlite_file import Job, transaction

WRITE_BYTES: Final = 24 * 1024
"""What a write costs beside its own text: the pages of the indexes that it touches."""
GROUP_MAX: Final = 256
"""Writes in one transaction: with more, sharing gains nothing, and the first would wait for the last."""
CHECKPOINT_PAGES: Final = 1_000
"""Journal pages (4 KB) after which it is copied into the file; SQLite's own default."""
JOURNAL_PAGES_MAX: Final = 16_000
"""Beyond it, writers wait until the journal is empty: only readers that never pause let it grow so far."""
FAILURES: Final = (apsw.Error, StorageError)

T = TypeVar("T")


class Lane:
    """A connection, and the one thread that uses it; the thread starts when it is first needed."""

    def __init__(self, connection: apsw.Connection, name: str) -> None:
        self.connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"store-{name}")

    def run(self, job: Job[T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._thread, job, self.connection)

    def __enter__(self) -> "Lane":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        self.connection.close()


class _Waiting(NamedTuple):
    job: Job[Any]
    cost_bytes: int
    done: "asyncio.Future[Any]"


class Writer:
    """Owner of the writing connection and of the queue before it. Lives on the event loop."""

    def __init__(
        self, lane: Lane, journal: "Journal", lock_wait_ms: int, queue_max: int, inline_bytes_max: int
    ) -> None:
        self._lane = lane
        self._journal = journal
        self._lock_wait_ms = lock_wait_ms
        self._queue_max = queue_max
        self._inline_bytes_max = inline_bytes_max
        self._queue: deque[_Waiting] = deque()
        self._is_due = False
        self._going: asyncio.Future[list[Any]] | None = None
        """A group is in the thread, and the connection is the thread's."""

    async def write(self, job: Job[T], text_bytes: int) -> T:
        """The job's value, once it is committed. A caller that is cancelled before its group starts has written
        nothing; afterwards, everything."""
        if len(self._queue) >= self._queue_max:
            raise StorageError(f"{StorageError().message} (too many others are waiting)")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(job, text_bytes + WRITE_BYTES, done))
        self._start_soon()
        return await done

    async def finish(self) -> None:
        """Returns when nothing is queued or under way."""
        while self._going or self._queue:
            await asyncio.wait([self._going] if self._going else [waiting.done for waiting in self._queue])

    def _start_soon(self) -> None:
        """At the end of this turn of the loop, so that what comes in the same turn shares a transaction."""
        if self._queue and not self._is_due and self._going is None:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._is_due = False
        group = self._take()
        try:
            if group and not self._commit_here(group):
                self._commit_away(group)
        finally:
            self._start_soon()

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        while self._queue and len(group) < GROUP_MAX:
            waiting = self._queue.popleft()
            if not waiting.done.cancelled():
                group.append(waiting)
        return group

    def _commit_here(self, group: list[_Waiting]) -> bool:
        """On the event loop, unless that could take long. What fails here is left to the thread, which can wait for a
        lock and finds out which job of the group is to blame."""
        if sum(waiting.cost_bytes for waiting in group) > self._inline_bytes_max or not self._journal.is_calm:
            return False
        try:
            values = transaction("BEGIN IMMEDIATE", _all_jobs([one.job for one in group]), self._lane.connection)
        except FAILURES:
            return False
        except BaseException as bug:
            _settle(group, [bug] * len(group))
            raise
        self._journal.tend()
        _settle(group, values)
        return True

    def _commit_away(self, group: list[_Waiting]) -> None:
        jobs = [waiting.job for waiting in group]
        try:
            self._going = self._lane.run(partial(_commit, jobs, self._lock_wait_ms))
        except RuntimeError as error:  # the system gives no thread
            _settle(group, [StorageError(f"{StorageError().message} ({error})")] * len(group))
        else:
            self._going.add_done_callback(partial(self._return, group))

    def _return(self, group: list[_Waiting], going: "asyncio.Future[list[Any]]") -> None:
        self._going = None
        bug = going.exception()
        _settle(group, [bug] * len(group) if bug else going.result())
        self._journal.tend()
        self._start_soon()


def _settle(group: list[_Waiting], values: Sequence[Any]) -> None:
    """Wakes the waiting, each with its value or its exception."""
    for waiting, value in zip(group, values, strict=True):
        if waiting.done.done():
            continue  # cancelled meanwhile
        if isinstance(value, BaseException):
            waiting.done.set_exception(value)
        else:
            waiting.done.set_result(value)


def _commit(jobs: Sequence[Job[Any]], lock_wait_ms: int, connection: apsw.Connection) -> list[Any]:
    """Runs in the thread: all in one transaction or, if that fails, each in its own, so that only the guilty one fails.
    Gives each job's value or exception."""
    connection.set_busy_timeout(lock_wait_ms)
    try:
        return transaction("BEGIN IMMEDIATE", _all_jobs(jobs), connection)
    except apsw.BusyError as error:
        return [error] * len(jobs)  # to wait once is enough
    except FAILURES:
        return [_commit_one(job, connection) for job in jobs]
    finally:
        connection.set_busy_timeout(0)


def _commit_one(job: Job[Any], connection: apsw.Connection) -> Any:
    try:
        return transaction("BEGIN IMMEDIATE", job, connection)
    except FAILURES as error:
        return error


def _all_jobs(jobs: Sequence[Job[Any]]) -> Job[list[Any]]:
    return lambda connection: [job(connection) for job in jobs]


class Journal:
    """Keeps the write-ahead journal short, in a thread of its own. Lives on the event loop, but for `note`."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._pages = 0
        self._due_pages = CHECKPOINT_PAGES
        self._going: asyncio.Future[bool] | None = None
        self._begins_anew = False

    def note(self, _connection: apsw.Connection, _schema: str, pages: int) -> int:
        """SQLite says after each commit how long the journal is; that replaces its own checkpoint inside a commit."""
        self._pages = pages
        return apsw.SQLITE_OK

    @property
    def is_calm(self) -> bool:
        """Whether a commit now would not wait for the disk: a checkpoint keeps it busy, and the first commit after one
        begins the journal anew, which SQLite makes sure of with an fsync."""
        return self._going is None and not self._begins_anew

    def tend(self) -> None:
        """Called after each commit."""
        self._begins_anew = False
        self._due_pages = min(self._due_pages, self._pages + CHECKPOINT_PAGES)
        if self._pages >= self._due_pages and self._going is None:
            self._due_pages = self._pages + CHECKPOINT_PAGES
            self._going = self._lane.run(_checkpoint)
            self._going.add_done_callback(self._return)

    def _return(self, going: "asyncio.Future[bool]") -> None:
        self._going = None
        self._begins_anew = going.exception() is not None or going.result()

    async def finish(self) -> None:
        if self._going is not None:
            await asyncio.wait([self._going])


def _checkpoint(connection: apsw.Connection) -> bool:
    """Whether the next commit begins the journal anew. A checkpoint that fails loses nothing: the next one comes soon,
    and a commit that finds the disk full says so itself."""
    try:
        pages, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if pages > JOURNAL_PAGES_MAX:
            pages, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.Error:
        return False
    return pages == copied
