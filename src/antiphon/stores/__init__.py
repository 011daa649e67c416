"""Stores, one file a kind, loaded on use: kind -> where its class is."""

from importlib import import_module

from antiphon.config import Limits, Storage
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


def require_postgres() -> None:
    """Raises SettingsError where the driver is not installed: it is an extra."""
    try:
        import_module("psycopg")
    except ImportError as error:
        raise SettingsError(
            f"PostgreSQL needs a library that is not installed ({error}). This helps: pip install 'antiphon[postgres]'"
        ) from error
