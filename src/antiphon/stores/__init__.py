"""Stores, one file a kind, loaded on use: kind -> where its class is."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module

from antiphon.config import Limits, Settings, Storage
from antiphon.core.ports import Store
from antiphon.errors import SettingsError

STORES = {
    "memory": "antiphon.stores.memory:MemoryStore",
    "postgres": "antiphon.stores.postgres:PostgresStore",
    "sqlite": "antiphon.stores.sqlite:SqliteStore",
}


def build(storage: Storage, limits: Limits, kind: str = "") -> Store:
    """The store of these settings, opened. Raises SettingsError when it cannot be. `kind`: empty, as they say."""
    if storage.is_postgres:
        require_postgres()
    module, _, name = STORES[kind or ("postgres" if storage.is_postgres else "sqlite")].partition(":")
    store: Store = getattr(import_module(module), name)(storage, limits)
    return store


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncGenerator[Store, None]:
    """The store of these settings, opened and migrated. Raises SettingsError."""
    store = build(settings.storage, settings.limits)
    try:
        yield store
    finally:
        await store.close()


def require_postgres() -> None:
    """Raises SettingsError where the driver is not installed: it is an extra."""
    try:
        import_module("psycopg")
    except ImportError as error:
        raise SettingsError(
            f"PostgreSQL needs a library that is not installed ({error}). This helps: pip install 'antiphon[postgres]'"
        ) from error
