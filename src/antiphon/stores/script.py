"""Scripts: what is done in one transaction, told query by query. Knows no driver: each store plays them in its own way.

A script is a generator: it yields queries that may be asked together, and is given the rows of each. So SQLite and
PostgreSQL share all that has to be decided between two queries. One that refuses gives the refusal instead of raising
it, before it has written anything: those that share its transaction are not to be run again for it.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

HOLD: Final = "/* FOR UPDATE */"
"""Behind a query whose rows nobody else may change before the transaction ends. In SQLite one alone writes. What stands
in a comment, PostgreSQL is told too."""

UNHURRIED: Final = 2**31
"""Said of a write whose length is not known: it goes to the writer's thread."""

Row: TypeAlias = tuple[Any, ...]
"""As SQL gives it; each query's own columns say what it holds."""
Query: TypeAlias = tuple[str, Row]
Script: TypeAlias = Generator[Sequence[Query], list[list[Row]], T]
Scene: TypeAlias = Callable[[], Script[T]]
"""Begins a script, perhaps more than once: what met another's lock is played again."""


class Access(Protocol):
    """How a store plays scripts."""

    async def rows(self, query: str, values: Row) -> list[Row]:
        """What one query reads."""
        ...

    async def read(self, scene: Scene[T]) -> T:
        """All its queries see one moment."""
        ...

    async def read_far(self, scene: Scene[T]) -> T:
        """For what is long: it holds up nobody else."""
        ...

    async def write(self, scene: Scene[T], text_bytes: int, failure: str) -> T:
        """In the order in which it is called. Raises StorageError, beginning with `failure`."""
        ...


class TooLongHere(Exception):
    """This read is too long for the event loop: another thread does it. Never seen outside the store."""


def rows_of(query: str, values: Row = ()) -> Script[list[Row]]:
    (rows,) = yield [(query, values)]
    return rows


def row_of(query: str, values: Row) -> Script[Row | None]:
    rows = yield from rows_of(query, values)
    return rows[0] if rows else None


def column_of(query: str, values: Row) -> Script[list[Any]]:
    rows = yield from rows_of(query, values)
    return [value for (value,) in rows]
