"""Files and uploads in a database: the scripts on their rows. Knows no driver, no thread and no blob."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from antiphon.core.ports import CopyBounds, FilePage, FileQuery, Obstacle, Quota, StoredUpload
from antiphon.errors import NotFound, StorageError
from antiphon.stores import sql
from antiphon.stores.script import HOLD, UNHURRIED, Access, Query, Row, Script, column_of, row_of, rows_of
from antiphon.wire.files import FileObject, Upload, UploadPart

PAGE_HERE_MAX: Final = 100
"""A page this long is read on the event loop in a fraction of a millisecond."""
FAILURE: Final = "The file could not be saved."

_FILE = "id, bytes, created_at, expires_at, filename, purpose"
_LIVES = "(expires_at IS NULL OR expires_at > ?)"
ADD_FILE = f"INSERT INTO files (project, {_FILE}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
READ_FILE = f"SELECT {_FILE} FROM files WHERE project = ? AND id = ? AND {_LIVES}"  # noqa: S608 - constants only
FIND_CURSOR = f"SELECT created_at, n FROM files WHERE project = ? AND id = ? AND {_LIVES}"  # noqa: S608
DROP_FILE = f"DELETE FROM files WHERE project = ? AND id = ? AND {_LIVES} RETURNING bytes"  # noqa: S608
DROP_EXPIRED_FILES = """
DELETE FROM files WHERE n IN (SELECT n FROM files WHERE expires_at <= ? LIMIT ?) RETURNING project, id, bytes"""

_UPLOAD = "id, status, bytes, created_at, expires_at, filename, purpose, expires_after_s"
ADD_UPLOAD = f"INSERT INTO uploads (project, {_UPLOAD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
READ_UPLOAD = f"SELECT {_UPLOAD} FROM uploads WHERE project = ? AND id = ? AND expires_at > ?"  # noqa: S608
FIND_PENDING = f"""
SELECT n FROM uploads WHERE project = ? AND id = ? AND expires_at > ? AND status = 'pending' {HOLD}"""  # noqa: S608
FIND_EXPIRED_UPLOADS = f"SELECT n, project, status FROM uploads WHERE expires_at <= ? LIMIT ? {HOLD}"  # noqa: S608
END_UPLOAD = "UPDATE uploads SET status = ? WHERE n = ?"
DROP_UPLOAD = "DELETE FROM uploads WHERE n = ?"
ADD_PART = "INSERT INTO upload_parts (upload, id, bytes) VALUES (?, ?, ?)"
COUNT_PARTS = "SELECT count(*) FROM upload_parts WHERE upload = ?"
READ_PARTS = """
SELECT p.id, p.bytes FROM uploads u JOIN upload_parts p ON p.upload = u.n WHERE u.project = ? AND u.id = ?"""
DROP_PARTS = "DELETE FROM upload_parts WHERE upload = ? RETURNING id, bytes"

HAS_EXPIRED = """
SELECT 1 FROM files WHERE expires_at <= ? UNION ALL SELECT 1 FROM uploads WHERE expires_at <= ? LIMIT 1"""
USE = """
INSERT INTO file_usage (project, files, bytes) VALUES (?, ?, ?)
ON CONFLICT (project) DO UPDATE SET files = file_usage.files + ?, bytes = file_usage.bytes + ?
RETURNING files, bytes"""

ALONE_WITH_COPIES = "SELECT 1 /* , pg_advisory_xact_lock(6001) */"
FIND_COPY = "SELECT key FROM copies WHERE digest = ?"
DROP_COPY = "DELETE FROM copies WHERE digest = ? RETURNING key"
ADD_COPY = "INSERT INTO copies (digest, key, bytes) VALUES (?, ?, ?)"
COUNT_COPIES = "SELECT count(*), sum(bytes) FROM copies"
DROP_OLDEST_COPY = "DELETE FROM copies WHERE n = (SELECT min(n) FROM copies) RETURNING key, bytes"

LOOSEN = "INSERT INTO loose_blobs (key, due_at) VALUES (?, ?)"
TAKE = "DELETE FROM loose_blobs WHERE key = ? RETURNING 1"
IS_LOOSE = "SELECT 1 FROM loose_blobs WHERE key = ?"
READ_LOOSE = "SELECT key FROM loose_blobs WHERE due_at <= ? ORDER BY due_at LIMIT ?"


class StoredFiles:
    """Implements the port FileStore."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._write = access.write

    async def reserve(self, key: str, due_at: int) -> None:
        await self._write(partial(rows_of, LOOSEN, (key, due_at)), 0, FAILURE)

    async def release(self, key: str) -> bool:
        """As a write, so that it comes after a save that was given up."""
        return bool(await self._write(partial(rows_of, IS_LOOSE, (key,)), 0, FAILURE))

    async def add(self, project: str, file: FileObject, quota: Quota) -> Obstacle | None:
        return await self._write(partial(_add, project, file, quota), 0, FAILURE)

    async def file(self, project: str, file_id: str, now: int) -> FileObject | None:
        found = await self._access.rows(READ_FILE, (project, file_id, now))
        return _file(found[0]) if found else None

    async def page(self, project: str, query: FileQuery, now: int) -> FilePage:
        read = self._access.read if query.limit <= PAGE_HERE_MAX else self._access.read_far
        return await read(partial(_read_page, project, query, now))

    async def delete(self, project: str, file_id: str, now: int) -> bool:
        return await self._write(partial(_delete, project, file_id, now), 0, "The file was not deleted.")

    async def add_upload(self, project: str, stored: StoredUpload, quota: Quota) -> Obstacle | None:
        return await self._write(partial(_add_upload, project, stored, quota), 0, "The upload was not created.")

    async def upload(self, project: str, upload_id: str, now: int) -> StoredUpload | None:
        found = await self._access.rows(READ_UPLOAD, (project, upload_id, now))
        return _upload(found[0]) if found else None

    async def add_part(self, project: str, part: UploadPart, size_bytes: int, quota: Quota) -> Obstacle | None:
        return await self._write(partial(_add_part, project, part, size_bytes, quota), 0, "The part was not saved.")

    async def parts(self, project: str, upload_id: str) -> Mapping[str, int]:
        return dict(await self._access.read_far(partial(rows_of, READ_PARTS, (project, upload_id))))

    async def complete(self, project: str, upload_id: str, file: FileObject) -> Obstacle | None:
        return await self._write(partial(_complete, project, upload_id, file), UNHURRIED, "The file was not saved.")

    async def cancel(self, project: str, upload_id: str, now: int) -> Obstacle | None:
        return await self._write(partial(_cancel, project, upload_id, now), UNHURRIED, "The upload was not cancelled.")

    async def copy(self, digest: str) -> str | None:
        found = await self._access.rows(FIND_COPY, (digest,))
        return str(found[0][0]) if found else None

    async def keep_copy(self, digest: str, key: str, size_bytes: int, bounds: CopyBounds, now: int) -> None:
        await self._write(partial(_keep_copy, digest, key, size_bytes, bounds, now), UNHURRIED, FAILURE)

    async def expire(self, now: int, limit: int) -> int:
        if not await self._access.rows(HAS_EXPIRED, (now, now)):
            return 0  # the usual case takes no lock
        return await self._write(partial(_expire, now, limit), UNHURRIED, "What has expired was not deleted.")

    async def loose(self, now: int, limit: int) -> Sequence[str]:
        return [key for (key,) in await self._access.rows(READ_LOOSE, (now, limit))]

    async def forget(self, keys: Sequence[str]) -> None:
        if keys:
            await self._write(partial(_forget, keys), UNHURRIED, "What was deleted is still noted.")


# -- scripts


def _use(project: str, *, files: int = 0, size_bytes: int = 0) -> Query:
    """So much more. Whoever uses nothing is told how much is used, and is alone with it from then on."""
    return USE, (project, max(files, 0), max(size_bytes, 0), files, size_bytes)


def _take(key: str) -> Script[None]:
    if not (yield from rows_of(TAKE, (key,))):
        raise StorageError(f"{FAILURE} (it took too long)")


def _full(project: str, quota: Quota, *, files: int, size_bytes: int) -> Script[Obstacle | None]:
    (((used_files, used_bytes),),) = yield [_use(project)]
    if used_files + files > quota.files_max:
        return "files"
    return "bytes" if used_bytes + size_bytes > quota.bytes_max else None


def _add(project: str, file: FileObject, quota: Quota) -> Script[Obstacle | None]:
    if full := (yield from _full(project, quota, files=1, size_bytes=file.bytes)):
        return full
    yield from _take(file.id)
    yield [(ADD_FILE, (project, *_columns(file))), _use(project, files=1, size_bytes=file.bytes)]
    return None


def _delete(project: str, file_id: str, now: int) -> Script[bool]:
    found = yield from row_of(DROP_FILE, (project, file_id, now))
    if found is None:
        return False
    yield [_use(project, files=-1, size_bytes=-found[0]), (LOOSEN, (file_id, now))]
    return True


def _add_upload(project: str, stored: StoredUpload, quota: Quota) -> Script[Obstacle | None]:
    upload = stored.upload
    if full := (yield from _full(project, quota, files=1, size_bytes=upload.bytes)):
        return full
    times = (upload.created_at, upload.expires_at)
    about = (upload.filename, upload.purpose, stored.expires_after_s)
    added = (project, upload.id, upload.status, upload.bytes, *times, *about)
    yield [(ADD_UPLOAD, added), _use(project, files=1)]
    return None


def _pending(project: str, upload_id: str, now: int) -> Script[int | None]:
    found = yield from row_of(FIND_PENDING, (project, upload_id, now))
    return int(found[0]) if found else None


def _add_part(project: str, part: UploadPart, size_bytes: int, quota: Quota) -> Script[Obstacle | None]:
    n = yield from _pending(project, part.upload_id, part.created_at)
    if n is None:
        return "ended"
    if (yield from column_of(COUNT_PARTS, (n,)))[0] >= quota.parts_max:
        return "parts"
    if full := (yield from _full(project, quota, files=0, size_bytes=size_bytes)):
        return full
    yield from _take(part.id)
    yield [(ADD_PART, (n, part.id, size_bytes)), _use(project, size_bytes=size_bytes)]
    return None


def _complete(project: str, upload_id: str, file: FileObject) -> Script[Obstacle | None]:
    n = yield from _pending(project, upload_id, file.created_at)
    if n is None:
        return "ended"
    yield from _take(file.id)
    yield [(END_UPLOAD, ("completed", n))]
    yield from _loosen_parts(project, n, file.created_at)
    # It counted as a file already.
    yield [(ADD_FILE, (project, *_columns(file))), _use(project, size_bytes=file.bytes)]
    return None


def _cancel(project: str, upload_id: str, now: int) -> Script[Obstacle | None]:
    n = yield from _pending(project, upload_id, now)
    if n is None:
        return "ended"
    yield [(END_UPLOAD, ("cancelled", n))]
    yield from _loosen_parts(project, n, now)
    yield [_use(project, files=-1)]
    return None


def _loosen_parts(project: str, n: int, now: int) -> Script[None]:
    parts = yield from rows_of(DROP_PARTS, (n,))
    loosened: list[Query] = [(LOOSEN, (part_id, now)) for part_id, _ in parts]
    yield [*loosened, _use(project, size_bytes=-sum(size for _, size in parts))]


def _keep_copy(digest: str, key: str, size_bytes: int, bounds: CopyBounds, now: int) -> Script[None]:
    yield [(ALONE_WITH_COPIES, ())]
    yield from _take(key)
    gone = yield from rows_of(DROP_COPY, (digest,))
    _, ((copies, held),) = yield [(ADD_COPY, (digest, key, size_bytes)), (COUNT_COPIES, ())]
    while copies > bounds.copies_max or held > bounds.bytes_max:
        [oldest] = yield from rows_of(DROP_OLDEST_COPY)
        gone.append(oldest)
        copies, held = copies - 1, held - oldest[1]
    yield [(LOOSEN, (old[0], now)) for old in gone]


def _expire(now: int, limit: int) -> Script[int]:
    files = yield from rows_of(DROP_EXPIRED_FILES, (now, limit))
    for project, file_id, size in files:
        yield [_use(project, files=-1, size_bytes=-size), (LOOSEN, (file_id, now))]
    uploads = yield from rows_of(FIND_EXPIRED_UPLOADS, (now, limit - len(files)))
    for n, project, status in uploads:
        yield from _loosen_parts(project, n, now)
        yield [_use(project, files=-1 if status == "pending" else 0), (DROP_UPLOAD, (n,))]
    return len(files) + len(uploads)


def _forget(keys: Sequence[str]) -> Script[None]:
    yield [(TAKE, (key,)) for key in keys]


def _read_page(project: str, query: FileQuery, now: int) -> Script[FilePage]:
    place = sql.FIRST[query.order]
    if query.after is not None:
        found = yield from row_of(FIND_CURSOR, (project, query.after, now))
        if found is None:
            raise NotFound(f"File with id '{query.after[:128]}' not found.", param="after")
        place = found
    purposes = () if query.purpose is None else (query.purpose,)
    where = "project = ? AND purpose = ?" if purposes else "project = ?"
    listing = f"SELECT {_FILE} FROM files WHERE {where} AND {_LIVES} AND {sql.BEYOND[query.order]} LIMIT ?"  # noqa: S608
    rows = yield from rows_of(listing, (project, *purposes, now, *place, query.limit + 1))
    return FilePage(files=tuple(map(_file, rows[: query.limit])), has_more=len(rows) > query.limit)


# -- rows


def _columns(file: FileObject) -> Row:
    return (file.id, file.bytes, file.created_at, file.expires_at, file.filename, file.purpose)


def _file(row: Row) -> FileObject:
    file_id, size, created_at, expires_at, filename, purpose = row
    return FileObject(
        id=file_id, bytes=size, created_at=created_at, expires_at=expires_at, filename=filename, purpose=purpose
    )


def _upload(row: Row) -> StoredUpload:
    upload_id, status, size, created_at, expires_at, filename, purpose, expires_after_s = row
    upload = Upload(
        id=upload_id,
        status=status,
        bytes=size,
        created_at=created_at,
        expires_at=expires_at,
        filename=filename,
        purpose=purpose,
    )
    return StoredUpload(upload=upload, expires_after_s=expires_after_s)
