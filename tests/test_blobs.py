"""What keeps bytes must do, on every such adapter; and what only a disk can go through: crashes, no room, others."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from antiphon import blobs
from antiphon.blobs.disk import PIECE_BYTES, DiskBlobs
from antiphon.blobs.memory import MemoryBlobs
from antiphon.config import Storage
from antiphon.core.ports import Blobs
from antiphon.errors import NotFound, SettingsError, StorageError
from tests.conftest import WAIT_S


def on_disk(folder: Path) -> Blobs:
    return DiskBlobs(Storage(database=str(folder / "test.db")))


def durable(folder: Path) -> Blobs:
    return DiskBlobs(Storage(database=str(folder / "test.db"), synchronous="full"))


def in_memory(_: Path) -> Blobs:
    return MemoryBlobs(Storage(database=":memory:"))


KINDS: dict[str, Callable[[Path], Blobs]] = {"disk": on_disk, "disk, full": durable, "memory": in_memory}


@pytest.fixture(params=KINDS)
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    opened = KINDS[request.param](tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskBlobs]:
    opened = DiskBlobs(Storage(database=str(tmp_path / "test.db")))
    yield opened
    await opened.close()


async def these(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk


async def all_of(pieces: AsyncGenerator[bytes, None]) -> bytes:
    async with aclosing(pieces), asyncio.timeout(WAIT_S):
        return b"".join([piece async for piece in pieces])


def left_in(folder: Path) -> list[str]:
    """Every file below, by its name."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# -- on every adapter

LONG = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"end"


@pytest.mark.parametrize("chunks", [(), (b"",), (b"a",), (b"ab", b"", b"c"), (LONG,), (LONG, b"x", LONG)])
async def test_what_was_written_is_read(kept: Blobs, chunks: tuple[bytes, ...]) -> None:
    whole = b"".join(chunks)

    assert await kept.write("file-1", these(*chunks)) == len(whole)
    assert await all_of(kept.read("file-1")) == whole


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 5), (3, 7), (4, None), (10, None), (99, None), (5, 99)])
async def test_a_range_of_it_is_read(kept: Blobs, start: int, stop: int | None) -> None:
    await kept.write("file-1", these(b"0123456789"))

    assert await all_of(kept.read("file-1", start, stop)) == b"0123456789"[start:stop]


async def test_a_range_of_what_is_long_is_read(kept: Blobs) -> None:
    await kept.write("file-1", these(LONG))

    found = await all_of(kept.read("file-1", 5, 2 * PIECE_BYTES + 7))
    assert found == LONG[5 : 2 * PIECE_BYTES + 7]


async def test_no_piece_is_larger_than_what_fits_in_memory_many_times(disk: DiskBlobs) -> None:
    await disk.write("file-1", these(LONG))

    async with aclosing(disk.read("file-1")) as pieces:
        assert max([len(piece) async for piece in pieces]) <= PIECE_BYTES


async def test_what_was_deleted_is_gone_and_may_be_deleted_again(kept: Blobs) -> None:
    await kept.write("file-1", these(b"a"))
    await kept.write("file-2", these(b"b"))
    await kept.delete("file-1")
    await kept.delete("file-1")

    with pytest.raises(NotFound):
        await all_of(kept.read("file-1"))
    assert await all_of(kept.read("file-2")) == b"b"


async def test_what_is_being_read_is_read_to_its_end_though_it_is_deleted(kept: Blobs) -> None:
    await kept.write("file-1", these(LONG))
    async with aclosing(kept.read("file-1")) as pieces:
        read = await anext(pieces)
        await kept.delete("file-1")
        async for piece in pieces:
            read += piece

    assert read == LONG


async def test_many_are_written_and_read_at_once(kept: Blobs) -> None:
    contents = {f"file-{n}": LONG[: n * 100_000] for n in range(20)}

    await asyncio.gather(*(kept.write(key, these(content)) for key, content in contents.items()))

    found = await asyncio.gather(*(all_of(kept.read(key)) for key in contents))
    assert found == list(contents.values())


class Broken(Exception):
    pass


async def breaking(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        yield chunk
    raise Broken


@pytest.mark.parametrize("chunks", [(), (b"a",), (LONG, LONG)])
async def test_what_breaks_off_leaves_nothing(kept: Blobs, tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(Broken):
        await kept.write("file-1", breaking(*chunks))

    with pytest.raises(NotFound):
        await all_of(kept.read("file-1"))
    assert left_in(tmp_path) == []


async def test_what_is_cancelled_leaves_nothing(kept: Blobs, tmp_path: Path) -> None:
    is_asked = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        yield LONG
        is_asked.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(kept.write("file-1", endless()))
    await asyncio.wait_for(is_asked.wait(), WAIT_S)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    with pytest.raises(NotFound):
        await all_of(kept.read("file-1"))
    assert left_in(tmp_path) == []


async def test_cancelled_at_any_step_it_is_there_whole_or_not_at_all(kept: Blobs, tmp_path: Path) -> None:
    """Each time a turn of the event loop later."""
    for turns in range(30):
        key = f"file-{turns}"
        writing = asyncio.create_task(kept.write(key, these(LONG, LONG)))
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        (ended,) = await asyncio.gather(writing, return_exceptions=True)
        if isinstance(ended, asyncio.CancelledError):
            with pytest.raises(NotFound):
                await all_of(kept.read(key))
        else:
            assert await all_of(kept.read(key)) == LONG + LONG
            await kept.delete(key)
    assert left_in(tmp_path) == []


async def test_what_fails_leaves_what_was_there_before(kept: Blobs) -> None:
    await kept.write("file-1", these(b"before"))

    with pytest.raises(Broken):
        await kept.write("file-1", breaking(LONG))

    assert await all_of(kept.read("file-1")) == b"before"


async def test_its_check_is_well_and_leaves_nothing(kept: Blobs, tmp_path: Path) -> None:
    check = await kept.check()

    assert (check.name, check.ok) == ("files", True)
    assert left_in(tmp_path) == []


# -- on the disk


@pytest.mark.parametrize("key", ["", "../x", "a/b", "a\\b", "a\0b", ".", "ä", "a" * 129, "a\n"])
async def test_no_key_leads_elsewhere(disk: DiskBlobs, key: str) -> None:
    with pytest.raises(AssertionError):
        await disk.write(key, these(b"a"))
    with pytest.raises(AssertionError):
        await disk.delete(key)


async def test_only_its_owner_can_read_it(disk: DiskBlobs, tmp_path: Path) -> None:
    await disk.write("file-1", these(b"a"))

    folder = tmp_path / "test.db.files"
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "file-1").stat().st_mode & 0o077 == 0


WRITER = """
import asyncio, sys
from antiphon.blobs.disk import DiskBlobs
from antiphon.config import Storage

async def endless():
    yield b"x" * (2 << 20)
    while True:
        await asyncio.to_thread(sys.stdin.readline)
        yield b"more" * (1 << 20)

async def run():
    blobs = DiskBlobs(Storage(database=sys.argv[1]))
    writing = asyncio.create_task(blobs.write("file-other", endless()))
    drafts = blobs._drafts
    while not any(path.stat().st_size for path in drafts.iterdir()):
        await asyncio.sleep(0)
    print("writing", flush=True)
    await writing

asyncio.run(run())
"""


async def test_drafts_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    database = str(tmp_path / "test.db")
    pipe = asyncio.subprocess.PIPE
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, database, stdin=pipe, stdout=pipe)
    try:
        assert writer.stdout
        assert await asyncio.wait_for(writer.stdout.readline(), WAIT_S) == b"writing\n"
        await DiskBlobs(Storage(database=database)).close()
        drafts = left_in(tmp_path)
        assert [name.partition(".")[0] for name in drafts] == ["file-other"]
    finally:
        writer.kill()
        await asyncio.wait_for(writer.wait(), WAIT_S)
    assert left_in(tmp_path) == drafts

    await DiskBlobs(Storage(database=database)).close()

    assert left_in(tmp_path) == []


FULL = """
import asyncio, resource, signal, sys
from antiphon.blobs.disk import DiskBlobs
from antiphon.config import Storage
from antiphon.errors import StorageError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))

async def much():
    for _ in range(5):
        yield b"x" * (1 << 20)

async def run():
    blobs = DiskBlobs(Storage(database=sys.argv[1]))
    try:
        await blobs.write("file-1", much())
    except StorageError as error:
        print(error.message)
    await blobs.close()

asyncio.run(run())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on sizes of files")
def test_on_a_full_disk_it_fails_by_name_and_leaves_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "test.db")],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )

    assert ended.stdout == "The file could not be saved. (File too large)\n"
    assert left_in(tmp_path) == []


async def test_a_draft_that_is_swept_before_it_is_locked_is_made_again(disk: DiskBlobs, tmp_path: Path) -> None:
    """Many processes start and sweep while this one writes."""
    folder = Storage(database=str(tmp_path / "test.db"))
    done = asyncio.Event()

    async def sweep() -> None:
        while not done.is_set():
            await (await asyncio.to_thread(DiskBlobs, folder)).close()

    sweeping = [asyncio.create_task(sweep()) for _ in range(3)]
    try:
        async with asyncio.timeout(WAIT_S):
            for n in range(60):
                assert await disk.write(f"file-{n}", these(b"a")) == 1
    finally:
        done.set()
        await asyncio.gather(*sweeping)
    assert len(left_in(tmp_path)) == 60


async def test_a_directory_that_went_away_is_an_error_of_storage(disk: DiskBlobs, tmp_path: Path) -> None:
    (tmp_path / "test.db.files" / "drafts").rmdir()

    with pytest.raises(StorageError, match="could not be saved"):
        await disk.write("file-1", these(b"a"))
    check = await disk.check()
    assert not check.ok
    assert "[storage] files" in check.remedy


async def test_closed_it_takes_nothing(tmp_path: Path) -> None:
    opened = on_disk(tmp_path)
    await opened.close()

    with pytest.raises(StorageError):
        await opened.write("file-1", these(b"a"))


def test_a_place_that_cannot_be_is_a_matter_of_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SettingsError, match="directory for files"):
        DiskBlobs(Storage(database="x.db", files=str(tmp_path / "file" / "below")))


async def test_the_settings_choose_where_it_is(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    placed = [
        blobs.build(Storage(database=":memory:", files=elsewhere)),
        blobs.build(Storage(database=str(tmp_path / "a.db"), files=elsewhere)),
    ]
    for one in placed:
        await one.close()

    assert isinstance(blobs.build(Storage(database=":memory:")), MemoryBlobs)
    assert (tmp_path / "elsewhere").is_dir()
    assert not (tmp_path / "a.db.files").exists()
