"""Stores, one file a kind, loaded on use: kind -> where its class is."""

from importlib import import_module

from antiphon.config import Limits, Storage
from antiphon.core.ports import Store

STORES = {
    "memory": "antiphon.stores.memory:MemoryStore",
    "postgres": "antiphon.stores.postgres:PostgresStore",
    "sqlite": "antiphon.stores.sqlite:SqliteStore",
}


def build(storage: Storage, limits: Limits, kind: str = "") -> Store:
    """The store of these settings, opened. Raises SettingsError when it cannot be. `kind`: empty, as they say."""
    module, _, name = STORES[kind or ("postgres" if storage.is_postgres else "sqlite")].partition(":")
    store: Store = getattr(import_module(module), name)(storage, limits)
    return store
