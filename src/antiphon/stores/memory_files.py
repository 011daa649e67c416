"""MemoryFiles: the part of MemoryStore that knows files and uploads, as plainly as can be. Knows no blob."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from antiphon.core.ports import CopyBounds, FilePage, FileQuery, Obstacle, Quota, StoredUpload
from antiphon.errors import NotFound, StorageError
from antiphon.wire.files import FileObject, UploadPart, UploadStatus


@dataclass
class _Upload:
    project: str
    stored: StoredUpload
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def is_pending(self) -> bool:
        return self.stored.upload.status == "pending"


class MemoryFiles:
    """Implements the port FileStore: three dictionaries, in the order in which things came. Counts anew each time."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[str, FileObject]] = {}
        self._uploads: dict[str, _Upload] = {}
        self._copies: dict[str, tuple[str, int]] = {}
        self._loose: dict[str, int] = {}

    async def reserve(self, key: str, due_at: int) -> None:
        if key in self._loose:
            raise StorageError("This blob is noted already.")
        self._loose[key] = due_at

    async def release(self, key: str) -> bool:
        return key in self._loose

    async def add(self, project: str, file: FileObject, quota: Quota) -> Obstacle | None:
        if full := self._full(project, quota, files=1, size_bytes=file.bytes):
            return full
        self._take(file.id)
        self._files[file.id] = (project, file)
        return None

    async def file(self, project: str, file_id: str, now: int) -> FileObject | None:
        owner, file = self._files.get(file_id, (None, None))
        return file if file and owner == project and _lives(file, now) else None

    async def page(self, project: str, query: FileQuery, now: int) -> FilePage:
        living = [file for owner, file in self._files.values() if owner == project and _lives(file, now)]
        living.sort(key=lambda file: file.created_at)  # what is equal stays as it was added
        if query.order == "desc":
            living.reverse()
        if query.after is not None:
            places = {file.id: place for place, file in enumerate(living, 1)}
            if query.after not in places:
                raise NotFound(f"File with id '{query.after[:128]}' not found.", param="after")
            living = living[places[query.after] :]
        matching = [file for file in living if query.purpose in (None, file.purpose)]
        return FilePage(files=tuple(matching[: query.limit]), has_more=len(matching) > query.limit)

    async def delete(self, project: str, file_id: str, now: int) -> bool:
        if not await self.file(project, file_id, now):
            return False
        del self._files[file_id]
        self._loose[file_id] = now
        return True

    async def add_upload(self, project: str, stored: StoredUpload, quota: Quota) -> Obstacle | None:
        if full := self._full(project, quota, files=1, size_bytes=stored.upload.bytes):
            return full
        self._uploads[stored.upload.id] = _Upload(project, stored)
        return None

    async def upload(self, project: str, upload_id: str, now: int) -> StoredUpload | None:
        upload = self._uploads.get(upload_id)
        found = upload and upload.project == project and upload.stored.upload.expires_at > now
        return upload.stored if upload and found else None

    async def add_part(self, project: str, part: UploadPart, size_bytes: int, quota: Quota) -> Obstacle | None:
        upload = await self._pending(project, part.upload_id, part.created_at)
        if upload is None:
            return "ended"
        if len(upload.parts) >= quota.parts_max:
            return "parts"
        if full := self._full(project, quota, files=0, size_bytes=size_bytes):
            return full
        self._take(part.id)
        upload.parts[part.id] = size_bytes
        return None

    async def parts(self, project: str, upload_id: str) -> Mapping[str, int]:
        upload = self._uploads.get(upload_id)
        return dict(upload.parts) if upload and upload.project == project else {}

    async def complete(self, project: str, upload_id: str, file: FileObject) -> Obstacle | None:
        upload = await self._pending(project, upload_id, file.created_at)
        if upload is None:
            return "ended"
        self._take(file.id)
        self._end(upload, "completed", file.created_at)
        self._files[file.id] = (project, file)
        return None

    async def cancel(self, project: str, upload_id: str, now: int) -> Obstacle | None:
        upload = await self._pending(project, upload_id, now)
        if upload is None:
            return "ended"
        self._end(upload, "cancelled", now)
        return None

    async def copy(self, digest: str) -> str | None:
        return self._copies.get(digest, (None, 0))[0]

    async def keep_copy(self, digest: str, key: str, size_bytes: int, bounds: CopyBounds, now: int) -> None:
        self._take(key)
        gone = [self._copies.pop(digest, ("", 0))]
        self._copies[digest] = key, size_bytes
        while len(self._copies) > bounds.copies_max or self._copied > bounds.bytes_max:
            gone.append(self._copies.pop(next(iter(self._copies))))
        self._loose |= {old: now for old, _ in gone if old}

    @property
    def _copied(self) -> int:
        return sum(size for _, size in self._copies.values())

    async def expire(self, now: int, limit: int) -> int:
        files = [file_id for file_id, (_, file) in self._files.items() if not _lives(file, now)][:limit]
        for file_id in files:
            del self._files[file_id]
            self._loose[file_id] = now
        old = [key for key, upload in self._uploads.items() if upload.stored.upload.expires_at <= now]
        for upload_id in old[: limit - len(files)]:
            self._end(self._uploads.pop(upload_id), "expired", now)
        return min(len(files) + len(old), limit)

    async def loose(self, now: int, limit: int) -> Sequence[str]:
        due = [key for key, due_at in self._loose.items() if due_at <= now]
        return sorted(due, key=self._loose.__getitem__)[:limit]

    async def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._loose.pop(key, None)

    async def _pending(self, project: str, upload_id: str, now: int) -> _Upload | None:
        found = await self.upload(project, upload_id, now)
        return self._uploads[upload_id] if found and found.upload.status == "pending" else None

    def _end(self, upload: _Upload, status: UploadStatus, now: int) -> None:
        self._loose |= dict.fromkeys(upload.parts, now)
        upload.parts.clear()
        upload.stored = replace(upload.stored, upload=replace(upload.stored.upload, status=status))

    def _take(self, key: str) -> None:
        if self._loose.pop(key, None) is None:
            raise StorageError("The file could not be saved. (it took too long)")

    def _full(self, project: str, quota: Quota, *, files: int, size_bytes: int) -> Obstacle | None:
        kept = [file.bytes for owner, file in self._files.values() if owner == project]
        uploads = [one for one in self._uploads.values() if one.project == project and one.is_pending]
        if len(kept) + len(uploads) + files > quota.files_max:
            return "files"
        used = sum(kept) + sum(sum(upload.parts.values()) for upload in uploads)
        return "bytes" if used + size_bytes > quota.bytes_max else None


def _lives(file: FileObject, now: int) -> bool:
    return file.expires_at is None or file.expires_at > now
