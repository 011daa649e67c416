"""Files: what may be kept, under which name, for how long, and how its row and its bytes stay together. Knows no HTTP.

How it works. A blob is noted as loose before its first byte is written, its row takes it, and it is noted as loose
again before it is deleted. So whatever breaks in between, a blob without a row is one that `sweep` finds, and a row
without a blob there is none.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, NamedTuple

from msgspec.structs import replace

from antiphon.config import Limits
from antiphon.core.ids import Clock, NewId
from antiphon.core.ports import Blobs, FilePage, FileQuery, FileStore, Obstacle, Quota, StoredUpload
from antiphon.errors import InvalidRequest, InvalidValue, NotFound, StorageError, TooManyRequests
from antiphon.observe import log
from antiphon.wire.files import (
    EXPIRY_S_MAX,
    FILENAME_CHARS_MAX,
    CompleteUpload,
    CreateUpload,
    FileExpiry,
    FileObject,
    FilePurpose,
    StoreFile,
    Upload,
    UploadPart,
)

UPLOAD_S: Final = 3_600
"""How long an upload takes parts; as the reference has it."""
WRITING_S: Final = 24 * 3_600
"""After which a blob that is still being written is given up: longer than any takes."""
SWEEP_S: Final = 60.0
SWEEP_MAX: Final = 100
"""Rows or blobs that one step of sweeping drops: others wait for no more than that."""


class NewFile(NamedTuple):
    filename: str
    asked: StoreFile


class Files:
    """Every method takes the project: what belongs to another does not exist."""

    def __init__(self, store: FileStore, blobs: Blobs, limits: Limits, new_id: NewId, clock: Clock) -> None:
        self._store = store
        self._blobs = blobs
        self._limits = limits
        self._new_id = new_id
        self._clock = clock
        self._quota = Quota(
            files_max=limits.files_per_project_max,
            bytes_max=limits.file_bytes_per_project_max,
            parts_max=limits.upload_parts_max,
        )
        self._writes = 0

    # -- files

    async def create(self, project: str, content: AsyncIterable[bytes], about: Callable[[], NewFile]) -> FileObject:
        """Stores what comes. `about` is asked when all of it has come, and may raise then."""
        async with self._written(self._file_id(), content) as (file_id, size):
            filename, asked = about()
            file = self._file(file_id, size, filename, asked.purpose, _seconds(asked.expires_after))
            self._raise_for(await self._store.add(project, file, self._quota), "file")
        return file

    async def retrieve(self, project: str, file_id: str, *, param: str | None = None) -> FileObject:
        file = await self._store.file(project, file_id, self._clock())
        if file is None:
            raise NotFound(f"No such File object: {file_id[:128]}", param=param)
        return file

    async def page(self, project: str, query: FileQuery) -> FilePage:
        return await self._store.page(project, query, self._clock())

    async def delete(self, project: str, file_id: str) -> None:
        if not await self._store.delete(project, file_id, self._clock()):
            raise NotFound(f"No such File object: {file_id[:128]}")
        await self._drop([file_id])

    async def content(self, project: str, file_id: str) -> tuple[FileObject, AsyncGenerator[bytes, None]]:
        """The file, and its bytes in pieces."""
        return await self.retrieve(project, file_id), self._blobs.read(file_id)

    async def read(self, project: str, file_id: str, *, bytes_max: int, param: str) -> tuple[FileObject, bytes]:
        """The file and all its bytes. Raises NotFound, or InvalidRequest when it is larger; both name `param`."""
        file = await self.retrieve(project, file_id, param=param)
        if file.bytes > bytes_max:
            raise InvalidRequest(
                f"Invalid '{param}': the file '{file_id}' has {file.bytes} bytes, and at most {bytes_max} are taken.",
                param=param,
            )
        try:
            content = b"".join([piece async for piece in self._blobs.read(file_id)])
        except NotFound as error:
            raise NotFound(error.message, param=param) from error
        if len(content) != file.bytes:
            raise StorageError(f"The bytes of the file '{file_id}' are damaged.")
        return file, content

    # -- uploads in parts

    async def create_upload(self, project: str, asked: CreateUpload) -> Upload:
        if asked.bytes > self._limits.upload_bytes_max:
            most = self._limits.upload_bytes_max
            raise InvalidValue(
                f"Invalid 'bytes': an upload may have at most {most} (limits.upload_bytes_max).", param="bytes"
            )
        now = self._clock()
        upload = Upload(
            id=self._new_id("upload"),
            bytes=asked.bytes,
            created_at=now,
            expires_at=now + UPLOAD_S,
            filename=safe_filename(asked.filename, "filename"),
            purpose=asked.purpose,
            status="pending",
        )
        stored = StoredUpload(upload=upload, expires_after_s=_seconds(asked.expires_after))
        self._raise_for(await self._store.add_upload(project, stored, self._quota), "bytes")
        return upload

    async def add_part(self, project: str, upload_id: str, content: AsyncIterable[bytes]) -> UploadPart:
        await self._pending(project, upload_id)  # asked early: a part may be long
        async with self._written(self._new_id("part"), content) as (part_id, size):
            part = UploadPart(id=part_id, created_at=self._clock(), upload_id=upload_id)
            obstacle = await self._store.add_part(project, part, size, self._quota)
            if obstacle == "ended":
                await self._pending(project, upload_id)  # says how it ended
            self._raise_for(obstacle, "data")
        return part

    async def complete(self, project: str, upload_id: str, asked: CompleteUpload) -> Upload:
        """The upload, with the file that it became: the parts named, in that order."""
        stored = await self._pending(project, upload_id)
        upload = stored.upload
        _check_parts(upload, asked.part_ids, await self._store.parts(project, upload_id))
        digest = hashlib.md5(usedforsecurity=False) if asked.md5 else None
        async with (
            aclosing(self._joined(asked.part_ids, digest)) as content,
            self._written(self._file_id(), content) as (file_id, size),
        ):
            if digest and asked.md5 and digest.hexdigest() != asked.md5.lower():
                raise InvalidValue("The md5 checksum does not match the bytes that were uploaded.", param="md5")
            file = self._file(file_id, size, upload.filename, upload.purpose, stored.expires_after_s)
            obstacle = await self._store.complete(project, upload_id, file)
            if obstacle:
                await self._pending(project, upload_id)
            self._raise_for(obstacle, None)
        await self._drop(asked.part_ids)
        return replace(upload, status="completed", file=file)

    async def cancel(self, project: str, upload_id: str) -> Upload:
        upload = (await self._pending(project, upload_id)).upload
        parts = await self._store.parts(project, upload_id)
        if await self._store.cancel(project, upload_id, self._clock()):
            await self._pending(project, upload_id)
        await self._drop(tuple(parts))
        return replace(upload, status="cancelled")

    async def _pending(self, project: str, upload_id: str) -> StoredUpload:
        stored = await self._store.upload(project, upload_id, self._clock())
        if stored is None:
            raise NotFound(f"No such Upload object: {upload_id[:128]}")
        if stored.upload.status != "pending":
            raise InvalidRequest(f"The upload '{upload_id}' is {stored.upload.status}.", param="upload_id")
        return stored

    async def _joined(self, part_ids: Sequence[str], digest: "hashlib._Hash | None") -> AsyncGenerator[bytes, None]:
        for part_id in part_ids:
            async with aclosing(self._blobs.read(part_id)) as pieces:
                async for piece in pieces:
                    if digest is not None:
                        await asyncio.to_thread(digest.update, piece)
                    yield piece

    # -- rows and bytes

    @asynccontextmanager
    async def _written(self, key: str, content: AsyncIterable[bytes]) -> AsyncIterator[tuple[str, int]]:
        """A blob that has been written; unless something takes it before the block ends, it is gone then."""
        if self._writes >= self._limits.file_writes_max:
            raise TooManyRequests("Too many files are being received at once. Please retry in a few seconds.")
        self._writes += 1
        try:
            await self._store.reserve(key, self._clock() + WRITING_S)
            try:
                yield key, await self._blobs.write(key, content)
            except BaseException:
                if await self._store.release(key):
                    await self._drop([key])
                raise
        finally:
            self._writes -= 1

    async def _drop(self, keys: Sequence[str]) -> None:
        """Deletes loose blobs. What cannot be deleted now is left to the next sweep."""
        try:
            for key in keys:
                await self._blobs.delete(key)
            await self._store.forget(keys)
        except StorageError as error:
            log.warning("bytes of files were not deleted", reason=error.message)

    def _file_id(self) -> str:
        return self._new_id("file").replace("_", "-", 1)

    def _file(self, file_id: str, size: int, filename: str, purpose: FilePurpose, seconds: int | None) -> FileObject:
        now = self._clock()
        seconds = seconds or (EXPIRY_S_MAX if purpose == "batch" else None)
        expires_at = now + seconds if seconds else None
        return FileObject(
            id=file_id, bytes=size, created_at=now, expires_at=expires_at, filename=filename, purpose=purpose
        )

    def _raise_for(self, obstacle: Obstacle | None, param: str | None) -> None:
        if obstacle is not None:
            words, name = _BOUNDS[obstacle]
            raise InvalidRequest(f"{words.format(getattr(self._limits, name))} (limits.{name}).", param=param)

    # -- sweeping

    async def sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except StorageError as error:
                log.warning("expired files were not swept", reason=error.message)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Drops all that has expired, and all blobs that nothing holds."""
        while await self._store.expire(self._clock(), SWEEP_MAX) == SWEEP_MAX:
            pass
        while keys := await self._store.loose(self._clock(), SWEEP_MAX):
            for key in keys:
                await self._blobs.delete(key)
            await self._store.forget(keys)


_BOUNDS: Final[dict[Obstacle, tuple[str, str]]] = {
    "files": ("A project may keep at most {} files and pending uploads; delete some", "files_per_project_max"),
    "bytes": ("The files of a project may have at most {} bytes in all; delete some", "file_bytes_per_project_max"),
    "parts": ("An upload may have at most {} parts", "upload_parts_max"),
}
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters and line ends, which would break headers and logs, and what no UTF-8 is."""


def safe_filename(name: str, param: str) -> str:
    """The last part of the path that a client may have sent. Raises InvalidValue for what cannot be a name."""
    bare = re.split(r"[/\\]", name)[-1]
    if not bare.strip() or bare in {".", ".."} or _UNFIT.search(bare) or len(bare) > FILENAME_CHARS_MAX:
        raise InvalidValue(
            f"Invalid '{param}': expected the name of a file, of 1 to {FILENAME_CHARS_MAX} characters and without "
            "control characters.",
            param=param,
        )
    return bare


def _seconds(expiry: FileExpiry | None) -> int | None:
    return expiry.seconds if expiry else None


def _check_parts(upload: Upload, wanted: Sequence[str], known: Mapping[str, int]) -> None:
    for index, part_id in enumerate(wanted):
        if part_id not in known:
            raise InvalidValue(f"The upload has no part '{part_id[:128]}'.", param=f"part_ids[{index}]")
    if len(set(wanted)) < len(wanted):
        raise InvalidValue("Invalid 'part_ids': a part is named more than once.", param="part_ids")
    total = sum(known[part_id] for part_id in wanted)
    if total != upload.bytes:
        raise InvalidValue(
            f"The parts have {total} bytes in all, but the upload was created for {upload.bytes}.", param="part_ids"
        )
