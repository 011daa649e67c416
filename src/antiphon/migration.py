"""What `antiphon migrate` does: bring a database up to date, move one from SQLite to PostgreSQL. Knows no server."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import apsw

from antiphon import stores
from antiphon.config import Storage
from antiphon.errors import SettingsError
from antiphon.keys import without_password
from antiphon.stores import sql, sqlite_file
from antiphon.stores.script import Row

LOCK_WAIT_MS = 5_000


def run(storage: Storage, from_sqlite: str | None) -> Iterator[str]:
    """Does it, and says in lines what was done. Raises SettingsError."""
    if storage.database == ":memory:":
        raise SettingsError("The settings keep the database in memory: give --database.")
    if from_sqlite and not storage.is_postgres:
        raise SettingsError("--from-sqlite imports into PostgreSQL: give --database postgresql://…")
    if storage.is_postgres:
        stores.require_postgres()
    applied = [migration.name for migration in migrate(storage)]
    yield f"{without_password(storage.database)} is up to date ({', '.join(applied) or 'it was'})"
    if from_sqlite:
        counts = import_sqlite(from_sqlite, storage)
        rows = ", ".join(f"{count} {table}" for table, count in counts.items() if count)
        yield f"imported from {from_sqlite}: {rows or 'nothing'}"
        yield f"Files stay where they are: let storage.files name {from_sqlite}.files, or where you move it to."
        yield f"API keys and sealed contents need their secret. Give it as server.secret: base64 < {from_sqlite}.secret"


def migrate(storage: Storage) -> list[sql.Migration]:
    """What was missing, which is there now. Raises SettingsError."""
    if storage.is_postgres:
        from antiphon.stores import postgres_schema

        return postgres_schema.prepare(storage.database)
    connect = sqlite_file.connector
    with sqlite_file.explained(storage.database), closing(connect(storage.database)()) as connection:
        found = sqlite_file.transaction("BEGIN", sqlite_file.found_version, connection)
        sqlite_file.prepare_writer(connection, storage, LOCK_WAIT_MS)
        return list(sql.pending(sqlite_file.DIALECT, found))


def import_sqlite(file: str, storage: Storage) -> Mapping[str, int]:
    """All rows of the SQLite database into an empty PostgreSQL one, in one transaction: wholly or not at all, so that
    one that was interrupted is begun again. Servers may go on with the file; what they write from now on is not
    imported. Gives the rows of each table. Raises SettingsError."""
    from antiphon.stores import postgres_import

    if not Path(file).is_file():
        raise SettingsError(f"There is no SQLite database {file}.")
    with (
        sqlite_file.explained(file),
        closing(apsw.Connection(file, flags=apsw.SQLITE_OPEN_READONLY)) as connection,
        connection,  # one transaction: one moment of it
        postgres_import.importing(storage.database) as importing,
    ):
        connection.set_busy_timeout(LOCK_WAIT_MS)
        found = sqlite_file.found_version(connection)
        if not found or sql.pending(sqlite_file.DIALECT, found):
            raise SettingsError(f"{file} is of an older version. First run: antiphon migrate --database {file}")
        for table, columns in _tables(connection).items():
            importing.table(table, columns, _rows(connection, table, columns))
    return importing.counts


def _tables(connection: apsw.Connection) -> dict[str, list[str]]:
    """Each with its columns, in the order in which they were made: none refers to a later one. Counters are a
    database's own."""
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'counters' ORDER BY rowid"
    named = "SELECT name FROM pragma_table_info(?)"
    tables = connection.execute(query).fetchall()
    return {str(table): [str(name) for (name,) in connection.execute(named, (table,))] for (table,) in tables}


def _rows(connection: apsw.Connection, table: str, columns: list[str]) -> Iterator[Row]:
    yield from connection.execute(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608 - names of ours
