"""Scripts played on a PostgreSQL connection: the queries in its spelling, the transaction around them.

Queries that a script asks together leave in one packet, and so does what begins the transaction.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, TypeVar

import psycopg

from antiphon.stores.postgres_connection import Connection
from antiphon.stores.script import Query, Row, Scene

BEGIN_READ: Final[Query] = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", ())
BEGIN_WRITE: Final[Query] = ("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", ())
"""What a script holds it then reads as it is by now: see `script.HOLD`."""
INDEXED: Final = re.compile(r" INDEXED BY \w+")
"""SQLite is told which index leads; PostgreSQL finds it."""
ALSO: Final = re.compile(r"/\* (.+?) \*/")
"""What only PostgreSQL is told."""
NUL, ESCAPE = "\0", "\1"
"""No text of PostgreSQL holds the first; with the second, two others stand for both."""
ESCAPED: Final = re.compile("\1([\0010])")

T = TypeVar("T")


@cache
def spelled(query: str) -> bytes:
    """As psycopg takes it."""
    return ALSO.sub(r"\1", INDEXED.sub("", query)).replace("?", "%s").encode()


def escaped(text: str) -> str:
    if NUL in text or ESCAPE in text:
        return text.replace(ESCAPE, ESCAPE + ESCAPE).replace(NUL, ESCAPE + "0")
    return text


def restored(text: str) -> str:
    if ESCAPE in text:
        return ESCAPED.sub(lambda found: ESCAPE if found[1] == ESCAPE else NUL, text)
    return text


async def ask(connection: Connection, queries: Sequence[Query]) -> list[list[Row]]:
    """The rows of each."""
    if len(queries) == 1:
        ((query, values),) = queries
        return [await _rows(await connection.execute(spelled(query), _sent(values)))]
    async with connection.pipeline():
        cursors = [await connection.execute(spelled(query), _sent(values)) for query, values in queries]
    return [await _rows(cursor) for cursor in cursors]


def _sent(values: Row) -> Row:
    return tuple(escaped(value) if type(value) is str else value for value in values)


async def _rows(cursor: "psycopg.AsyncCursor[tuple[Any, ...]]") -> list[Row]:
    if cursor.description is None:
        return []
    rows = await cursor.fetchall()
    return [tuple(restored(value) if type(value) is str else value for value in row) for row in rows]


async def played(scene: Scene[T], connection: Connection, first: Sequence[Query] = ()) -> T:
    """What the script comes to. `first` is asked with the first of its queries."""
    script = scene()
    try:
        answers = (await ask(connection, [*first, *next(script)]))[len(first) :]
        while True:
            answers = await ask(connection, script.send(answers))
    except StopIteration as end:
        value: T = end.value
        return value


async def read(scene: Scene[T], connection: Connection) -> T:
    """All its queries see one moment."""
    try:
        return await played(scene, connection, [BEGIN_READ])
    finally:
        await roll_back(connection)  # nothing to keep


async def commit(connection: Connection) -> None:
    """Returns when it is committed, and only then: a connection that is lost raises, whenever that was noticed."""
    cursor = await connection.execute("COMMIT")
    assert cursor.statusmessage == "COMMIT"  # of a transaction that failed, it would be ROLLBACK


async def roll_back(connection: Connection) -> None:
    """If there is something left to roll back."""
    if not connection.closed and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        await connection.execute("ROLLBACK")
