"""MemoryBlobs: the verified fake, which passes the suite that DiskBlobs passes. Keeps nothing beyond the process."""

from collections.abc import AsyncGenerator, AsyncIterable

from antiphon.config import Storage
from antiphon.core.ports import Check
from antiphon.errors import NotFound


class MemoryBlobs:
    """Implements the port Blobs."""

    def __init__(self, storage: Storage) -> None:
        del storage  # nothing to place
        self._kept: dict[str, bytes] = {}

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        whole = b"".join([chunk async for chunk in chunks])
        self._kept[key] = whole
        return len(whole)

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes, None]:
        if key not in self._kept:
            raise NotFound("The bytes of this file are not there.")
        if piece := self._kept[key][start:stop]:
            yield piece

    async def delete(self, key: str) -> None:
        self._kept.pop(key, None)

    async def check(self) -> Check:
        return Check(name="files", ok=True, detail="in memory: nothing is kept when the server stops")

    async def close(self) -> None:
        self._kept.clear()
