"""What a store must do with what is old: it goes when it is to, a little at a time, and nothing else does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from antiphon.core.ports import Store
from antiphon.core.retention import Pruning
from antiphon.core.runs import Lease
from antiphon.engine.retention import Sweeper
from antiphon.stores import retention
from antiphon.wire.response import ConversationUse
from tests.test_store import KINDS, bounded, context, erased, found, ids, made, open_file, opened, query, said, turn
from tests.test_store_runs import NOW, A, added, begun, deltas, ended, in_conversation, numbers, run_of, times

__all__ = ["bounded"]

CREATED = 1_700_000_000
"""When the responses of these tests are."""
OLD = CREATED + 1
T = CREATED + 100
"""When runs end."""


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = opened(request, tmp_path)
    yield store
    await store.close()


async def pruned(store: Store, created_before: int = OLD, limit: int = 20, **wanted: Any) -> int:
    pruning = Pruning(project="p", created_before=created_before, limit=limit, **wanted)
    return await Sweeper(store.retention, lambda: T, pause_s=0).responses(pruning)


async def forgotten(store: Store, ended_before: int, now: int = T, limit: int = 1000) -> int:
    streams = 0
    for _ in range(1000):
        told = await store.retention.prune_events(ended_before, now, limit)
        streams += told.streams
        if told.is_over:
            return streams
    raise AssertionError("it never ends")


async def expired(store: Store, name: str = "x") -> bool:
    standing = await store.runs.standing("p", f"resp_{name}")
    assert standing is not None
    return standing.is_expired


# -- responses


async def test_what_is_older_goes_and_nothing_else(store: Store) -> None:
    await turn(store, "old", metadata={"k": "v"})
    await turn(store, "theirs", project="q")
    response = replace(ended("young"), created_at=OLD)
    await store.save("p", response, (said("in_young"),), ())

    assert await pruned(store) == 1
    assert await found(store, query()) == ["young"]
    assert await found(store, query(metadata=(("k", "v"),))) == []
    assert list(await store.items("p", ["in_old", "out_old"])) == []
    assert await store.response("q", "resp_theirs") is not None
    assert await pruned(store) == 0


@pytest.mark.parametrize("limit", [1, 2, 20])
async def test_all_go_however_small_the_steps_are(store: Store, limit: int) -> None:
    for number in range(5):
        await turn(store, f"x{number}")

    assert await pruned(store, limit=limit) == 5
    assert await found(store, query()) == []


async def test_what_a_later_turn_builds_on_stays_until_that_goes(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    child = replace(ended("c", after="b"), created_at=OLD)
    await store.save("p", child, (said("in_c"),), ())

    assert await pruned(store) == 2
    assert not await store.has("p", "resp_b")
    assert await context(store, "c") == ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"]
    await turn(store, "d", after="c")
    await erased(store, "c", "d")
    assert list(await store.items("p", ["in_a", "out_b", "in_c"])) == []


async def test_only_what_is_asked_for_goes(store: Store) -> None:
    for name, model, status, colour in (
        ("a", "m", "completed", "red"),
        ("b", "n", "completed", "red"),
        ("c", "m", "failed", "red"),
        ("d", "m", "completed", "blue"),
    ):
        fields = {"model": model, "status": status, "metadata": {"colour": colour}}
        await store.save("p", replace(ended(name), **fields), (said(f"in_{name}"),), ())

    assert await pruned(store, model="m", status="completed", metadata=(("colour", "red"),)) == 1
    assert await found(store, query()) == ["b", "c", "d"]
    assert await pruned(store, status="failed") == 1
    assert await pruned(store, model="n") == 1
    assert await found(store, query()) == ["d"]


async def test_what_is_under_way_stays_whatever_its_age(store: Store) -> None:
    ticket = await begun(store, "x")
    await added(store, "queued")
    for number in range(3):
        await turn(store, f"old{number}")

    assert await pruned(store, limit=1) == 3
    assert await found(store, query()) == ["x", "queued"]
    assert await store.runs.finish(ticket, ended("x"), (), T * 1000)
    assert await pruned(store) == 1
    assert await found(store, query()) == ["queued"]


async def test_a_conversation_keeps_what_its_responses_said(store: Store) -> None:
    ticket = await in_conversation(store)
    await store.runs.finish(ticket, ended(conversation=ConversationUse(id="conv_a")), (), T * 1000)

    assert await pruned(store) == 1
    _, items = await store.conversations.context("p", "conv_a")
    assert ids(items) == ["first", "in_x", "out_x"]


async def test_counting_deletes_nothing(store: Store) -> None:
    for number in range(3):
        await turn(store, f"x{number}")
    await added(store, "queued")
    pruning = Pruning(project="p", created_before=OLD, limit=2)
    for _ in range(10):
        if not pruning.is_over:
            pruning = await store.retention.count(pruning)

    assert (pruning.is_over, pruning.count) == (True, 3)
    assert len(await found(store, query())) == 4


async def test_projects_are_named_one_after_the_other(store: Store) -> None:
    for project in ("b", "a", "c"):
        await turn(store, f"of_{project}", project=project)
    await store.delete("b", "resp_of_b")

    assert [await store.retention.next_project(after) for after in ("", "a", "c")] == ["a", "c", None]


async def test_large_responses_go_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BYTES_MAX", 10)
    store = open_file(tmp_path)
    for number in range(3):
        await turn(store, f"x{number}")
    step = await store.retention.prune(Pruning(project="p", created_before=OLD, limit=20))

    assert (step.count, step.is_over) == (1, False)
    assert await pruned(store) == 2
    await store.close()


async def test_a_long_way_without_a_match_goes_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ENTRIES_MAX", 2)
    store = open_file(tmp_path)
    for number in range(5):
        await turn(store, f"x{number}", metadata={"k": "v"})
    await turn(store, "y", metadata={"k": "v", "l": "w"})

    assert await pruned(store, status="completed", metadata=(("l", "w"), ("k", "v"))) == 1
    assert len(await found(store, query())) == 5
    await store.close()


async def test_two_processes_may_prune_at_once(tmp_path: Path) -> None:
    stores = [open_file(tmp_path), open_file(tmp_path)]
    for number in range(30):
        await turn(stores[0], f"x{number}", after=f"x{number - 1}" if number % 3 else None)
    counts = await asyncio.gather(*(pruned(one, limit=2) for one in stores))

    assert sum(counts) == 30
    assert list(await stores[0].items("p", [f"in_x{number}" for number in range(30)])) == []
    for one in stores:
        await one.close()


# -- events


async def test_events_go_after_their_time_and_the_response_stays(store: Store) -> None:
    await store.runs.finish(await begun(store), ended(), deltas(2, 3), T * 1000)
    early = await forgotten(store, T)
    assert (early, await numbers(store), await expired(store)) == (0, [0, 1, 2, 3], False)
    assert await store.retention.count_streams(T + 1) == 1

    assert await forgotten(store, T + 1) == 1
    assert (await numbers(store), await times(store), await expired(store)) == ([], [], True)
    assert await store.response("p", "resp_x") == ended()
    assert await store.retention.count_streams(T + 1) == 0
    assert await forgotten(store, T + 1) == 0


async def test_events_of_what_is_under_way_stay(store: Store) -> None:
    ticket = await begun(store)
    await store.runs.append(ticket, deltas(2), NOW, A.until_ms)

    assert await forgotten(store, 2**50) == 0
    assert await numbers(store) == [0, 1, 2]
    assert not await expired(store)


async def test_what_was_not_streamed_has_no_stream_to_forget(store: Store) -> None:
    await store.runs.finish(await begun(store, streams=False), ended(), (), T * 1000)

    assert await forgotten(store, 2**50) == 0
    assert not await expired(store)


async def test_from_the_first_event_that_goes_none_can_be_streamed(tmp_path: Path) -> None:
    store = open_file(tmp_path)
    await store.runs.finish(await begun(store), ended(), deltas(2, 3, 4), T * 1000)
    told = await store.retention.prune_events(T + 1, T, 2)

    assert (told.streams, told.is_over) == (0, False)
    assert (await numbers(store), await expired(store)) == ([2, 3, 4], True)
    assert await forgotten(store, T + 1, limit=2) == 1
    assert await numbers(store) == []
    await store.close()


async def test_many_streams_go_in_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STREAMS_MAX", 2)
    for name in "abcde":
        await store.runs.finish(await begun(store, name), ended(name), deltas(2), T * 1000)

    assert await forgotten(store, T + 1) == 5
    assert [await numbers(store, name) for name in "abcde"] == [[]] * 5


async def test_a_pruned_response_takes_its_run_and_events_along(store: Store) -> None:
    await store.runs.finish(await begun(store), ended(), deltas(2), T * 1000)
    assert await pruned(store) == 1

    assert await store.runs.standing("p", "resp_x") is None
    assert await store.runs.add("p", run_of("x"), queue_max=10, per_project_max=10)
    assert await numbers(store) == [0, 1]
    assert await store.runs.seize("p", "resp_x", Lease(owner="b", until_ms=1)) is not None


# -- a time of its own


async def test_a_response_goes_at_its_own_time_and_no_other_does(store: Store) -> None:
    await store.retention.expire_at("p", "resp_b", T)
    await store.retention.expire_at("p", "resp_never", T)
    for name in "abc":
        await store.save("p", made(name), (said(f"in_{name}"),), ())

    early = await store.retention.prune_expired(T - 1, 20)
    first = await store.retention.prune_expired(T, 1)
    second = await store.retention.prune_expired(T, 20)

    assert (early, first, second, await store.retention.prune_expired(T, 20)) == (0, 1, 1, 0)
    assert [await store.has("p", f"resp_{name}") for name in "abc"] == [True, False, True]


async def test_what_is_under_way_at_its_time_goes_later(store: Store) -> None:
    await store.retention.expire_at("p", "resp_x", T)
    await added(store, "x")

    assert await store.retention.prune_expired(T, 20) == 1
    assert await store.has("p", "resp_x")
    assert await store.retention.prune_expired(T + 30, 20) == 0
    assert await store.retention.prune_expired(T + 60, 20) == 1
