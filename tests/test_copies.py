"""Copies of what was brought for requests: what both stores keep of them, and what goes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from antiphon import app, blobs, engine, stores
from antiphon.config import Limits, Storage
from antiphon.core.ports import Blobs, CopyBounds, FileStore
from antiphon.engine.copies import Copies, Copy
from antiphon.errors import StorageError

ROOMY = CopyBounds(copies_max=10, bytes_max=100)
LATER = 2**40


@pytest.fixture(params=["memory", "sqlite"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[FileStore, Blobs]]:
    storage = Storage(database=":memory:" if request.param == "memory" else str(tmp_path / "t.db"))
    store, there = stores.build(storage, Limits()), blobs.build(storage)
    yield store.files, there
    await there.close()
    await store.close()


async def keep(store: FileStore, digest: str, key: str, size: int = 10, bounds: CopyBounds = ROOMY) -> None:
    await store.reserve(key, LATER)
    await store.keep_copy(digest, key, size, bounds, 5)


async def test_a_copy_is_found_by_its_digest(kept: tuple[FileStore, Blobs]) -> None:
    store, _ = kept
    await keep(store, "a", "one")

    assert await store.copy("a") == "one"
    assert await store.copy("b") is None
    assert await store.loose(LATER, 10) == []


async def test_a_new_copy_replaces_the_old_one_whose_blob_is_loose(kept: tuple[FileStore, Blobs]) -> None:
    store, _ = kept
    await keep(store, "a", "one")
    await keep(store, "a", "two")

    assert await store.copy("a") == "two"
    assert await store.loose(5, 10) == ["one"]


@pytest.mark.parametrize("bounds", [CopyBounds(copies_max=2, bytes_max=100), CopyBounds(copies_max=9, bytes_max=25)])
async def test_the_oldest_copies_go_beyond_either_bound(kept: tuple[FileStore, Blobs], bounds: CopyBounds) -> None:
    store, _ = kept
    for digest in ("a", "b", "a", "c"):  # `a` was brought anew
        await keep(store, digest, f"{digest}{len(await store.loose(5, 10))}", 10, bounds)

    assert [await store.copy(digest) is not None for digest in ("a", "b", "c")] == [True, False, True]
    assert len(await store.loose(5, 10)) == 2


async def test_a_copy_larger_than_all_may_be_is_not_kept(kept: tuple[FileStore, Blobs]) -> None:
    store, _ = kept
    await keep(store, "a", "one", 101)

    assert await store.copy("a") is None
    assert await store.loose(5, 10) == ["one"]


async def test_a_blob_that_was_given_up_is_not_taken(kept: tuple[FileStore, Blobs]) -> None:
    store, _ = kept
    with pytest.raises(StorageError):
        await store.keep_copy("a", "never reserved", 1, ROOMY, 5)

    assert await store.copy("a") is None


async def test_a_copy_comes_back_whole_and_for_its_project_kind_and_source_alone(
    kept: tuple[FileStore, Blobs],
) -> None:
    copies = Copies(*kept, Limits(), app._new_id, app._now)
    copy = Copy(filename="a\n.pdf", media_type="text/plain", body=b"\n\nwords\n")
    await copies.put("p", "text", "there", copy)

    assert await copies.get("p", "text", "there") == copy
    for other in (("q", "text", "there"), ("p", "image", "there"), ("p", "text", "here")):
        assert await copies.get(*other) is None


async def test_a_copy_whose_blob_is_gone_is_a_copy_less(kept: tuple[FileStore, Blobs]) -> None:
    store, there = kept
    copies = Copies(*kept, Limits(), app._new_id, app._now)
    await copies.put("p", "text", "there", Copy(body=b"words"))
    key = await store.copy(engine.copies._digest("p", "text", "there"))
    assert key is not None
    await there.delete(key)

    assert await copies.get("p", "text", "there") is None
