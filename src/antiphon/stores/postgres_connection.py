"""Connections to PostgreSQL: making, lending and mending them, and what may go wrong. Knows no row of ours."""

import asyncio
import logging
import os
import select
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg import conninfo, sql

from antiphon.errors import SettingsError, StorageError
from antiphon.keys import without_password

SCHEMA: Final = "antiphon"
"""All that is ours stands in it, so that a database can be shared with other programs."""
CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_S: Final = 30
LOCK_TIMEOUT_S: Final = 5
JOB_TIMEOUT_S: Final = 60.0
"""Then the connection is cut, whatever it waits for: a server that answers has ended each statement long before."""
TURN_TIMEOUT_S: Final = 10.0
"""For a connection to become free."""
PATIENCE_S: Final = 5.0
"""How long a database may be away before requests fail: a restart loses nothing. From then on they fail at once."""
PAUSE_S: Final = 0.1
PARAMETERS: Final = {
    "application_name": "antiphon",
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Unless the address says something else. The last four end a connection whose other end has vanished."""
SESSION: Final = f"""
SET search_path = {SCHEMA}; SET client_encoding = 'UTF8'; SET timezone = 'UTC';
SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'; SET lock_timeout = '{LOCK_TIMEOUT_S}s';
SET idle_in_transaction_session_timeout = '{STATEMENT_TIMEOUT_S}s';
SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off"""
"""The last three: every query of ours reads a few rows by an index, whatever a table's statistics make of it."""

logging.getLogger("psycopg").setLevel(logging.ERROR)  # what it warns of, a lost connection, is an error of ours already

T = TypeVar("T")
Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]
Job: TypeAlias = Callable[[Connection], Awaitable[T]]

AWAY_NOW: Final = "the database cannot be reached"
AWAY: Final = (psycopg.OperationalError, psycopg.InterfaceError)
REASONS: Final[tuple[tuple[type[psycopg.Error], str], ...]] = (
    (psycopg.errors.DiskFull, "the disk is full"),
    (psycopg.errors.ReadOnlySqlTransaction, "the database is read-only"),
    (psycopg.errors.UniqueViolation, "it is already stored"),
    (psycopg.errors.LockNotAvailable, "another program keeps the database locked"),
    (psycopg.errors.QueryCanceled, "the database took too long"),
    (psycopg.errors.TooManyConnections, "the database has too many connections"),
    (psycopg.errors.InsufficientPrivilege, "this user of the database may not"),
)


class NoConnection(StorageError):
    """No connection to the database could be had."""


def reason(error: psycopg.Error) -> str:
    """What went wrong, in words for a client: no address and no query stands in them."""
    for kind, words in REASONS:
        if isinstance(error, kind):
            return words
    if is_lost(error):
        return AWAY_NOW
    return f"PostgreSQL says {error.diag.message_primary or type(error).__name__}"


def is_lost(error: BaseException) -> bool:
    """Whether it is the connection that ended, or could not be made: another may do better."""
    if not isinstance(error, AWAY):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


async def outcome_of(work: Awaitable[T]) -> T | BaseException:
    """Its value or its exception."""
    (outcome,) = await asyncio.gather(work, return_exceptions=True)
    return outcome


def parameters(url: str) -> Mapping[str, Any]:
    """Those of `connect`. Raises SettingsError for an address that is none."""
    try:
        return PARAMETERS | conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise SettingsError(f"The address of the database, {without_password(url)}, cannot be understood.") from error


def connect_now(url: str) -> "psycopg.Connection[tuple[Any, ...]]":
    """One that blocks, for what is done before serving. Raises SettingsError."""
    shown = without_password(url)
    try:
        connection = psycopg.connect(**parameters(url), autocommit=True)
    except psycopg.OperationalError as error:
        raise SettingsError(f"The database {shown} cannot be reached: {str(error).strip()}") from error
    connection.execute(sql.SQL(SESSION))
    return connection


class Pool:
    """Lends connections, at most so many at once. One that ended is made anew when it is next needed. Lives on one
    event loop."""

    def __init__(self, url: str, connections_max: int, jobs_max: int, patience_s: float) -> None:
        self._parameters = parameters(url)
        self._patience_s = patience_s
        self._away_since: float | None = None
        self._free = asyncio.Semaphore(connections_max)
        self._idle: list[Connection] = []
        self._jobs_max = jobs_max
        self._jobs: set[asyncio.Task[Any]] = set()

    async def run(self, job: Job[T]) -> T:
        """In a task of its own: a caller who is cancelled leaves a job that ends by itself. Raises psycopg.Error, and
        NoConnection where nothing was tried."""
        if len(self._jobs) >= self._jobs_max:
            raise NoConnection("too many others are waiting")
        task = asyncio.create_task(self._run(job))
        self._jobs.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._jobs.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left who asks

    async def _run(self, job: Job[T]) -> T:
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await self._free.acquire()
        except TimeoutError:
            raise NoConnection("all connections to the database are in use") from None
        try:
            connection = await self._alive() or await self._connect()
            cutting = asyncio.get_running_loop().call_later(JOB_TIMEOUT_S, cut, connection)
            try:
                return await job(connection)
            except AWAY as error:
                if is_lost(error):  # the others are hardly better off
                    await self._drop_idle()
                raise
            finally:
                cutting.cancel()
                await self._take_back(connection)
        finally:
            self._free.release()

    async def _alive(self) -> Connection | None:
        """An idle connection that has something to say says that it ended."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not is_readable(connection.fileno()):
                return connection
            await connection.close()
        return None

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _take_back(self, connection: Connection) -> None:
        if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        while True:
            try:
                connection = await self.connect()
            except psycopg.OperationalError as error:
                now = asyncio.get_running_loop().time()
                self._away_since = now if self._away_since is None else self._away_since
                if now - self._away_since >= self._patience_s:
                    raise NoConnection(AWAY_NOW) from error
                await asyncio.sleep(PAUSE_S)
            else:
                self._away_since = None
                return connection

    async def connect(self) -> Connection:
        """One more, that the caller keeps and closes."""
        connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        try:
            await connection.execute(sql.SQL(SESSION))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Waits for what is under way."""
        while self._jobs:
            await asyncio.wait(self._jobs)
        await self._drop_idle()


def is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def cut(connection: Connection) -> None:
    """Whoever waits for it is told at once that it ended."""
    if not connection.closed:
        with socket.socket(fileno=os.dup(connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
