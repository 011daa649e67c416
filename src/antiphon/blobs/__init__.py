"""Blobs, the bytes of files, one module a kind, loaded on use: kind -> where its class is."""

from importlib import import_module

from antiphon.config import Storage
from antiphon.core.ports import Blobs
from antiphon.errors import SettingsError

BLOBS = {
    "disk": "antiphon.blobs.disk:DiskBlobs",
    "memory": "antiphon.blobs.memory:MemoryBlobs",
}


def build(storage: Storage) -> Blobs:
    """The blobs of these settings, opened. Raises SettingsError when they cannot be."""
    if storage.is_postgres and not storage.files:
        raise SettingsError(
            "With PostgreSQL, storage.files must name the directory for uploaded files, one that all servers share."
        )
    in_memory = storage.database == ":memory:" and not storage.files
    module, _, name = BLOBS["memory" if in_memory else "disk"].partition(":")
    blobs: Blobs = getattr(import_module(module), name)(storage)
    return blobs
