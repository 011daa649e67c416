"""An SQLite file of ours: opening it, bringing it up to date, a transaction on it. Knows no response and no thread."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import apsw

from antiphon.config import Storage
from antiphon.errors import SettingsError
from antiphon.stores import sql
from antiphon.stores.script import Row, Scene

DIALECT: Final = "sqlite"
APPLICATION_ID: Final = 0x616E7470
""" "antp", in the file's header: so that nobody's other database is ever migrated."""
CACHE_KIB: Final = 8 * 1024
JOURNAL_BYTES_KEPT: Final = 16 * 1024 * 1024
"""What the journal shrinks to once it was longer."""
OPEN_ATTEMPTS_MAX: Final = 100
"""Processes that make one new file at the same moment; each gets its turn."""

T = TypeVar("T")
Job: TypeAlias = Callable[[apsw.Connection], T]

REASONS: dict[type[apsw.Error], str] = {
    apsw.FullError: "the disk is full",
    apsw.IOError: "the disk failed",
    apsw.ReadOnlyError: "the database is read-only",
    apsw.CantOpenError: "the database cannot be opened",
    apsw.CorruptError: "the database is damaged",
    apsw.NotADBError: "the database is damaged",
    apsw.BusyError: "another program keeps the database locked",
    apsw.ConstraintError: "it is already stored",
}


def reason(error: apsw.Error) -> str:
    return REASONS.get(type(error), str(error))


# -- a transaction


def transaction(begin: str, job: Job[T], connection: apsw.Connection) -> T:
    """Runs the job between `begin` and COMMIT; whatever goes wrong, nothing of it is kept."""
    connection.execute(begin)
    try:
        value = job(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk or an I/O error may have rolled back already
            connection.execute("ROLLBACK")
        raise
    return value


def rows_of(connection: apsw.Connection, query: str, values: Row = ()) -> list[Row]:
    """All at once: a query read by half would hold its transaction open."""
    found: list[Row] = connection.execute(query, values).fetchall()
    return found


def played(scene: Scene[T], connection: apsw.Connection) -> T:
    """What the script comes to, in the transaction that is under way."""
    script = scene()
    try:
        queries = next(script)
        while True:
            queries = script.send([rows_of(connection, query, values) for query, values in queries])
    except StopIteration as end:
        value: T = end.value
        return value


def column_of(connection: apsw.Connection, query: str, values: Row) -> list[Any]:
    return [value for (value,) in rows_of(connection, query, values)]


# -- opening


@contextmanager
def explained(database: str) -> Iterator[None]:
    """What cannot be opened is a matter of settings."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"The database {database} cannot be opened: {error.strerror or error}.") from error
    except apsw.BusyError as error:
        raise SettingsError(f"The database {database} is kept locked by another program.") from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise SettingsError(f"The file {database} is not an SQLite database, or it is damaged.") from error
    except apsw.Error as error:
        raise SettingsError(f"The database {database} cannot be opened: {error}.") from error


def connector(database: str) -> Callable[[], apsw.Connection]:
    """Makes the file if it is not there; gives what opens a connection to it."""
    if database == ":memory:":
        # A database in memory that the connections of this process share; the name is this store's own.
        name = f"file:/antiphon-{secrets.token_hex(8)}?vfs=memdb"
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        return partial(apsw.Connection, name, flags=flags)
    path = Path(database).absolute()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its journal the same mode
    return partial(apsw.Connection, str(path), flags=apsw.SQLITE_OPEN_READWRITE)


def prepare_writer(connection: apsw.Connection, storage: Storage, lock_wait_ms: int) -> None:
    """Makes the database one of ours, of this version. Raises SettingsError."""
    connection.set_busy_timeout(lock_wait_ms)
    # First, so that what is refused stays as it was; in one look, for another process may be making it right now.
    missing = sql.pending(DIALECT, transaction("BEGIN", found_version, connection))
    _use_journal(connection, storage.database)
    _set(connection, synchronous=storage.synchronous, journal_size_limit=JOURNAL_BYTES_KEPT)
    _set(connection, foreign_keys="on", cache_size=-CACHE_KIB)
    _set(connection, secure_delete="on")  # what is deleted is to be gone from the file, too
    if missing:
        transaction("BEGIN IMMEDIATE", _migrate, connection)
    connection.set_busy_timeout(0)


def prepare_reader(connection: apsw.Connection, lock_wait_ms: int) -> None:
    connection.set_busy_timeout(lock_wait_ms)
    _set(connection, query_only="on", cache_size=-CACHE_KIB)


def prepare_sweeper(connection: apsw.Connection, storage: Storage, lock_wait_ms: int) -> None:
    connection.set_busy_timeout(lock_wait_ms)
    _set(connection, synchronous=storage.synchronous, journal_size_limit=JOURNAL_BYTES_KEPT)


def found_version(connection: apsw.Connection) -> int:
    """0 for an empty file. Raises SettingsError for another program's database."""
    (application_id,) = column_of(connection, "PRAGMA application_id", ())
    (version,) = column_of(connection, "PRAGMA user_version", ())
    is_empty = not version and not rows_of(connection, "SELECT 1 FROM sqlite_schema LIMIT 1")
    if application_id != APPLICATION_ID and not is_empty:
        raise SettingsError(f"The database {connection.filename} belongs to another program.")
    return int(version)


def _use_journal(connection: apsw.Connection, database: str) -> None:
    """Two processes that make a new file at once are in each other's way here, and SQLite does not wait: the lock it
    wants is an upgrade. So wait for the other with a lock that can be waited for, and try again."""
    for _ in range(OPEN_ATTEMPTS_MAX):
        try:
            mode = connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            transaction("BEGIN EXCLUSIVE", lambda _: None, connection)
            continue
        if mode not in ("wal", "memory"):
            raise SettingsError(f"The database {database} lies on a file system without SQLite's WAL mode.")
        return
    raise apsw.BusyError("database is locked")


def _migrate(connection: apsw.Connection) -> None:
    for migration in sql.pending(DIALECT, found_version(connection)):  # another process may have been faster
        rows_of(connection, migration.script)
        _set(connection, user_version=migration.version)
    _set(connection, application_id=APPLICATION_ID)


def _set(connection: apsw.Connection, **pragmas: str | int) -> None:
    for name, value in pragmas.items():
        connection.pragma(name, value)


def files(database: str) -> list[Path]:
    """The database and what SQLite keeps beside it while it is open."""
    return [Path(database + suffix) for suffix in ("", "-wal", "-shm")]
