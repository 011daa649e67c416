"""/v1/files and /v1/uploads: through the official SDK what must work, and bare what must be refused."""

import asyncio
import hashlib
import io
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
import openai
import pytest
from msgspec import structs
from openai.types import FileObject, FilePurpose, Upload
from openai.types.file_create_params import FileCreateParams

from antiphon import app, blobs
from antiphon.blobs.memory import MemoryBlobs
from antiphon.config import Settings, StaticKey
from antiphon.core.ports import Store
from antiphon.engine.files import SWEEP_MAX, UPLOAD_S, WRITING_S, Files, NewFile
from antiphon.errors import InvalidRequest, NotFound, StorageError
from antiphon.stores import open_store
from antiphon.wire import files as wire
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import Answer, Exchange, ask

BOUNDARY = "xyz"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
MIB = 1024 * 1024


def part(name: str, value: bytes, filename: str | None = None, *more: str) -> bytes:
    named = "" if filename is None else f'; filename="{filename}"'
    lines = [f"--{BOUNDARY}", f'Content-Disposition: form-data; name="{name}"{named}', *more, "", ""]
    return "\r\n".join(lines).encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


PURPOSE = part("purpose", b"user_data")
FILE = part("file", b"hello", "a.txt")


async def send(url: str, body: bytes, headers: Any = FORM, path: str = "/v1/files") -> Answer:
    return await ask(url, "POST", path, body, headers)


def kept(settings: Settings) -> dict[str, int]:
    """What lies on the disk, drafts too: its sizes by its names."""
    folder = Path(f"{settings.storage.database}.files")
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


async def bytes_of(client: openai.AsyncOpenAI, file_id: str) -> bytes:
    return (await client.files.content(file_id)).content


# -- files, through the SDK


async def test_a_file_is_stored_listed_read_and_deleted(client: openai.AsyncOpenAI, scripted: Settings) -> None:
    content = bytes(range(256)) * 10_000
    file = await client.files.create(file=("data.bin", content), purpose="user_data")

    assert file.id.startswith("file-")
    assert file == FileObject(
        id=file.id,
        bytes=len(content),
        created_at=file.created_at,
        filename="data.bin",
        object="file",
        purpose="user_data",
        status="processed",
        expires_at=None,
        status_details=None,
    )
    assert await client.files.retrieve(file.id) == file
    assert await bytes_of(client, file.id) == content
    assert (await client.files.list()).data == [file]
    assert kept(scripted) == {file.id: len(content)}

    deleted = await client.files.delete(file.id)

    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    assert (await client.files.list()).data == []
    assert kept(scripted) == {}
    for call in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError):
            await call(file.id)


@pytest.mark.parametrize("purpose", get_args(FilePurpose))
async def test_every_purpose_is_taken(client: openai.AsyncOpenAI, purpose: FilePurpose) -> None:
    file = await client.files.create(file=b"x", purpose=purpose)

    assert file.purpose == purpose
    assert (await client.files.list(purpose=purpose)).data == [file]
    lives_s = file.expires_at and file.expires_at - file.created_at
    assert lives_s == (2_592_000 if purpose == "batch" else None)


async def test_a_file_of_any_form_is_sent(client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    (tmp_path / "on disk.txt").write_bytes(b"1")
    sent: list[Any] = [
        tmp_path / "on disk.txt",
        io.BytesIO(b"2"),
        ("", b""),
        ("named.json", io.BytesIO(b"{}"), "text/x"),
    ]
    names = [(await client.files.create(file=one, purpose="vision")).filename for one in sent if one != ("", b"")]

    assert names == ["on disk.txt", "upload", "named.json"]


async def test_an_empty_file_is_a_file(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("empty", b""), purpose="evals")

    assert file.bytes == 0
    assert await bytes_of(client, file.id) == b""


@pytest.mark.parametrize("seconds", [3600, 2_592_000])
async def test_a_file_lives_as_long_as_was_asked(client: openai.AsyncOpenAI, seconds: int) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": seconds}
    file = await client.files.create(file=b"x", purpose="batch", expires_after=expiry)

    assert file.expires_at == file.created_at + seconds


async def test_all_pages_of_a_list_are_walked(client: openai.AsyncOpenAI) -> None:
    made = [(await client.files.create(file=(f"{n}", b"x"), purpose="user_data")).id for n in range(5)]

    assert [file.id async for file in client.files.list(limit=2, order="asc")] == made
    assert [file.id async for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id async for file in client.files.list(limit=2, order="asc", after=made[2])] == made[3:]


def test_what_is_taken_is_what_the_package_sends() -> None:
    taken = {field.name for field in structs.fields(wire.StoreFile)}
    assert taken | {"file"} == FileCreateParams.__annotations__.keys()
    assert get_args(FilePurpose) == wire.PURPOSES


# -- fields that are not known


async def test_unknown_fields_are_named_or_refused(url: str, scripted: Settings) -> None:
    body = form(PURPOSE, FILE, part("colour", b"red"))
    answer = await send(url, body)
    assert answer.value["filename"] == "a.txt"
    assert answer.headers["antiphon-ignored-parameters"] == "colour"

    strict = changed(scripted, server={"strict": True}, storage={"database": ":memory:"})
    async with serve(strict) as other:
        assert (await send(other, body)).refusal == (400, "unknown_parameter", "colour")
        assert (await ask(other, "GET", "/v1/files")).value["data"] == []


# -- clients that leave, and limits


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110 - what it waits for is on the disk
            await asyncio.sleep(0.005)


async def nothing_left(settings: Settings, url: str) -> None:
    """The server notices by and by that the client has left."""
    await until(lambda: not kept(settings))
    assert (await ask(url, "GET", "/v1/files")).value["data"] == []


async def begun(one: Exchange, settings: Settings, body: bytes) -> None:
    """Sends so much of a form, and returns when some of it is on the disk."""
    one.send("POST", "/v1/files", b"", {**FORM, "content-length": str(100 * MIB)})
    one.writer.write(body)
    await until(lambda: any(kept(settings).values()))


HALF = PURPOSE + part("file", bytes(5 * MIB), "a")[:-2]


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(url: str, scripted: Settings) -> None:
    async with await Exchange.open(url) as one:
        await begun(one, scripted, HALF)

    await nothing_left(scripted, url)


async def test_a_body_that_ends_early_leaves_nothing(url: str, scripted: Settings) -> None:
    async with await Exchange.open(url) as one:
        await begun(one, scripted, HALF)
        one.writer.write_eof()
        await asyncio.wait_for(one.reader.read(), WAIT_S)

    await nothing_left(scripted, url)


async def test_a_silent_client_is_given_up(scripted: Settings) -> None:
    settings = changed(scripted, limits={"file_silence_timeout_s": 0.2})
    async with serve(settings) as url, await Exchange.open(url) as one:
        await begun(one, settings, HALF)
        answer = await one.answer()
        assert answer.refusal == (408, None, None)
        assert "limits.file_silence_timeout_s" in answer.error["message"]
        await nothing_left(settings, url)


async def test_no_more_files_are_received_at_once_than_may_be(scripted: Settings) -> None:
    settings = changed(scripted, limits={"file_writes_max": 1})
    async with serve(settings) as url:
        async with await Exchange.open(url) as one:
            await begun(one, settings, HALF)
            assert (await send(url, form(PURPOSE, FILE))).refusal[0] == 429
        await nothing_left(settings, url)
        async with asyncio.timeout(WAIT_S):
            while (status := (await send(url, form(PURPOSE, FILE))).status) == 429:  # its place is free a moment later
                pass
        assert status == 200


@pytest.mark.parametrize("headers", [{}, {"transfer-encoding": "chunked", "content-length": None}])
@pytest.mark.parametrize("size", [MIB + 1, 4 * MIB])
async def test_a_file_beyond_the_limit_is_refused(scripted: Settings, size: int, headers: Any) -> None:
    settings = changed(scripted, limits={"file_bytes_max": MIB})
    body = form(PURPOSE, part("file", bytes(size), "a"))
    if headers:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with serve(settings) as url:
        answer = await send(url, body, FORM | headers)
        assert answer.refusal == (413, None, None)
        assert "limits.file_bytes_max" in answer.error["message"]
        assert kept(settings) == {}
        assert (await send(url, form(PURPOSE, part("file", bytes(MIB), "a")))).value["bytes"] == MIB


async def test_what_comes_behind_a_form_is_limited_too(scripted: Settings) -> None:
    settings = changed(scripted, limits={"file_bytes_max": MIB})
    async with serve(settings) as url:
        headers = FORM | {"transfer-encoding": "chunked", "content-length": None}
        body = form(PURPOSE, FILE) + bytes(2 * MIB)
        answer = await send(url, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), headers)

        assert answer.refusal[0] == 413
        assert kept(settings) == {}


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"files_per_project_max": 2}, "files_per_project_max"),
        ({"file_bytes_per_project_max": 10}, "file_bytes_per_project_max"),
    ],
)
async def test_a_project_beyond_its_quota_is_told_which(scripted: Settings, limits: Any, name: str) -> None:
    settings = changed(scripted, limits=limits)
    async with serve(settings) as url:
        answers = await asyncio.gather(*(send(url, form(PURPOSE, FILE)) for _ in range(6)))
        stored = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status != 200]
        assert len(stored) == 2
        assert {answer.refusal for answer in refused} == {(400, None, "file")}
        assert all(f"limits.{name}" in answer.error["message"] for answer in refused)
        assert kept(settings) == {answer.value["id"]: 5 for answer in stored}

        await ask(url, "DELETE", f"/v1/files/{stored[0].value['id']}")
        assert (await send(url, form(PURPOSE, FILE))).status == 200


async def test_another_projects_files_do_not_exist(scripted: Settings) -> None:
    keys = (StaticKey(project="one", key="sk-one"), StaticKey(project="two", key="sk-two"))
    async with serve(changed(scripted, auth={"keys": keys}, limits={"files_per_project_max": 2})) as url:
        one, two = (openai.AsyncOpenAI(base_url=url, api_key=key.key, max_retries=0) for key in keys)
        async with one, two:
            file = await one.files.create(file=b"x", purpose="batch")
            upload = await one.uploads.create(bytes=1, filename="a", mime_type="a/b", purpose="batch")
            calls: list[Callable[[], Any]] = [
                lambda: two.files.retrieve(file.id),
                lambda: two.files.content(file.id),
                lambda: two.files.delete(file.id),
                lambda: two.uploads.parts.create(upload.id, data=b"x"),
                lambda: two.uploads.complete(upload.id, part_ids=[]),
                lambda: two.uploads.cancel(upload.id),
                lambda: two.files.list(after=file.id),
            ]
            for call in calls:
                with pytest.raises(openai.NotFoundError):
                    await call()
            assert (await two.files.list()).data == []
            await two.files.create(file=b"x", purpose="batch")
            assert await bytes_of(one, file.id) == b"x"


async def test_without_a_key_nothing_is_read_of_a_form(scripted: Settings) -> None:
    async with serve(changed(scripted, auth={"required": True})) as url:
        assert (await send(url, form(PURPOSE, FILE))).refusal[0] == 401


# -- reading


async def test_a_long_file_is_never_whole_in_memory(url: str) -> None:
    """Neither coming nor going; what is measured is the server and this client together."""
    body = form(PURPOSE, part("file", b"", "a"))
    before, after = body[: -len(BOUNDARY) - 8], body[-len(BOUNDARY) - 8 :]
    tracemalloc.start()
    try:
        async with await Exchange.open(url, read_buffer_bytes=MIB) as one:
            one.send("POST", "/v1/files", before, FORM | {"content-length": str(len(body) + len(LONG) * PIECES)})
            for _ in range(PIECES):
                one.writer.write(LONG)
                await asyncio.wait_for(one.writer.drain(), WAIT_S)
            one.writer.write(after)
            file = (await one.answer()).value
            one.send("GET", f"/v1/files/{file['id']}/content")
            left = int((await one.head()).headers["content-length"])
            while left:
                left -= len(await asyncio.wait_for(one.reader.read(left), WAIT_S))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert file["bytes"] == len(LONG) * PIECES
    assert peak < 16 * MIB


LONG = bytes(MIB)
PIECES = 64


async def test_a_reader_that_takes_nothing_and_leaves_holds_nothing_up(url: str, scripted: Settings) -> None:
    file_id = (await send(url, form(PURPOSE, part("file", bytes(16 * MIB), "a")))).value["id"]
    async with await Exchange.open(url, read_buffer_bytes=4096) as one:
        one.send("GET", f"/v1/files/{file_id}/content")
        await one.head()
        assert (await ask(url, "DELETE", f"/v1/files/{file_id}")).status == 200

    await nothing_left(scripted, url)


async def test_head_gives_the_headers_alone(url: str) -> None:
    answer = await send(url, form(PURPOSE, FILE))
    head = await ask(url, "HEAD", f"/v1/files/{answer.value['id']}/content")

    assert (head.status, head.headers["content-length"], head.body) == (200, "5", b"")


async def test_bytes_that_are_not_there_are_a_404_with_the_envelope(url: str, scripted: Settings) -> None:
    file_id = (await send(url, form(PURPOSE, FILE))).value["id"]
    (Path(f"{scripted.storage.database}.files") / file_id).unlink()

    assert (await ask(url, "GET", f"/v1/files/{file_id}/content")).refusal[0] == 404


# -- uploads in parts


async def upload(client: openai.AsyncOpenAI, size: int, **more: Any) -> Upload:
    usual: dict[str, Any] = {"filename": "big.txt", "mime_type": "text/plain", "purpose": "user_data"}
    return await client.uploads.create(bytes=size, **{**usual, **more})


async def test_a_file_is_sent_in_parts(client: openai.AsyncOpenAI, scripted: Settings) -> None:
    content = bytes(range(250)) * 20_000
    done = await client.uploads.upload_file_chunked(
        file=content,
        filename="big.bin",
        bytes=len(content),
        mime_type="application/octet-stream",
        purpose="user_data",
        part_size=MIB,
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest().upper(),
    )

    assert (done.status, done.bytes, done.filename) == ("completed", len(content), "big.bin")
    assert done.expires_at == done.created_at + UPLOAD_S
    assert done.file
    assert done.file == await client.files.retrieve(done.file.id)
    assert (done.file.bytes, done.file.filename, done.file.purpose) == (len(content), "big.bin", "user_data")
    assert await bytes_of(client, done.file.id) == content
    assert kept(scripted) == {done.file.id: len(content)}


async def test_a_file_on_disk_is_sent_in_parts(client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(b"0123456789")
    done = await client.uploads.upload_file_chunked(file=path, mime_type="text/plain", purpose="batch", part_size=3)

    assert done.file
    assert done.file.expires_at == done.file.created_at + 2_592_000
    assert await bytes_of(client, done.file.id) == b"0123456789"


async def test_parts_come_at_once_and_are_joined_as_named(client: openai.AsyncOpenAI, scripted: Settings) -> None:
    begun = await upload(client, 4, expires_after={"anchor": "created_at", "seconds": 3600})
    assert (begun.object, begun.status, begun.file, begun.bytes) == ("upload", "pending", None, 4)
    sending = (client.uploads.parts.create(begun.id, data=data) for data in (b"ab", b"c", b"d", b"unwanted"))
    parts = await asyncio.gather(*sending)
    assert {(part.object, part.upload_id) for part in parts} == {("upload.part", begun.id)}
    assert sorted(kept(scripted)) == sorted(part.id for part in parts)

    done = await client.uploads.complete(begun.id, part_ids=[parts[2].id, parts[0].id, parts[1].id])

    assert done.file
    assert await bytes_of(client, done.file.id) == b"dabc"
    assert done.file.expires_at == done.file.created_at + 3600


async def test_an_upload_that_was_cancelled_is_over(client: openai.AsyncOpenAI, scripted: Settings) -> None:
    begun = await upload(client, 1)
    part = await client.uploads.parts.create(begun.id, data=b"x")

    cancelled = await client.uploads.cancel(begun.id)

    assert (cancelled.id, cancelled.status, cancelled.file) == (begun.id, "cancelled", None)
    assert kept(scripted) == {}
    for call in (
        client.uploads.parts.create(begun.id, data=b"x"),
        client.uploads.complete(begun.id, part_ids=[part.id]),
        client.uploads.cancel(begun.id),
    ):
        with pytest.raises(openai.BadRequestError, match="is cancelled"):
            await call
    assert kept(scripted) == {}


async def test_an_upload_is_completed_once(client: openai.AsyncOpenAI) -> None:
    begun = await upload(client, 1)
    part = await client.uploads.parts.create(begun.id, data=b"x")

    completing = (client.uploads.complete(begun.id, part_ids=[part.id]) for _ in range(4))
    ended = await asyncio.gather(*completing, return_exceptions=True)

    assert len([one for one in ended if isinstance(one, Upload)]) == 1
    assert all(isinstance(one, Upload | openai.BadRequestError | openai.NotFoundError) for one in ended)
    assert len((await client.files.list()).data) == 1


async def test_parts_are_limited_in_size_number_and_by_the_quota(scripted: Settings) -> None:
    limits = {
        "upload_part_bytes_max": 10,
        "upload_parts_max": 2,
        "file_bytes_per_project_max": 15,
        "upload_bytes_max": 99,
    }
    settings = changed(scripted, limits=limits)
    async with serve(settings) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match=r"limits\.upload_bytes_max"):
            await upload(client, 100)
        with pytest.raises(openai.BadRequestError, match=r"limits\.file_bytes_per_project_max"):
            await upload(client, 16)
        begun = await upload(client, 15)
        with pytest.raises(openai.APIStatusError, match=r"limits\.upload_part_bytes_max"):
            await client.uploads.parts.create(begun.id, data=b"x" * 11)
        await client.uploads.parts.create(begun.id, data=b"x" * 10)
        with pytest.raises(openai.BadRequestError, match=r"limits\.file_bytes_per_project_max"):
            await client.uploads.parts.create(begun.id, data=b"x" * 6)
        await client.uploads.parts.create(begun.id, data=b"x" * 5)
        with pytest.raises(openai.BadRequestError, match=r"limits\.upload_parts_max"):
            await client.uploads.parts.create(begun.id, data=b"")
        assert sorted(kept(settings).values()) == [5, 10]


async def test_unknown_fields_of_a_part_are_named_or_refused(scripted: Settings) -> None:
    body = form(part("data", b"x", "part"), part("colour", b"red"))
    for strict, status in ((False, 200), (True, 400)):
        settings = changed(scripted, server={"strict": strict}, storage={"database": ":memory:"})
        async with serve(settings) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            answer = await send(url, body, path=f"/v1/uploads/{(await upload(client, 1)).id}/parts")
            assert answer.status == status
            if not strict:
                assert answer.headers["antiphon-ignored-parameters"] == "colour"


# -- time, and what breaks in between


class Clock:
    now = 1_700_000_000

    def __call__(self) -> int:
        return self.now


class Kept:
    """The logic on a real store and the memory's blobs, at a time that the test tells."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.clock = Clock()
        self.store = store.files
        self.blobs = MemoryBlobs(settings.storage)
        self.files = Files(store.files, self.blobs, settings.limits, app._new_id, self.clock)

    async def add(self, content: bytes = b"hello", **asked: Any) -> wire.FileObject:
        def about() -> NewFile:
            return NewFile("a.txt", msgspec.convert({"purpose": "user_data", **asked}, wire.StoreFile))

        return await self.files.create("p", chunks(content), about)

    @property
    def keys(self) -> list[str]:
        return sorted(self.blobs._kept)


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@asynccontextmanager
async def keeping(settings: Settings) -> AsyncIterator[Kept]:
    async with open_store(settings) as store:
        yield Kept(store, settings)


HOUR: Any = {"expires_after": {"anchor": "created_at", "seconds": 3600}}


async def test_what_has_expired_is_gone_at_once_and_swept_later(scripted: Settings) -> None:
    async with keeping(scripted) as it:
        files = [await it.add(**HOUR) for _ in range(SWEEP_MAX + 5)]
        stays = await it.add()
        await it.files.sweep()
        assert len(it.keys) == SWEEP_MAX + 6
        it.clock.now += 3600

        with pytest.raises(NotFound):
            await it.files.retrieve("p", files[0].id)
        with pytest.raises(NotFound):
            await it.files.content("p", files[0].id)
        with pytest.raises(NotFound):
            await it.files.read("p", files[0].id, bytes_max=100, param="input[0]")
        await it.files.sweep()

        assert it.keys == [stays.id]


async def test_an_upload_and_its_parts_are_gone_after_an_hour(scripted: Settings) -> None:
    async with keeping(scripted) as it:
        asked = wire.CreateUpload(bytes=1, filename="a", mime_type="text/plain", purpose="batch")
        begun = await it.files.create_upload("p", asked)
        part = await it.files.add_part("p", begun.id, chunks(b"x"))
        it.clock.now += UPLOAD_S

        with pytest.raises(NotFound):
            await it.files.complete("p", begun.id, wire.CompleteUpload(part_ids=(part.id,)))
        await it.files.sweep()

        assert it.keys == []


async def test_bytes_without_a_row_are_swept(scripted: Settings) -> None:
    """As a crash leaves them between the one and the other."""
    async with keeping(scripted) as it:
        await it.store.reserve("file-lost", it.clock.now + WRITING_S)
        await it.blobs.write("file-lost", chunks(b"x"))
        await it.files.sweep()
        assert it.keys == ["file-lost"]
        it.clock.now += WRITING_S

        await it.files.sweep()

        assert it.keys == []
        assert await it.store.loose(it.clock.now, 10) == []


async def test_what_is_described_wrongly_at_the_end_leaves_nothing(scripted: Settings) -> None:
    async with keeping(scripted) as it:
        with pytest.raises(msgspec.ValidationError):
            await it.add(purpose="fun")

        assert it.keys == []
        assert await it.store.loose(it.clock.now + WRITING_S, 10) == []


async def test_at_start_what_expired_meanwhile_is_swept(scripted: Settings) -> None:
    async with open_store(scripted) as store:
        files = Files(store.files, blobs.build(scripted.storage), scripted.limits, app._new_id, lambda: 1)
        about = NewFile("a", wire.StoreFile(purpose="batch"))
        await files.create("p", chunks(b"x"), lambda: about)
    assert len(kept(scripted)) == 1

    async with serve(scripted) as url:
        await nothing_left(scripted, url)


async def test_a_file_is_read_for_whoever_names_it(scripted: Settings) -> None:
    async with keeping(scripted) as it:
        file = await it.add(b"hello")

        assert await it.files.read("p", file.id, bytes_max=5, param="x") == (file, b"hello")
        with pytest.raises(InvalidRequest) as raised:
            await it.files.read("p", file.id, bytes_max=4, param="input[0].file_id")
        assert raised.value.param == "input[0].file_id"
        for project, file_id in (("p", "file-none"), ("other", file.id)):
            with pytest.raises(NotFound) as missing:
                await it.files.read(project, file_id, bytes_max=5, param="input[0].file_id")
            assert missing.value.param == "input[0].file_id"
        await it.blobs.write(file.id, chunks(b"hell"))
        with pytest.raises(StorageError, match="damaged"):
            await it.files.read("p", file.id, bytes_max=5, param="x")
        await it.blobs.delete(file.id)
        with pytest.raises(NotFound) as gone:
            await it.files.read("p", file.id, bytes_max=5, param="x")
        assert gone.value.param == "x"


async def test_with_a_database_in_memory_files_are_there_too(scripted: Settings) -> None:
    settings = changed(scripted, storage={"database": ":memory:"})
    async with serve(settings) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        file = await client.files.create(file=b"hello", purpose="user_data")
        assert await bytes_of(client, file.id) == b"hello"


async def test_doctor_looks_at_the_files(scripted: Settings, tmp_path: Path) -> None:
    checks = {check.name: check for check in await app.doctor(scripted)}
    assert checks["files"].ok
    assert str(tmp_path / "test.db.files") in checks["files"].detail


async def test_doctor_tells_of_a_place_that_cannot_be(scripted: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = changed(scripted, storage={"files": str(tmp_path / "file")})

    checks = {check.name: check for check in await app.doctor(settings)}

    assert checks["store"].ok
    assert not checks["files"].ok
    assert "[storage] files" in checks["files"].remedy
