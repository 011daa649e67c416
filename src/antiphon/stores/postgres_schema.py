"""A PostgreSQL database of ours: bringing it up to date, also while other servers use it. Knows no response.

A migration is one transaction. It waits for the tables it changes only a moment at a time, since all others wait behind
it; servers of the version before go on while it runs, and afterwards.
"""

import time
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import psycopg

from antiphon.errors import SettingsError
from antiphon.keys import without_password
from antiphon.stores.postgres_connection import SCHEMA, connect_now, reason
from antiphon.stores.sql import Migration, pending

DIALECT: Final = "postgres"
KEYS_CHANNEL: Final = "antiphon_keys"
LOCK: Final = 0x616E7470
""" "antp": whoever migrates holds it."""
MIGRATION_WAIT_S: Final = 60
"""For another server that migrates."""
TABLE_WAIT_S: Final = 1
ATTEMPTS_MAX: Final = 30
PAUSE_S: Final = 0.2

FORGET: Final = "DELETE FROM last_commits WHERE made_at < now() - interval '7 days'"
"""Servers that are no more."""

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


def prepare(url: str) -> list[Migration]:
    """Applies what is missing; gives what it applied. Raises SettingsError."""
    with connect_now(url) as connection:
        try:
            applied = migrate(connection) if pending(DIALECT, version(connection)) else []
            connection.execute(FORGET)
        except psycopg.Error as error:
            raise SettingsError(
                f"The database {without_password(url)} cannot be brought up to date: {reason(error)}."
            ) from error
    return applied


def version(connection: Connection) -> int:
    """0 where nothing is ours yet."""
    (found,) = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.migrations",)).fetchall()[0]
    if found is None:
        return 0
    (newest,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchall()[0]
    return int(newest)


def migrate(connection: Connection, known: Sequence[Migration] | None = None) -> list[Migration]:
    """One after the other, alone. `known`: all there are, this version's by default. Raises psycopg.Error."""
    connection.execute(f"SET lock_timeout = '{MIGRATION_WAIT_S}s'; SET statement_timeout = 0")
    connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    try:
        connection.execute(f"SET lock_timeout = '{TABLE_WAIT_S}s'")
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
        )
        found = version(connection)  # another server may have been faster
        missing = list(pending(DIALECT, found) if known is None else known[found:])
        for migration in missing:
            _apply(connection, migration)
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
    return missing


def _apply(connection: Connection, migration: Migration) -> None:
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            with connection.transaction():
                connection.execute(migration.script.encode())
                connection.execute(
                    "INSERT INTO migrations (version, name) VALUES (%s, %s)", (migration.version, migration.name)
                )
        except psycopg.errors.LockNotAvailable:
            if attempt == ATTEMPTS_MAX:
                raise
            time.sleep(PAUSE_S)
        else:
            return
