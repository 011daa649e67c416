"""Rows of another database, copied into an empty PostgreSQL one. Knows no SQLite."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from antiphon.errors import SettingsError
from antiphon.keys import without_password
from antiphon.stores.postgres_connection import connect_now, reason
from antiphon.stores.postgres_play import escaped
from antiphon.stores.postgres_schema import Connection
from antiphon.stores.script import Row

NUMBERED = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = current_schema AND is_identity = 'YES'"""


class Importing:
    """One transaction, in which tables are filled. `counts`: the rows of each, so far."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.counts: dict[str, int] = {}

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Nobody else writes to it meanwhile. Raises SettingsError when it holds something."""
        table = sql.Identifier(name)
        self._connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table))
        if self._connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(table)).fetchall():
            raise SettingsError(f"The PostgreSQL database is not empty ({name}): an import needs an empty one.")
        columns_ = sql.SQL(", ").join(map(sql.Identifier, columns))
        count = 0
        with self._connection.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, columns_)) as copy:
            for row in rows:
                copy.write_row([escaped(value) if isinstance(value, str) else value for value in row])
                count += 1
        self.counts[name] = count

    def number_on(self) -> None:
        """New rows are numbered behind those that came."""
        for table, column in self._connection.execute(NUMBERED).fetchall():
            self._connection.execute(
                sql.SQL("SELECT setval(pg_get_serial_sequence(%s, %s), max({0})) FROM {1} HAVING max({0}) > 0").format(
                    sql.Identifier(column), sql.Identifier(table)
                ),
                (table, column),
            )


@contextmanager
def importing(url: str) -> Iterator[Importing]:
    """Committed at the end, if nothing went wrong. Raises SettingsError."""
    with connect_now(url) as connection:
        connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        try:
            with connection.transaction():
                one = Importing(connection)
                yield one
                one.number_on()
            connection.execute("ANALYZE")
        except psycopg.Error as error:
            raise SettingsError(f"The import into {without_password(url)} failed: {reason(error)}.") from error
