"""What a store must know of files and uploads, on every store: one suite, and a walk that compares two of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec.structs import replace

from antiphon.config import Limits, Storage
from antiphon.core.ports import FileQuery, FileStore, Order, Quota, Store, StoredUpload
from antiphon.errors import NotFound, StorageError
from antiphon.stores.files import PAGE_HERE_MAX
from antiphon.stores.memory_files import MemoryFiles
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire.files import FileObject, FilePurpose, Upload, UploadPart
from tests.test_store import KINDS, opened

NOW = 1_700_000_000
ROOMY = Quota(files_max=1_000, bytes_max=10**9, parts_max=1_000)


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = opened(request, tmp_path)
    yield store
    await store.close()


@pytest.fixture
def files(store: Store) -> FileStore:
    return store.files


def made(name: str, **fields: Any) -> FileObject:
    usual: dict[str, Any] = {"bytes": 10, "created_at": NOW, "expires_at": None, "filename": "a.txt"}
    return FileObject(id=f"file-{name}", **{**usual, "purpose": "user_data", **fields})


async def add(files: FileStore, file: FileObject, project: str = "p", quota: Quota = ROOMY) -> Any:
    await files.reserve(file.id, NOW + 100)
    return await files.add(project, file, quota)


def begun(name: str, **fields: Any) -> StoredUpload:
    usual: dict[str, Any] = {"bytes": 10, "created_at": NOW, "expires_at": NOW + 3600, "filename": "a.txt"}
    upload = Upload(id=f"upload_{name}", status="pending", **{**usual, "purpose": "batch", **fields})
    return StoredUpload(upload=upload, expires_after_s=None)


async def add_part(
    files: FileStore, upload: str, name: str, size: int = 5, quota: Quota = ROOMY, project: str = "p"
) -> Any:
    part = UploadPart(id=f"part_{name}", created_at=NOW, upload_id=f"upload_{upload}")
    await files.reserve(part.id, NOW + 100)
    return await files.add_part(project, part, size, quota)


async def listed(files: FileStore, project: str = "p", now: int = NOW, **query: Any) -> list[str]:
    page = await files.page(project, FileQuery(**{"limit": 100, "order": "asc", **query}), now)
    return [file.id.removeprefix("file-") for file in page.files]


# -- files


async def test_what_was_added_is_found(files: FileStore) -> None:
    file = made("a", expires_at=NOW + 1, purpose="fine-tune", filename="ä 'x'.txt", bytes=2**40)
    assert await add(files, file, quota=replace(ROOMY, bytes_max=2**41)) is None

    assert await files.file("p", "file-a", NOW) == file
    assert await files.file("other", "file-a", NOW) is None
    assert await files.file("p", "file-b", NOW) is None
    assert await listed(files, "other") == []


async def test_an_expired_file_does_not_exist(files: FileStore) -> None:
    await add(files, made("a", expires_at=NOW + 5))

    assert await files.file("p", "file-a", NOW + 4)
    assert await files.file("p", "file-a", NOW + 5) is None
    assert await listed(files, now=NOW + 5) == []
    assert not await files.delete("p", "file-a", NOW + 5)
    with pytest.raises(NotFound):
        await listed(files, now=NOW + 5, after="file-a")


async def test_what_was_deleted_is_gone_and_its_blob_is_loose(files: FileStore) -> None:
    await add(files, made("a"))

    assert not await files.delete("other", "file-a", NOW)
    assert await files.loose(NOW + 10**6, 10) == []
    assert await files.delete("p", "file-a", NOW)
    assert not await files.delete("p", "file-a", NOW)
    assert await files.file("p", "file-a", NOW) is None
    assert await files.loose(NOW, 10) == ["file-a"]
    await files.forget(["file-a"])
    assert await files.loose(NOW, 10) == []


async def test_a_reserved_blob_is_loose_until_it_is_taken(files: FileStore) -> None:
    await files.reserve("file-a", NOW + 100)

    assert await files.loose(NOW + 99, 10) == []
    assert await files.loose(NOW + 100, 10) == ["file-a"]
    assert await files.release("file-a")
    await files.add("p", made("a"), ROOMY)
    assert not await files.release("file-a")
    assert await files.loose(NOW + 100, 10) == []


async def test_a_blob_that_was_given_up_is_not_taken(files: FileStore) -> None:
    await files.reserve("file-a", NOW)
    await files.forget(["file-a"])

    with pytest.raises(StorageError):
        await files.add("p", made("a"), ROOMY)
    assert await files.file("p", "file-a", NOW) is None
    assert await add(files, made("b"), quota=replace(ROOMY, files_max=1)) is None  # it was not counted either


async def test_loose_blobs_come_the_longest_due_first_and_at_most_so_many(files: FileStore) -> None:
    for name, due_at in (("a", 3), ("b", 1), ("c", 2)):
        await files.reserve(name, NOW + due_at)

    assert await files.loose(NOW + 9, 2) == ["b", "c"]


# -- pages


@pytest.mark.parametrize("order", get_args(Order))
async def test_pages_are_in_order_and_share_nothing(files: FileStore, order: Order) -> None:
    times = {"a": 5, "b": 3, "c": 5, "d": 9, "e": 3}
    for name, time in times.items():
        await add(files, made(name, created_at=NOW + time))
    expected = ["b", "e", "a", "c", "d"] if order == "asc" else ["d", "c", "a", "e", "b"]

    found, after = [], None
    for _ in range(3):
        page = await files.page("p", FileQuery(limit=2, order=order, after=after), NOW)
        found += [file.id.removeprefix("file-") for file in page.files]
        assert page.has_more == (len(found) < len(expected))
        after = page.files[-1].id
    assert found == expected


async def test_a_page_is_of_one_purpose(files: FileStore) -> None:
    purposes: dict[str, FilePurpose] = {"a": "vision", "b": "batch", "c": "vision", "d": "evals"}
    for name, purpose in purposes.items():
        await add(files, made(name, purpose=purpose))

    assert await listed(files, purpose="vision") == ["a", "c"]
    assert await listed(files, purpose="vision", after="file-b") == ["c"]
    assert await listed(files, purpose="vision", order="desc", limit=1) == ["c"]
    assert await listed(files, purpose="assistants") == []


async def test_an_unknown_cursor_is_not_found(files: FileStore) -> None:
    await add(files, made("a"), project="other")

    with pytest.raises(NotFound) as raised:
        await listed(files, after="file-a")
    assert raised.value.param == "after"


async def test_a_long_page_is_whole(files: FileStore) -> None:
    names = [f"{n:04}" for n in range(PAGE_HERE_MAX * 2)]
    await asyncio.gather(*(add(files, made(name)) for name in names))

    assert sorted(await listed(files, limit=10_000)) == names


# -- quotas


async def test_a_project_keeps_no_more_files_than_it_may(files: FileStore) -> None:
    quota = replace(ROOMY, files_max=2)
    assert await add(files, made("a"), quota=quota) is None
    assert await files.add_upload("p", begun("x"), quota) is None

    assert await add(files, made("b"), quota=quota) == "files"
    assert await files.add_upload("p", begun("y"), quota) == "files"
    assert await add(files, made("o"), project="other", quota=quota) is None
    assert await files.file("p", "file-b", NOW) is None
    assert await files.upload("p", "upload_y", NOW) is None
    assert await files.loose(NOW + 100, 10) == ["file-b"]

    await files.delete("p", "file-a", NOW)
    assert await files.add("p", made("b"), quota) is None
    await files.cancel("p", "upload_x", NOW)
    assert await add(files, made("c"), quota=quota) is None
    assert await add(files, made("d"), quota=quota) == "files"


async def test_a_project_keeps_no_more_bytes_than_it_may(files: FileStore) -> None:
    quota = replace(ROOMY, bytes_max=20)
    assert await add(files, made("a", bytes=10), quota=quota) is None
    assert await files.add_upload("p", begun("x", bytes=11), quota) == "bytes"
    assert await files.add_upload("p", begun("x", bytes=10), quota) is None
    assert await add_part(files, "x", "1", 10, quota) is None

    assert await add_part(files, "x", "2", 1, quota) == "bytes"
    assert await add(files, made("b", bytes=1), quota=quota) == "bytes"
    assert await add(files, made("c", bytes=0), quota=quota) is None
    await files.reserve("file-x", NOW)
    assert await files.complete("p", "upload_x", made("x", bytes=10)) is None
    assert await files.add("p", made("b", bytes=1), quota) == "bytes"
    await files.delete("p", "file-x", NOW)
    assert await files.add("p", made("b", bytes=1), quota) is None


async def test_two_at_once_do_not_both_slip_under_a_quota(files: FileStore) -> None:
    quota = replace(ROOMY, files_max=5, bytes_max=60)

    obstacles = await asyncio.gather(*(add(files, made(str(n), bytes=15), quota=quota) for n in range(20)))

    assert sorted(map(str, obstacles)) == ["None"] * 4 + ["bytes"] * 16
    assert len(await listed(files)) == 4


async def test_two_processes_share_a_quota(tmp_path: Path) -> None:
    stores = [SqliteStore(Storage(database=str(tmp_path / "test.db")), Limits()) for _ in range(2)]
    quota = replace(ROOMY, files_max=5)
    adding = (add(stores[n % 2].files, made(str(n)), quota=quota) for n in range(20))

    obstacles = await asyncio.gather(*adding)

    assert obstacles.count(None) == 5
    for one in stores:
        await one.close()


# -- uploads


async def test_an_upload_becomes_the_file_and_its_parts_are_loose(files: FileStore) -> None:
    stored = replace(begun("x"), expires_after_s=7200)
    await files.add_upload("p", stored, ROOMY)
    assert await files.upload("p", "upload_x", NOW) == stored
    await add_part(files, "x", "1", 5)
    await add_part(files, "x", "2", 6)
    assert await files.parts("p", "upload_x") == {"part_1": 5, "part_2": 6}
    await files.reserve("file-x", NOW)

    assert await files.complete("p", "upload_x", made("x")) is None

    assert await files.file("p", "file-x", NOW) == made("x")
    ended = await files.upload("p", "upload_x", NOW)
    assert ended
    assert ended.upload == replace(stored.upload, status="completed")
    assert sorted(await files.loose(NOW, 10)) == ["part_1", "part_2"]
    assert await files.parts("p", "upload_x") == {}


@pytest.mark.parametrize("end", ["complete", "cancel", "expire"])
async def test_an_upload_ends_once(files: FileStore, end: str) -> None:
    await files.add_upload("p", begun("x"), ROOMY)
    await add_part(files, "x", "1")
    now = NOW
    if end == "complete":
        await files.reserve("file-x", NOW)
        await files.complete("p", "upload_x", made("x"))
    elif end == "cancel":
        await files.cancel("p", "upload_x", NOW)
        assert await files.loose(NOW, 10) == ["part_1"]
    else:
        now = NOW + 3600
        assert await files.upload("p", "upload_x", now) is None

    await files.reserve("file-y", NOW)
    await files.reserve("part_2", NOW)
    part = UploadPart(id="part_2", created_at=now, upload_id="upload_x")
    assert await files.complete("p", "upload_x", made("y", created_at=now)) == "ended"
    assert await files.add_part("p", part, 1, ROOMY) == "ended"
    assert await files.cancel("p", "upload_x", now) == "ended"
    assert await files.file("p", "file-y", NOW) is None


async def test_another_projects_upload_does_not_exist(files: FileStore) -> None:
    await files.add_upload("p", begun("x"), ROOMY)
    await add_part(files, "x", "1")
    await files.reserve("file-x", NOW)

    assert await files.upload("other", "upload_x", NOW) is None
    assert await files.parts("other", "upload_x") == {}
    assert await add_part(files, "x", "2", project="other") == "ended"
    assert await files.complete("other", "upload_x", made("x")) == "ended"
    assert await files.cancel("other", "upload_x", NOW) == "ended"
    assert await files.cancel("p", "upload_x", NOW) is None


async def test_an_upload_has_no_more_parts_than_it_may(files: FileStore) -> None:
    quota = replace(ROOMY, parts_max=2)
    await files.add_upload("p", begun("x"), quota)

    assert [await add_part(files, "x", name, quota=quota) for name in "123"] == [None, None, "parts"]


async def test_what_has_expired_is_dropped_a_few_at_a_time_and_frees_its_quota(files: FileStore) -> None:
    for name in "abc":
        await add(files, made(name, expires_at=NOW + 1))
    await add(files, made("d"))
    await files.add_upload("p", begun("x"), ROOMY)
    await add_part(files, "x", "1")
    await files.add_upload("p", begun("y"), ROOMY)
    await files.cancel("p", "upload_y", NOW)

    assert await files.expire(NOW, 2) == 0
    assert [await files.expire(NOW + 3600, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert sorted(await files.loose(NOW + 3600, 10)) == ["file-a", "file-b", "file-c", "part_1"]
    assert await listed(files, now=NOW + 3600) == ["d"]
    assert await add(files, made("e", bytes=5), quota=replace(ROOMY, files_max=2, bytes_max=15)) is None
    assert await add(files, made("f"), quota=replace(ROOMY, files_max=2)) == "files"


# -- all stores do the same, whatever is done


class BothStores(RuleBasedStateMachine):
    """The memory's is so plain that it is easily seen to be right; SQLite's must agree with it at every step."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.sqlite = self.runner.run(self.opened())
        self.both: list[FileStore] = [MemoryFiles(), self.sqlite.files]
        self.now = NOW
        self.quota = Quota(files_max=4, bytes_max=40, parts_max=3)
        self.names = 0

    async def opened(self) -> Store:
        return SqliteStore(Storage(database=":memory:"), Limits())

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.sqlite.close())
            self.runner.close()

    def ask(self, what: str, *values: Any) -> Any:
        async def asked() -> list[Any]:
            answers = []
            for files in self.both:
                try:
                    answers.append(await getattr(files, what)(*values))
                except (NotFound, StorageError) as error:
                    answers.append((type(error), error.message))
            return answers

        memory, sqlite = self.runner.run(asked())
        assert memory == sqlite, (what, values)
        return memory

    project = st.sampled_from(["p", "q"])
    known = st.integers(0, 12)

    @rule(project=project, size=st.integers(0, 20), lives_s=st.sampled_from([None, 3, 9]))
    def add_file(self, project: str, size: int, lives_s: int | None) -> None:
        self.names += 1
        file = made(str(self.names), bytes=size, created_at=self.now, expires_at=lives_s and self.now + lives_s)
        self.ask("reserve", file.id, self.now + 50)
        self.ask("add", project, file, self.quota)

    @rule(project=project, name=known)
    def delete_file(self, project: str, name: int) -> None:
        self.ask("delete", project, f"file-{name}", self.now)

    @rule(project=project, size=st.integers(0, 20))
    def add_upload(self, project: str, size: int) -> None:
        self.names += 1
        upload = begun(str(self.names), bytes=size, created_at=self.now, expires_at=self.now + 6)
        self.ask("add_upload", project, upload, self.quota)

    @rule(project=project, upload=known, size=st.integers(0, 20))
    def add_part(self, project: str, upload: int, size: int) -> None:
        self.names += 1
        part = UploadPart(id=f"part_{self.names}", created_at=self.now, upload_id=f"upload_{upload}")
        self.ask("reserve", part.id, self.now + 50)
        self.ask("add_part", project, part, size, self.quota)

    @rule(project=project, upload=known)
    def complete(self, project: str, upload: int) -> None:
        self.names += 1
        size = sum(self.ask("parts", project, f"upload_{upload}").values())
        file = made(str(self.names), bytes=size, created_at=self.now)
        self.ask("reserve", file.id, self.now + 50)
        self.ask("complete", project, f"upload_{upload}", file)

    @rule(project=project, upload=known)
    def cancel(self, project: str, upload: int) -> None:
        self.ask("cancel", project, f"upload_{upload}", self.now)

    @rule(seconds=st.integers(1, 8))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.ask("expire", self.now, 1_000)
        loose = [self.runner.run(self.due(files)) for files in self.both]
        assert loose[0] == loose[1]
        self.ask("forget", sorted(loose[0]))

    async def due(self, files: FileStore) -> set[str]:
        return set(await files.loose(self.now, 1_000))

    @rule(project=project, order=st.sampled_from(get_args(Order)), limit=st.integers(1, 3), after=known | st.none())
    def look(self, project: str, order: Order, limit: int, after: int | None) -> None:
        cursor = None if after is None else f"file-{after}"
        self.ask("page", project, FileQuery(limit=limit, order=order, after=cursor), self.now)
        for name in range(13):
            self.ask("file", project, f"file-{name}", self.now)
            self.ask("upload", project, f"upload_{name}", self.now)


BothStores.TestCase.settings = examples(max_examples=40, stateful_step_count=30, deadline=None)
TestBothStores = BothStores.TestCase
