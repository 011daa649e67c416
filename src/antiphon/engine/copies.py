"""Copies: what was brought from elsewhere for a request, kept for later turns of its conversation. Knows no item.

Bounded in number and in bytes, the oldest go first; one that is gone is brought again. A copy is a blob that the file
store takes, so that none is ever lost sight of.
"""

import hashlib
from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct

from antiphon.config import Limits
from antiphon.core.ids import Clock, NewId
from antiphon.core.ports import Blobs, CopyBounds, FileStore
from antiphon.errors import NotFound, StorageError
from antiphon.observe import log

WRITING_S = 3_600
"""After which a copy that is still being written is given up."""


class Copy(Struct, frozen=True, kw_only=True):
    """`body` stands behind the head in the blob."""

    filename: str = ""
    media_type: str = ""
    body: bytes = b""
    is_trivial: bool = False
    """It was text before: whoever has the source needs no copy."""


class _Head(Struct, frozen=True):
    filename: str
    media_type: str


class Copies:
    def __init__(self, store: FileStore, blobs: Blobs, limits: Limits, new_id: NewId, clock: Clock) -> None:
        self._store = store
        self._blobs = blobs
        self._bounds = CopyBounds(copies_max=limits.copies_max, bytes_max=limits.copy_bytes_max)
        self._new_id = new_id
        self._clock = clock

    async def get(self, project: str, kind: str, source: str) -> Copy | None:
        key = await self._store.copy(_digest(project, kind, source))
        if key is None:
            return None
        try:
            head, _, body = b"".join([piece async for piece in self._blobs.read(key)]).partition(b"\n")
        except (NotFound, StorageError):  # dropped this moment, or the medium fails: it is brought again
            return None
        about = msgspec.json.decode(head, type=_Head)
        return Copy(filename=about.filename, media_type=about.media_type, body=body)

    async def put(self, project: str, kind: str, source: str, copy: Copy) -> None:
        """A copy that cannot be kept fails no request: it is brought again."""
        key = self._new_id("copy")
        try:
            await self._store.reserve(key, self._clock() + WRITING_S)
            size = await self._blobs.write(key, _written(copy))
            await self._store.keep_copy(_digest(project, kind, source), key, size, self._bounds, self._clock())
        except StorageError as error:
            log.warning("a copy was not kept", error=error.message)


async def _written(copy: Copy) -> AsyncIterator[bytes]:
    yield msgspec.json.encode(_Head(copy.filename, copy.media_type)) + b"\n"
    yield copy.body


def _digest(project: str, kind: str, source: str) -> str:
    return hashlib.sha256(msgspec.json.encode((project, kind, source))).hexdigest()
