"""Who writes to PostgreSQL, and when: what is asked for in one turn of the event loop goes in one group.

How it works. Two lanes, each with one group under way while the next gathers:

    saves     of responses outside conversations: one statement for the whole group, a transaction by itself
    scripts   everything else, in the order in which it came: one transaction, script after script

What fails is done again one by one, so that only the guilty one fails. A connection that ends before a transaction is
committed cost nothing: it is done again on another. One that ends at the very commit leaves open what became of it:
then saves are looked up, and of scripts, the sign that each transaction leaves behind.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar

import psycopg

from antiphon.errors import StorageError
from antiphon.stores.postgres_connection import AWAY, Connection, NoConnection, Pool, is_lost, outcome_of
from antiphon.stores.postgres_play import BEGIN_WRITE, ask, commit, played, roll_back
from antiphon.stores.script import HOLD, Query, Scene

GROUP_MAX: Final = 256
GROUP_BYTES_MAX: Final = 8 * 1024 * 1024
"""One statement is held in memory whole, here and there."""
ATTEMPTS_MAX: Final = 3
AGAIN: Final = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.ForeignKeyViolation,  # a parent and its child, erased and saved at the same moment
)

SIGN: Final = """
INSERT INTO last_commits (server, token) VALUES (?, ?)
ON CONFLICT (server) DO UPDATE SET token = excluded.token, made_at = now()"""
READ_SIGN: Final = f"SELECT token FROM last_commits WHERE server = ? {HOLD}"  # noqa: S608 - constants only

T = TypeVar("T")
J = TypeVar("J")


class Lane(Generic[J]):
    """A queue, and the one group that is under way. `commit` gives each job's value or exception."""

    def __init__(self, commit: Callable[[Sequence[J]], Awaitable[list[Any]]], queue_max: int) -> None:
        self._commit = commit
        self._queue_max = queue_max
        self._queue: deque[tuple[J, int, asyncio.Future[Any]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def write(self, job: J, text_bytes: int) -> Any:
        """A caller that is cancelled before its group starts has written nothing; afterwards, everything."""
        if len(self._queue) >= self._queue_max:
            raise StorageError(f"{StorageError().message} (too many others are waiting)")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((job, text_bytes, done))
        if self._working is None:
            self._working = asyncio.create_task(self._work())  # begins when this turn of the loop ends
        return await done

    async def finish(self) -> None:
        """Returns when nothing is queued or under way."""
        if self._working is not None:
            await asyncio.wait([self._working])

    async def _work(self) -> None:
        try:
            while group := self._take():
                outcome = await outcome_of(self._commit([job for job, _ in group]))
                values = [outcome] * len(group) if isinstance(outcome, BaseException) else outcome
                for (_, done), value in zip(group, values, strict=True):
                    _settle(done, value)
                if isinstance(values[0], NoConnection):  # the next group would only wait for the same again
                    while self._queue:
                        _settle(self._queue.popleft()[-1], values[0])
        finally:
            self._working = None

    def _take(self) -> "list[tuple[J, asyncio.Future[Any]]]":
        group: list[tuple[J, asyncio.Future[Any]]] = []
        room = GROUP_BYTES_MAX
        while self._queue and len(group) < GROUP_MAX and (room > 0 or not group):
            job, text_bytes, done = self._queue.popleft()
            if not done.cancelled():
                group.append((job, done))
                room -= text_bytes
        return group


def _settle(done: "asyncio.Future[Any]", value: Any) -> None:
    if done.done():
        return  # cancelled meanwhile
    if isinstance(value, BaseException):
        done.set_exception(value)
    else:
        done.set_result(value)


class Unsure(StorageError):
    """It is not known whether this was stored: the connection to the database ended meanwhile."""

    def __init__(self, values: list[Any]) -> None:
        super().__init__()
        self.values = values


class Scripts:
    """The lane of scripts: how a group of them is committed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._server = secrets.token_hex(8)
        self._token = 0
        self._has_signed = False

    async def commit(self, scenes: Sequence[Scene[Any]]) -> list[Any]:
        outcome = await self._tried(scenes)
        for _ in range(ATTEMPTS_MAX - 1):
            if is_lost(outcome):
                outcome = await self._tried(scenes)
        if isinstance(outcome, list):
            return outcome
        if isinstance(outcome, Unsure | NoConnection) or is_lost(outcome):
            return [outcome] * len(scenes)
        return [await self._commit_one(scene) for scene in scenes]

    async def _commit_one(self, scene: Scene[Any]) -> Any:
        """Its value or its exception."""
        outcome: Any = None
        for _ in range(ATTEMPTS_MAX):
            outcome = await self._tried([scene])
            if not isinstance(outcome, AGAIN):
                break
        return outcome[0] if isinstance(outcome, list) else outcome

    async def _tried(self, scenes: Sequence[Scene[Any]]) -> Any:
        """Their values, or the exception that kept all of them from being written."""
        if not self._has_signed:  # from now on there is a row, and who reads it waits for who writes it
            outcome = await outcome_of(self._pool.run(partial(ask, queries=[(SIGN, (self._server, 0))])))
            if isinstance(outcome, BaseException):
                return outcome
            self._has_signed = True
        self._token += 1
        sign = (SIGN, (self._server, self._token))
        outcome = await outcome_of(self._pool.run(partial(_all, scenes, [BEGIN_WRITE, sign])))
        return await self._cleared_up(outcome) if isinstance(outcome, Unsure) else outcome

    async def _cleared_up(self, unsure: Unsure) -> Any:
        """What was committed last tells; it is held back as long as another process of the database is still at it."""
        job = partial(ask, queries=[(READ_SIGN, (self._server,))])
        for _ in range(ATTEMPTS_MAX):
            answer = await outcome_of(self._pool.run(job))
            if not isinstance(answer, BaseException):
                is_committed = answer == [[(self._token,)]]
                return unsure.values if is_committed else unsure.__cause__  # else the connection was lost, no more
        return unsure


async def _all(scenes: Sequence[Scene[T]], first: Sequence[Query], connection: Connection) -> list[T]:
    """One transaction, which `first` begins."""
    values: list[T] = []
    try:
        for scene in scenes:
            has_begun = connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
            values.append(await played(scene, connection, () if has_begun else first))
    except BaseException:
        await roll_back(connection)
        raise
    try:
        await commit(connection)
    except AWAY as error:
        if is_lost(error):
            raise Unsure(values) from error
        raise
    return values
