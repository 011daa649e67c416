"""DiskBlobs: each blob a file in one directory, under its key. Knows no project, no name of a client's, and no row.

How it works. A blob grows in `drafts/`, is synced, and moves to its place in one step, so that what stands there is
whole. A draft is locked for as long as its writer lives. So at start, the drafts that can be locked are what a crash
left, whatever other processes are writing right now, and go.

All that may wait for the disk runs in threads of its own. Whoever awaits such a step may be cancelled while it still
goes on, so each file has a lock, and is closed or deleted after the step, not under it.
"""

import asyncio
import os
import re
import secrets
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final, TypeVar

from antiphon.config import Storage
from antiphon.core.ports import Check
from antiphon.errors import NotFound, SettingsError, StorageError

if sys.platform != "win32":
    import fcntl

PIECE_BYTES: Final = 1024 * 1024
"""Written or read in one step: less would cost more in changes of threads than in copying."""
THREADS: Final = 8
DRAFT_ATTEMPTS_MAX: Final = 100
"""A new draft is lost to a starting process that sweeps in the moment before it is locked; then another is made."""
KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")

T = TypeVar("T")


class DiskBlobs:
    """Implements the port Blobs. Opening makes the directory and sweeps it, and may raise SettingsError."""

    def __init__(self, storage: Storage) -> None:
        self._folder = Path(storage.files or f"{storage.database}.files").expanduser().absolute()
        self._drafts = self._folder / "drafts"
        self._is_durable = storage.synchronous == "full"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._drafts.mkdir(mode=0o700, exist_ok=True)
            for path in self._drafts.iterdir():
                _sweep(path)
        except OSError as error:
            raise SettingsError(
                f"The directory for files, {self._folder}, cannot be used: {_reason(error)}."
            ) from error
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        draft = _Draft(self._drafts, self._place(key), is_durable=self._is_durable)
        waiting, size = bytearray(), 0
        try:
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= PIECE_BYTES:
                    size += len(waiting)
                    piece, waiting = waiting, bytearray()
                    await self._run(partial(draft.write, piece), _NOT_WRITTEN)
            size += len(waiting)
            await self._run(partial(draft.write, waiting), _NOT_WRITTEN)
            await self._run(draft.keep, _NOT_WRITTEN)
        except BaseException:
            await self._run(draft.discard, _NOT_WRITTEN)
            raise
        return size

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes, None]:
        reading = _Reading(self._place(key), start)
        try:
            while stop is None or start < stop:
                wanted = PIECE_BYTES if stop is None else min(PIECE_BYTES, stop - start)
                piece = await self._run(partial(reading.read, wanted), _NOT_READ)
                if not piece:
                    return
                start += len(piece)
                yield piece
        finally:
            await self._run(reading.close, _NOT_READ)

    async def delete(self, key: str) -> None:
        await self._run(partial(self._place(key).unlink, missing_ok=True), "The file's bytes could not be deleted.")

    async def check(self) -> Check:
        draft = _Draft(self._drafts, self._folder / "probe", is_durable=True)
        try:
            await self._run(partial(draft.write, b"a true write"), _NOT_WRITTEN)
            await self._run(draft.keep, _NOT_WRITTEN)
        except StorageError as error:
            remedy = "let this user write there and make room on that disk, or choose another place: [storage] files"
            return Check(name="files", ok=False, detail=f"{self._folder}: {error.message}", remedy=remedy)
        finally:
            await self._run(draft.discard, _NOT_WRITTEN)
        return Check(name="files", ok=True, detail=f"{self._folder}: writable")

    async def close(self) -> None:
        """Waits for what is under way."""
        await asyncio.to_thread(self._threads.shutdown)

    def _place(self, key: str) -> Path:
        if not KEY.match(key):
            raise AssertionError(f"no key of this server's: {key!r}")
        return self._folder / key

    async def _run(self, step: Callable[[], T], failure: str) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, step)
        except (OSError, RuntimeError) as error:  # RuntimeError: closed, or the system gives no thread
            raise StorageError(f"{failure} ({_reason(error)})") from error


_NOT_WRITTEN: Final = "The file could not be saved."
_NOT_READ: Final = "The file could not be read."


def _reason(error: OSError | RuntimeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# -- in threads


class _Draft:
    """A blob on its way to `place`. Its first step makes the file."""

    def __init__(self, drafts: Path, place: Path, *, is_durable: bool) -> None:
        self._drafts = drafts
        self._path = drafts / place.name
        self._place = place
        self._is_durable = is_durable
        self._file: BinaryIO | None = None
        self._is_kept = False
        self._lock = Lock()

    def write(self, piece: bytes | bytearray) -> None:
        with self._lock:
            if self._file is None:
                self._path, self._file = _locked_file(self._drafts, self._place.name)
            self._file.write(piece)

    def keep(self) -> None:
        """Its data is always synced: a row that outlived a power cut must not stand for a file that did not."""
        with self._lock:
            assert self._file is not None
            self._file.flush()
            os.fsync(self._file.fileno())
            if sys.platform == "win32":  # which moves no open file
                self._file.close()
            self._path.replace(self._place)
            self._is_kept = True
            self._file.close()
            if self._is_durable:
                _sync_directory(self._place.parent)

    def discard(self) -> None:
        """Neither the draft nor what it became is there afterwards."""
        with self._lock:
            if self._file is not None:
                with suppress(OSError):  # a full disk, once more
                    self._file.close()
                (self._place if self._is_kept else self._path).unlink(missing_ok=True)


class _Reading:
    """An open blob. Its first step opens it."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._start = start
        self._file: BinaryIO | None = None
        self._lock = Lock()

    def read(self, size: int) -> bytes:
        with self._lock:
            if self._file is None:
                try:
                    self._file = self._path.open("rb")
                except FileNotFoundError:
                    raise NotFound("The bytes of this file are not there.") from None
                self._file.seek(self._start)
            return self._file.read(size)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()


def _locked_file(drafts: Path, name: str) -> tuple[Path, BinaryIO]:
    for _ in range(DRAFT_ATTEMPTS_MAX):
        path = drafts / f"{name}.{secrets.token_hex(8)}"
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return path, file
        except BaseException:
            file.close()
            raise
        file.close()
    raise OSError("drafts are deleted as fast as they are made")


def _sweep(draft: Path) -> None:
    """Deletes a draft, unless its writer lives."""
    with suppress(BlockingIOError, FileNotFoundError, PermissionError), draft.open("rb") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()
    if sys.platform == "win32":
        with suppress(OSError):  # open in its writer, which Windows does not delete
            draft.unlink()


def _sync_directory(folder: Path) -> None:
    if sys.platform != "win32":
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)
