"""What a store must do, on every store; and what only a file can go through: crashes, full disks, other processes."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec import UNSET
from msgspec.structs import replace

from antiphon import stores
from antiphon.config import Limits, Storage
from antiphon.core.ports import ApiKey, Order, ResponsePage, ResponseQuery, Store
from antiphon.errors import NotFound, SettingsError, StorageError
from antiphon.stores import listing, sql
from antiphon.stores.database import UNBOUNDED
from antiphon.stores.listing import Bounds, Search, Source, step
from antiphon.stores.memory import MemoryStore
from antiphon.stores.postgres import PostgresStore
from antiphon.stores.sqlite import INLINE_BYTES_MAX, SqliteStore
from antiphon.stores.sqlite_file import APPLICATION_ID, JOURNAL_BYTES_KEPT, _use_journal, played
from antiphon.stores.sqlite_writer import _checkpoint
from antiphon.wire.items import (
    FunctionCall,
    FunctionCallOutput,
    InputText,
    Item,
    Logprob,
    Message,
    OutputText,
    Reasoning,
    Refusal,
    ScriptedCall,
    SummaryText,
    TopLogprob,
    UrlCitation,
)
from antiphon.wire.response import IncompleteDetails, ReasoningConfig, Response, ResponseError, Usage
from antiphon.wire.tools import FunctionTool, NamedFunction
from tests.conftest import WAIT_S

TEST_S = 180
LOCK_WAIT_S = 240
"""Longer than a test may take: one that waits for a lock where it must not fails."""


# -- the stores


def open_file(folder: Path, *, lock_wait_s: float = LOCK_WAIT_S, **storage: Any) -> SqliteStore:
    return SqliteStore(Storage(database=str(folder / "store.db"), **storage), Limits(), lock_wait_s=lock_wait_s)


def open_shared_memory(_: Path) -> SqliteStore:
    return SqliteStore(Storage(database=":memory:"), Limits())


def open_memory(_: Path) -> MemoryStore:
    return MemoryStore(Storage(), Limits())


def open_file_of(folder: Path, limits: Limits) -> SqliteStore:
    return SqliteStore(Storage(database=str(folder / "store.db")), limits)


def open_memory_of(_: Path, limits: Limits) -> MemoryStore:
    return MemoryStore(Storage(), limits)


STORES: dict[str, Callable[[Path], Store]] = {
    "memory": open_memory,
    "sqlite": open_file,
    "sqlite, full": partial(open_file, synchronous="full"),
    "sqlite in memory": open_shared_memory,
}


KINDS = [*STORES, "postgres"]


def opened(request: pytest.FixtureRequest, folder: Path) -> Store:
    """The store that the test is parametrized with."""
    if request.param == "postgres":
        return open_postgres(request.getfixturevalue("database"))
    return STORES[request.param](folder)


def open_postgres(database: str, limits: Limits | None = None) -> PostgresStore:
    return PostgresStore(Storage(database=database), limits or Limits())


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = opened(request, tmp_path)
    yield store
    await store.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = open_file(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test takes for ever, even if the event loop itself is blocked."""

    def end(*_: object) -> None:
        raise TimeoutError(f"not done after {TEST_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, TEST_S, TEST_S / 6)  # once more for what closes after it
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# -- what is stored


def said(item_id: str, text: str = "hello") -> Message:
    return Message(id=item_id, status="completed", content=(InputText(text=text),), role="user")


def answer(item_id: str, text: str = "hi") -> Message:
    return Message(id=item_id, status="completed", content=(OutputText(text=text),), role="assistant")


def made(name: str, after: str | None = None, *output: Item, **fields: Any) -> Response:
    return Response(
        id=f"resp_{name}",
        created_at=1_700_000_000,
        status="completed",
        model="m",
        previous_response_id=after and f"resp_{after}",
        output=output or (answer(f"out_{name}"),),  # type: ignore[arg-type]
        **fields,
    )


async def turn(store: Store, name: str, after: str | None = None, project: str = "p", **fields: Any) -> Response:
    """One turn, `name`, following the turn `after`: input in_<name>, output out_<name>."""
    history = (await store.context(project, f"resp_{after}") or ()) if after else ()
    response = made(name, after, **fields)
    await store.save(project, response, (said(f"in_{name}"),), history)
    return response


def ids(items: Sequence[Item] | None) -> list[str]:
    assert items is not None
    return [str(item.id) for item in items]


async def context(store: Store, name: str) -> list[str]:
    return ids(await store.context("p", f"resp_{name}"))


async def listed(
    store: Store, name: str, order: Order = "asc", limit: int = 100, after: str | None = None
) -> list[str]:
    page = await store.input_items("p", f"resp_{name}", limit=limit, order=order, after=after)
    assert page is not None
    return ids(page.items)


async def erased(store: Store, *names: str) -> None:
    for name in names:
        assert await store.delete("p", f"resp_{name}")


def key(name: str) -> ApiKey:
    return ApiKey(id=f"key_{name}", project="p", name=name, hint="…", digest=name.encode(), created_at=1)


FULL = made(
    "full",
    None,
    Reasoning(id="rs_1", status="completed", summary=(SummaryText(text="Θ"),)),
    FunctionCall(id="fc_1", status="completed", arguments='{"a": 1}', call_id="call_1", name="f"),
    ScriptedCall(id="sc_1", status="completed", name="s", arguments="{}", output=None),
    Message(
        id="msg_1",
        status="incomplete",
        role="assistant",
        content=(
            OutputText(
                text="a\0b\u2028\U0001f600",
                annotations=(UrlCitation(start_index=0, end_index=1, title="t", url="https://a.example"),),
                logprobs=(Logprob(token="a", logprob=-0.1, top_logprobs=(TopLogprob(token="b", logprob=-2.5),)),),
            ),
            Refusal(refusal="no"),
        ),
    ),
    error=ResponseError(code="server_error", message="boom"),
    incomplete_details=IncompleteDetails(reason="max_output_tokens"),
    instructions="be brief",
    metadata={"topic": "tests", "": "empty key"},
    reasoning=ReasoningConfig(effort="low", summary="auto"),
    temperature=0.1,
    tool_choice=NamedFunction(name="f"),
    tools=(FunctionTool(name="f", parameters={"type": "object", "properties": {}}),),
    usage=Usage(input_tokens=1, output_tokens=2, total_tokens=3),
)


# -- every store: responses


async def test_what_is_saved_comes_back_as_it_was(store: Store) -> None:
    given = (said("in_1"), FunctionCallOutput(id="fco_1", call_id="call_0", output=(InputText(text="4"),)))
    await store.save("p", FULL, given, ())

    assert await store.response("p", FULL.id) == FULL
    assert await store.context("p", FULL.id) == (*given, *FULL.output)


async def test_a_response_without_output_or_input_is_stored_too(store: Store) -> None:
    empty = replace(made("a"), output=())
    await store.save("p", empty, (), ())

    assert await store.response("p", "resp_a") == empty
    assert await store.context("p", "resp_a") == ()
    assert await listed(store, "a") == []


async def test_the_unknown_is_none(store: Store) -> None:
    assert await store.response("p", "resp_x") is None
    assert await store.context("p", "resp_x") is None
    assert await store.input_items("p", "resp_x", limit=1, order="asc", after=None) is None
    assert await store.items("p", ["msg_x"]) == {}
    assert not await store.delete("p", "resp_x")


async def test_another_projects_rows_do_not_exist(store: Store) -> None:
    await turn(store, "a", project="other")

    assert await store.response("p", "resp_a") is None
    assert await store.context("p", "resp_a") is None
    assert await store.input_items("p", "resp_a", limit=1, order="asc", after=None) is None
    assert await store.items("p", ["in_a", "out_a"]) == {}
    assert not await store.delete("p", "resp_a")
    assert await store.response("other", "resp_a")


async def test_another_projects_response_is_no_parent(store: Store) -> None:
    await turn(store, "a", project="other")
    await store.save("p", made("b", "a"), (said("in_b"),), ())

    assert await context(store, "b") == ["in_b", "out_b"]


async def test_the_same_id_in_two_projects_is_two_responses(store: Store) -> None:
    await turn(store, "a", project="other")
    await turn(store, "a")
    await erased(store, "a")

    assert await store.response("other", "resp_a")
    assert list(await store.items("other", ["in_a"])) == ["in_a"]


async def test_an_id_is_saved_once(store: Store) -> None:
    first = await turn(store, "a")
    with pytest.raises(StorageError, match="already stored"):
        await store.save("p", made("a", metadata={"k": "v"}), (said("in_other"),), ())

    assert await store.response("p", "resp_a") == first
    assert await context(store, "a") == ["in_a", "out_a"]
    assert await store.items("p", ["in_other"]) == {}


async def test_an_item_without_an_id_is_a_bug(store: Store) -> None:
    with pytest.raises(AssertionError, match="without an id"):
        await store.save("p", made("a"), (replace(said(""), id=UNSET),), ())


# -- every store: chains


async def test_context_is_the_chain_oldest_first(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    await turn(store, "c", after="b")

    assert await context(store, "c") == ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"]
    assert await context(store, "a") == ["in_a", "out_a"]


async def test_two_children_of_one_parent_do_not_see_each_other(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    await turn(store, "c", after="a")

    assert await context(store, "b") == ["in_a", "out_a", "in_b", "out_b"]
    assert await context(store, "c") == ["in_a", "out_a", "in_c", "out_c"]


async def test_a_thousand_turns_are_one_context(store: Store) -> None:
    chain = [made(str(number), str(number - 1) if number else None) for number in range(1000)]
    await asyncio.gather(*(store.save("p", one, (said(f"in_{at}"),), ()) for at, one in enumerate(chain)))

    expected = [f"{side}_{number}" for number in range(1000) for side in ("in", "out")]
    assert await context(store, "999") == expected
    assert await listed(store, "999", "desc", 2) == ["in_999", "out_998"]
    assert await listed(store, "999", "asc", 2, after="out_499") == ["in_500", "out_500"]
    assert all(await asyncio.gather(*(store.delete("p", one.id) for one in chain)))
    assert await store.items("p", expected) == {}


# -- every store: erasing


async def test_the_erased_cannot_be_read_or_erased_again(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    await erased(store, "a")

    assert await store.response("p", "resp_a") is None
    assert await store.context("p", "resp_a") is None
    assert await store.input_items("p", "resp_a", limit=1, order="asc", after=None) is None
    assert not await store.delete("p", "resp_a")


async def test_children_of_the_erased_still_work(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    await erased(store, "a")
    await turn(store, "c", after="b")

    assert await context(store, "c") == ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"]
    assert await listed(store, "b") == ["in_a", "out_a", "in_b"]
    assert list(await store.items("p", ["in_a"])) == ["in_a"]


async def test_items_go_with_their_last_descendant(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    await turn(store, "c", after="b")
    everything = ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"]
    await erased(store, "b", "a")
    assert list(await store.items("p", everything)) == everything

    await erased(store, "c")
    assert await store.items("p", everything) == {}


async def test_a_living_ancestor_keeps_its_items(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    await turn(store, "c", after="b")
    await erased(store, "b", "c")

    assert list(await store.items("p", ["in_a", "in_b", "in_c"])) == ["in_a"]
    assert await context(store, "a") == ["in_a", "out_a"]


async def test_a_living_sibling_keeps_the_erased_parents_items(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    await turn(store, "c", after="a")
    await erased(store, "a", "b")

    assert await context(store, "c") == ["in_a", "out_a", "in_c", "out_c"]
    assert list(await store.items("p", ["in_a", "in_b"])) == ["in_a"]


async def test_a_parent_erased_while_its_child_ran_is_written_with_the_child(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    history = await store.context("p", "resp_b")
    assert history is not None
    await erased(store, "a", "b")
    await store.save("p", made("c", "b"), (said("in_c"),), history)

    assert await context(store, "c") == ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"]
    assert await listed(store, "c") == ["in_a", "out_a", "in_b", "out_b", "in_c"]


async def test_a_parent_erased_but_kept_for_another_child_is_not_written_twice(store: Store) -> None:
    await turn(store, "a")
    history = await store.context("p", "resp_a")
    assert history is not None
    await turn(store, "b", after="a")
    await erased(store, "a")
    await store.save("p", made("c", "a"), (said("in_c"),), history)

    assert await context(store, "c") == ["in_a", "out_a", "in_c", "out_c"]
    await erased(store, "b")
    assert await context(store, "c") == ["in_a", "out_a", "in_c", "out_c"]


# -- every store: lists


async def test_input_items_are_the_ancestors_and_its_own_input(store: Store) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")

    assert await listed(store, "b", "asc") == ["in_a", "out_a", "in_b"]
    assert await listed(store, "b", "desc") == ["in_b", "out_a", "in_a"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8])
async def test_pages_follow_each_other_without_gap_and_has_more_is_exact(
    store: Store, order: Order, limit: int
) -> None:
    await turn(store, "a")
    await turn(store, "b", after="a")
    await turn(store, "c", after="b")
    await store.save("p", made("d", "c"), (said("in_d"),), ())
    expected = await listed(store, "d", order)

    seen: list[str] = []
    while len(seen) < len(expected):
        page = await store.input_items("p", "resp_d", limit=limit, order=order, after=seen[-1] if seen else None)
        assert page is not None
        seen += ids(page.items)
        assert page.has_more == (len(seen) < len(expected))
    assert seen == expected


@pytest.mark.parametrize("after", ["in_x", "out_b", "in_other"])
async def test_after_an_item_that_is_not_listed_is_not_found(store: Store, after: str) -> None:
    await turn(store, "other")
    await turn(store, "a")
    await turn(store, "b", after="a")
    with pytest.raises(NotFound, match=after):
        await store.input_items("p", "resp_b", limit=1, order="asc", after=after)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_paging_over_an_item_that_was_sent_back_does_not_run_in_circles(store: Store, order: Order) -> None:
    await store.save("p", made("a"), (said("in_1"), said("in_2"), said("in_1"), said("in_3")), ())

    page = await store.input_items("p", "resp_a", limit=10, order=order, after="in_1")
    assert page is not None
    assert len(page.items) == (1 if order == "asc" else 0)
    assert not page.has_more


async def test_of_items_with_one_id_the_newest_is_found(store: Store) -> None:
    await store.save("p", made("a"), (said("in_1", "old"), said("in_2")), ())
    await store.save("p", made("b"), (said("in_1", "new"),), ())

    assert await store.items("p", ["in_1", "in_x", "in_2", "in_1"]) == {
        "in_1": said("in_1", "new"),
        "in_2": said("in_2"),
    }
    await erased(store, "b")
    assert await store.items("p", ["in_1"]) == {"in_1": said("in_1", "old")}


# -- every store: stored responses, listed


async def dated(store: Store, name: str, created_at: int, project: str = "p", **fields: Any) -> None:
    await store.save(project, replace(made(name), created_at=created_at, **fields), (said(f"in_{name}"),), ())


def query(order: Order = "asc", limit: int = 100, after: str | None = None, **fields: Any) -> ResponseQuery:
    return ResponseQuery(order=order, limit=limit, after=after and f"resp_{after}", **fields)


async def found(store: Store, asked: ResponseQuery) -> list[str]:
    page = await store.responses("p", asked)
    return [response.id.removeprefix("resp_") for response in page.responses]


async def paged(store: Store, asked: ResponseQuery, pages_max: int = 100) -> list[str]:
    """All pages, one after the other; each promises that there are more exactly when there are."""
    seen: list[str] = []
    for _ in range(pages_max):
        page = await store.responses("p", asked)
        assert len(page.responses) <= asked.limit
        seen += [response.id.removeprefix("resp_") for response in page.responses]
        if not page.has_more:
            return seen
        assert page.responses
        asked = replace(asked, after=page.responses[-1].id)
    raise AssertionError("the pages have no end")


async def test_a_list_gives_whole_responses_newest_first(store: Store) -> None:
    await store.save("p", FULL, (said("in_1"),), ())
    second = await turn(store, "second", after="full", metadata={"k": "v"})

    page = await store.responses("p", query("desc"))
    assert page.responses == (second, FULL)
    assert not page.has_more


async def test_a_list_of_nothing_is_empty(store: Store) -> None:
    assert await store.responses("p", query()) == ResponsePage(responses=(), has_more=False)


async def test_a_list_holds_what_its_project_stored_and_did_not_delete(store: Store) -> None:
    for name in "abc":
        await dated(store, name, 1, metadata={"k": "v"}, status="failed")
    await dated(store, "theirs", 1, project="other", metadata={"k": "v"}, status="failed")
    await turn(store, "child", after="b")
    await erased(store, "b", "c")  # b stays as its child's parent

    everything: list[dict[str, Any]] = [{}, {"metadata": (("k", "v"),)}, {"status": "failed"}, {"model": "m"}]
    lists = [await found(store, query(**fields)) for fields in everything]
    assert lists == [["a", "child"], ["a"], ["a"], ["a", "child"]]


FILTERS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "abcdef"),
    "model": ({"model": "m2"}, "bcf"),
    "completed": ({"status": "completed"}, "abde"),
    "another status": ({"status": "failed"}, "c"),
    "unknown model": ({"model": "M2"}, ""),
    "metadata": ({"metadata": (("k", "1"),)}, "abcf"),
    "metadata, empty value": ({"metadata": (("k", ""),)}, "d"),
    "metadata, another key": ({"metadata": (("l", "1"),)}, ""),
    "metadata twice": ({"metadata": (("k", "1"), ("l", "2"))}, "acf"),
    "metadata, model and status": ({"metadata": (("l", "2"),), "model": "m2", "status": "incomplete"}, "f"),
    "metadata and completed": ({"metadata": (("k", "1"),), "status": "completed"}, "ab"),
    "model and status": ({"model": "m2", "status": "completed"}, "b"),
    "created after, inclusive": ({"created_after": 20}, "cdef"),
    "created before, exclusive": ({"created_before": 20}, "ab"),
    "created between": ({"created_after": 20, "created_before": 30}, "cde"),
    "created never": ({"created_after": 30, "created_before": 20}, ""),
    "everything": (
        {"metadata": (("k", "1"),), "model": "m2", "status": "failed", "created_after": 20, "created_before": 21},
        "c",
    ),
}


async def various(store: Store) -> None:
    await dated(store, "a", 10, metadata={"k": "1", "l": "2"})
    await dated(store, "c", 20, metadata={"k": "1", "l": "2"}, model="m2", status="failed")
    await dated(store, "f", 30, metadata={"k": "1", "l": "2"}, model="m2", status="incomplete")
    await dated(store, "d", 20, metadata={"k": ""}, status="completed")
    await dated(store, "b", 10, metadata={"k": "1"}, model="m2")
    await dated(store, "e", 20, metadata={"k": "10"})


@pytest.mark.parametrize("name", FILTERS)
async def test_a_list_holds_what_matches_all_filters(store: Store, name: str) -> None:
    await various(store)
    fields, expected = FILTERS[name]

    assert "".join(await found(store, query("asc", **fields))) == expected
    assert "".join(await found(store, query("desc", **fields))) == expected[::-1]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("name", FILTERS)
async def test_pages_of_one_response_follow_each_other(store: Store, order: Order, name: str) -> None:
    await various(store)
    fields, expected = FILTERS[name]

    assert "".join(await paged(store, query(order, 1, **fields))) == (expected if order == "asc" else expected[::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 50, 100])
async def test_many_of_one_second_are_each_listed_once(store: Store, order: Order, limit: int) -> None:
    names = [f"{number:03}" for number in range(100)]
    for name in names:
        await dated(store, name, 7, model="even" if int(name) % 2 == 0 else "odd")

    assert await paged(store, query(order, limit)) == (names if order == "asc" else names[::-1])
    assert sorted(await paged(store, query(order, limit, model="odd"))) == names[1::2]


async def test_a_response_that_was_saved_late_is_listed_where_it_was_created(store: Store) -> None:
    for name, created_at in (("a", 1), ("c", 3), ("b", 2)):
        await dated(store, name, created_at)
    assert await found(store, query()) == ["a", "b", "c"]


async def test_a_page_begins_behind_any_response_also_one_that_does_not_match(store: Store) -> None:
    await various(store)
    assert await found(store, query(after="d", model="m2")) == ["f"]
    assert await found(store, query("desc", after="d", metadata=(("k", "1"),))) == ["c", "b", "a"]
    assert await found(store, query("desc", after="f", created_before=20)) == ["b", "a"]
    assert await found(store, query("asc", after="a", created_after=20)) == ["c", "d", "e", "f"]


async def related(store: Store) -> None:
    """a and b go on from root, c from a, d from nothing; and e from the root of another project."""
    await turn(store, "root")
    await turn(store, "root", project="other")
    await store.save("p", replace(made("a", "root", metadata={"k": "1"}), model="m2"), (), ())
    await turn(store, "b", after="root", metadata={"k": "1"})
    await turn(store, "c", after="a")
    await turn(store, "d", metadata={"k": "1"})
    await turn(store, "e", after="root", project="other")


KIN: dict[str, tuple[dict[str, Any], str]] = {
    "root": ({}, "ab"),
    "a": ({}, "c"),
    "c": ({}, ""),
    "unknown": ({}, ""),
    "e": ({}, ""),
    "root, model": ({"model": "m2"}, "a"),
    "root, status": ({"status": "failed"}, ""),
    "root, metadata": ({"metadata": (("k", "1"),)}, "ab"),
    "root, metadata and model": ({"metadata": (("k", "1"),), "model": "m"}, "b"),
    "root, created before": ({"created_before": 1_700_000_000}, ""),
    "root, after the first": ({"after": "a"}, "b"),
}


@pytest.mark.parametrize("sorted_max", [listing.CHILDREN_MAX, 1], ids=["few", "many"])
@pytest.mark.parametrize("name", KIN)
async def test_a_list_of_what_goes_on_from_a_response_holds_what_does_so_directly(
    store: Store, name: str, sorted_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "CHILDREN_MAX", sorted_max)
    await related(store)
    fields, expected = KIN[name]
    fields = {"previous_response_id": f"resp_{name.partition(',')[0]}", **fields}

    assert "".join(await found(store, query(**fields))) == expected
    if "after" not in fields:
        for limit in (1, 100):
            assert "".join(await paged(store, query("desc", limit, **fields))) == expected[::-1]


@pytest.mark.parametrize("sorted_max", [listing.CHILDREN_MAX, 1], ids=["few", "many"])
async def test_what_goes_on_from_a_response_is_listed_in_the_order_of_any_list(
    store: Store, sorted_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "CHILDREN_MAX", sorted_max)
    await turn(store, "root")
    for name, created_at in (("c", 30), ("a", 10), ("d", 30), ("b", 20)):
        await store.save("p", replace(made(name, "root"), created_at=created_at), (), ())

    assert await paged(store, query(limit=1, previous_response_id="resp_root")) == ["a", "b", "c", "d"]
    assert await paged(store, query("desc", limit=3, previous_response_id="resp_root")) == ["d", "c", "b", "a"]


async def test_what_goes_on_from_a_deleted_response_is_listed_until_it_is_deleted_too(store: Store) -> None:
    await related(store)
    await erased(store, "root", "a")
    assert await found(store, query(previous_response_id="resp_root")) == ["b"]
    assert await found(store, query(previous_response_id="resp_a")) == ["c"]
    await erased(store, "b", "c")
    assert await found(store, query(previous_response_id="resp_root")) == []


@pytest.mark.parametrize("after", ["x", "erased", "kept", "theirs"])
async def test_a_list_after_a_response_that_is_not_there_is_not_found(store: Store, after: str) -> None:
    await turn(store, "erased")
    await turn(store, "kept")
    await turn(store, "child", after="kept")
    await turn(store, "theirs", project="other")
    await erased(store, "erased", "kept")
    with pytest.raises(NotFound, match=f"resp_{after}") as refused:
        await store.responses("p", query(after=after))
    assert refused.value.param == "after"


@pytest.mark.parametrize("open_store", [open_memory_of, open_file_of], ids=["memory", "sqlite"])
async def test_a_page_of_large_responses_ends_early_and_the_next_goes_on(
    open_store: Callable[[Path, Limits], Store], tmp_path: Path
) -> None:
    store = open_store(tmp_path, Limits(page_chars_max=300_000))
    sizes = {"a": 120_000, "b": 120_000, "c": 120_000, "d": 1_000_000, "e": 10, "f": 10}
    for name, size in sizes.items():
        await store.save("p", made(name, None, answer(f"out_{name}", "x" * size)), (), ())

    pages = [await found(store, query(after=after)) for after in (None, "b", "c", "d")]
    assert pages == [["a", "b"], ["c"], ["d"], ["e", "f"]]
    assert await paged(store, query("desc")) == ["f", "e", "d", "c", "b", "a"]
    await store.close()


# -- every store: keys, and the rest


async def test_keys_are_listed_until_revoked(store: Store) -> None:
    assert list(await store.keys()) == []
    await store.add_key(key("b"))
    await store.add_key(key("a"))
    assert list(await store.keys()) == [key("b"), key("a")]

    assert await store.revoke_key("key_b")
    assert not await store.revoke_key("key_b")
    assert list(await store.keys()) == [key("a")]


async def test_keys_are_the_same_object_until_they_change(store: Store) -> None:
    await store.add_key(key("a"))
    before = await store.keys()
    await turn(store, "a")
    assert await store.keys() is before

    await store.add_key(key("b"))
    assert await store.keys() is not before


@pytest.mark.parametrize("second", [key("a"), replace(key("b"), id="key_a"), replace(key("b"), digest=b"a")])
async def test_a_key_is_added_once(store: Store, second: ApiKey) -> None:
    await store.add_key(key("a"))
    with pytest.raises(StorageError, match="already stored"):
        await store.add_key(second)
    assert list(await store.keys()) == [key("a")]


async def test_many_at_once_are_all_saved(store: Store) -> None:
    await turn(store, "root")
    saved = await asyncio.gather(*(turn(store, str(number), after="root") for number in range(300)))

    assert [await store.response("p", response.id) for response in saved] == saved
    assert await context(store, "299") == ["in_root", "out_root", "in_299", "out_299"]


async def test_one_that_fails_does_not_take_others_with_it(store: Store) -> None:
    await turn(store, "3")
    outcomes = await asyncio.gather(*(turn(store, str(number)) for number in range(60)), return_exceptions=True)

    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [3]
    assert isinstance(outcomes[3], StorageError)
    assert [bool(await store.response("p", f"resp_{number}")) for number in range(60)] == [True] * 60


async def test_a_large_response_is_stored(store: Store) -> None:
    large = made("a", None, answer("out_a", "é" * 1_000_000))
    await store.save("p", large, (said("in_a", "x" * 1_000_000),), ())

    assert await store.response("p", "resp_a") == large


async def test_a_store_that_works_says_so(store: Store) -> None:
    assert (await store.check()).ok


def test_a_store_is_built_by_its_kind() -> None:
    assert isinstance(stores.build(Storage(), Limits(), kind="memory"), MemoryStore)


# -- random operations: SQLite is compared with memory

PROJECTS = st.sampled_from(["p", "q"])
PICK = st.integers(min_value=0, max_value=10**6)


class Twins(RuleBasedStateMachine):
    """Whatever is done, both stores say the same."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.real: Store = self.run(self.opened())
        self.fake: Store = MemoryStore(Storage(), Limits())
        self.known: list[tuple[str, str, tuple[Item, ...]]] = []  # project, response, context when it was saved
        self.item_ids = ["msg_none"]

    async def opened(self) -> Store:
        return open_shared_memory(Path())

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def both(self, call: Callable[[Store], Any]) -> Any:
        outcomes = [self.run(outcome(call(store))) for store in (self.real, self.fake)]
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    @rule(project=PROJECTS, given_=st.integers(0, 3), output=st.integers(0, 2), labels=st.booleans())
    def save_root(self, project: str, given_: int, output: int, labels: bool) -> None:
        self.save(project, None, (), given_, output, {"k": "v"} if labels else {})

    @precondition(lambda self: self.known)
    @rule(pick=PICK, given_=st.integers(0, 3), output=st.integers(0, 2))
    def save_child(self, pick: int, given_: int, output: int) -> None:
        """Of any response there ever was: the erased stand for those that were erased while the child ran."""
        project, parent, history = self.known[pick % len(self.known)]
        self.save(project, parent, history, given_, output, {})

    def save(
        self, project: str, parent: str | None, history: Sequence[Item], given_: int, output: int, labels: Any
    ) -> None:
        name = str(len(self.known))
        given = [said(f"in_{name}_{number}", "x" * 50) for number in range(given_)]
        if history and given_ > 1:
            given[0] = replace(given[0], id=str(history[0].id))  # sent back as it came
        made_ = tuple(answer(f"out_{name}_{number}") for number in range(output))
        response = replace(made(name, metadata=labels), output=made_, previous_response_id=parent)
        self.both(lambda store: store.save(project, response, given, history))
        self.known.append((project, response.id, (*history, *given, *made_)))
        self.item_ids += ids([*given, *made_])

    @precondition(lambda self: self.known)
    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        project, response_id, _ = self.known[pick % len(self.known)]
        self.both(lambda store: store.delete(project, response_id))

    @precondition(lambda self: self.known)
    @rule(pick=PICK)
    def read(self, pick: int) -> None:
        project, response_id, expected = self.known[pick % len(self.known)]
        self.both(lambda store: store.response(project, response_id))
        context = self.both(lambda store: store.context(project, response_id))
        assert context in (None, expected)

    @precondition(lambda self: self.known)
    @rule(pick=PICK, order=st.sampled_from(["asc", "desc"]), limit=st.integers(1, 4), after=st.none() | PICK)
    def page(self, pick: int, order: Order, limit: int, after: int | None) -> None:
        project, response_id, _ = self.known[pick % len(self.known)]
        item_id = None if after is None else self.item_ids[after % len(self.item_ids)]
        self.both(lambda store: store.input_items(project, response_id, limit=limit, order=order, after=item_id))

    @rule(project=PROJECTS, order=st.sampled_from(["asc", "desc"]), limit=st.integers(1, 4), after=st.none() | PICK)
    def list_all(self, project: str, order: Order, limit: int, after: int | None) -> None:
        cursor = None if after is None or not self.known else self.known[after % len(self.known)][1]
        parent = self.known[limit % len(self.known)][1] if self.known else "resp_none"
        for fields in ({}, {"metadata": (("k", "v"),)}, {"previous_response_id": parent}):
            asked = ResponseQuery(limit=limit, order=order, after=cursor, **fields)
            self.both(lambda store, asked=asked: store.responses(project, asked))  # type: ignore[misc]

    @rule(project=PROJECTS)
    def look_up(self, project: str) -> None:
        self.both(lambda store: store.items(project, self.item_ids))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.real.close())
            self.runner.close()


async def outcome(call: Any) -> Any:
    try:
        return await call
    except (NotFound, StorageError) as error:
        return type(error)


TestTwins = Twins.TestCase
TestTwins.settings = examples(max_examples=60, stateful_step_count=30, deadline=None)


# -- SQLite: how it writes


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        return connection.execute(query).fetchall()


async def test_a_turn_writes_as_many_rows_at_any_depth(sqlite: SqliteStore) -> None:
    connection = sqlite._writer._lane.connection
    written = []
    for number in range(200):
        before = connection.total_changes()
        await turn(sqlite, str(number), after=str(number - 1) if number else None)
        written.append(connection.total_changes() - before)
    assert set(written) == {3}  # the response and its two items


async def test_output_is_stored_once(sqlite: SqliteStore, tmp_path: Path) -> None:
    await sqlite.save("p", made("a", None, answer("out_a", "once only")), (), ())
    assert rows(tmp_path / "store.db", "SELECT count(*) FROM responses WHERE body LIKE '%once only%'") == [(0,)]
    assert rows(tmp_path / "store.db", "SELECT type, is_input FROM items") == [("message", 0)]


async def test_a_parent_that_is_only_erased_lends_its_items(sqlite: SqliteStore, tmp_path: Path) -> None:
    await turn(sqlite, "a")
    history = await sqlite.context("p", "resp_a") or ()
    await turn(sqlite, "b", after="a")
    await erased(sqlite, "a")
    await sqlite.save("p", made("c", "a"), (said("in_c"),), history)
    assert rows(tmp_path / "store.db", "SELECT count(*) FROM items") == [(6,)]


async def test_metadata_can_be_listed_and_goes_with_its_response(sqlite: SqliteStore, tmp_path: Path) -> None:
    await turn(sqlite, "a", metadata={"k": "1", "l": "2"})
    await turn(sqlite, "b", after="a", metadata={"k": "1"})
    assert rows(tmp_path / "store.db", "SELECT key, value, response FROM metadata") == [
        ("k", "1", 1),
        ("k", "1", 2),
        ("l", "2", 1),
    ]
    await erased(sqlite, "a")
    assert rows(tmp_path / "store.db", "SELECT key, value, response FROM metadata") == [("k", "1", 2)]


async def test_the_body_of_the_erased_is_gone_from_the_file(tmp_path: Path) -> None:
    store = open_file(tmp_path)
    await turn(store, "a", instructions="very private", metadata={"k": "most private"})
    await turn(store, "b", after="a")
    await erased(store, "a")
    await store.close()
    assert b"private" not in (tmp_path / "store.db").read_bytes()


def threads(lane: str = "") -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(f"store-{lane}")]


async def test_a_small_save_needs_no_thread(sqlite: SqliteStore) -> None:
    await turn(sqlite, "a")
    assert threads("write") == []
    await sqlite.save("p", made("b"), (said("in_b", "x" * 1_000_000),), ())
    assert len(threads("write")) == 1


async def test_a_long_read_is_done_in_the_thread(sqlite: SqliteStore) -> None:
    await turn(sqlite, "a")
    await context(sqlite, "a")
    assert threads("read") == []
    await sqlite.save("p", made("b", "a"), (said("in_b", "x" * 1_000_000),), ())
    await context(sqlite, "b")
    assert len(threads("read")) == 1


async def test_a_short_list_needs_no_thread_and_a_long_one_is_read_in_it(sqlite: SqliteStore) -> None:
    await turn(sqlite, "a")
    await found(sqlite, query())
    assert threads("read") == []
    await sqlite.save("p", made("b", None, answer("out_b", "x" * 1_000_000)), (), ())
    assert await found(sqlite, query()) == ["a", "b"]
    assert len(threads("read")) == 1


async def test_a_list_of_what_hardly_exists_is_walked_in_steps_off_the_loop(
    sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_here", Bounds(entries_max=3, bytes_max=INLINE_BYTES_MAX))
    monkeypatch.setattr(sqlite, "_away", Bounds(entries_max=2, bytes_max=UNBOUNDED))
    sides = {number: "even" if number % 2 == 0 else "odd" for number in range(20)}
    for number, side in sides.items():
        await dated(sqlite, str(number), number, metadata={"side": side, "rare": str(number in (3, 4, 17))})

    assert await found(sqlite, query(metadata=(("rare", "True"), ("side", "odd")))) == ["3", "17"]
    assert await found(sqlite, query("desc", metadata=(("rare", "False"), ("side", "odd")), limit=2)) == ["19", "15"]
    assert len(threads("read")) == 1
    both = query(metadata=(("side", "odd"), ("side", "even")))
    steps = await steps_of(sqlite, both)
    assert steps == 1 + 4  # three entries on the loop; two, two, two and the last in the thread
    assert await paged(sqlite, query(limit=1, metadata=(("side", "odd"),))) == [str(n) for n in range(1, 20, 2)]


async def steps_of(store: SqliteStore, asked: ResponseQuery) -> int:
    begun = 0

    def count(statement: str) -> None:
        nonlocal begun
        begun += statement == "BEGIN"

    for connection in (store._near, store._far.connection):
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: count(event["sql"]))
    assert await found(store, asked) == []
    for connection in (store._near, store._far.connection):
        connection.trace_v2(0, None)
    return begun


def stepped(store: SqliteStore, search: Search, bounds: Bounds) -> Search:
    return played(partial(step, search, bounds), store._near)


async def test_a_list_between_two_steps_holds_on_to_no_number_of_a_response(sqlite: SqliteStore) -> None:
    for name in "abc":
        await dated(sqlite, name, 1)
    asked = Search(project="p", query=query(), page_chars_max=UNBOUNDED)
    begun = stepped(sqlite, asked, Bounds(2, UNBOUNDED))
    await erased(sqlite, "c", "b")
    await dated(sqlite, "theirs", 1, project="other")  # under the number that b had
    await dated(sqlite, "d", 1)

    assert [response.id for response in begun.found] == ["resp_a", "resp_b"]
    assert [response.id for response in stepped(sqlite, begun, Bounds(2, UNBOUNDED)).found][2:] == ["resp_d"]


async def test_a_page_of_large_responses_ends_early_over_several_steps_too(sqlite: SqliteStore) -> None:
    for name in "abc":
        await sqlite.save("p", made(name, None, answer(f"out_{name}", "x" * 120_000)), (), ())
    search = Search(project="p", query=query(), page_chars_max=300_000)
    for _ in range(3):
        search = stepped(sqlite, search, Bounds(1, UNBOUNDED))

    assert [response.id for response in search.page.responses] == ["resp_a", "resp_b"]
    assert search.is_over
    assert search.page.has_more


async def test_the_rarest_filter_leads(sqlite: SqliteStore) -> None:
    for number in range(30):
        status: Any = "failed" if number % 3 == 0 else "completed"
        labels = {"all": "1", "ten": str(number % 3), "one": str(number)}
        await dated(sqlite, str(number), number, status=status, metadata=labels, model=f"m{number % 6}")

    leading: dict[Any, str] = {
        (("all", "1"), ("one", "7")): "one",
        (("one", "7"), ("all", "1")): "one",
        (("all", "1"), ("ten", "1")): "ten",
    }
    for pairs, key_ in leading.items():
        assert (await lead(sqlite, query(metadata=pairs))).values[0] == key_
    assert (await lead(sqlite, query(status="failed", metadata=(("all", "1"),)))).values == ("failed",)
    assert (await lead(sqlite, query(status="failed", model="m3"))).values == ("m3",)
    assert (await lead(sqlite, query(status="failed", metadata=(("one", "3"),)))).values == ("one", "3")


async def lead(store: SqliteStore, asked: ResponseQuery) -> Source:
    search = Search(project="p", query=asked, page_chars_max=UNBOUNDED)
    source = stepped(store, search, Bounds(100, UNBOUNDED)).source
    assert source is not None
    return source


async def test_a_save_that_waits_for_the_disk_is_made_in_the_thread(tmp_path: Path) -> None:
    store = open_file(tmp_path, synchronous="full")
    await turn(store, "a")
    assert len(threads("write")) == 1
    await store.close()


async def test_saves_of_one_turn_of_the_loop_share_a_transaction(sqlite: SqliteStore) -> None:
    commits = 0

    def count(*_: Any) -> int:
        nonlocal commits
        commits += 1
        return apsw.SQLITE_OK

    sqlite._writer._lane.connection.set_wal_hook(count)
    await asyncio.gather(*(sqlite.save("p", made(str(number)), (), ()) for number in range(100)))
    assert commits == 1


async def test_a_journal_that_grew_in_a_burst_is_short_again_soon(sqlite: SqliteStore, tmp_path: Path) -> None:
    async def save(name: str) -> None:
        await sqlite.save("p", made(name), (said(f"in_{name}", "x" * 100_000),), ())

    await asyncio.gather(*(save(str(number)) for number in range(400)))
    for number in range(400, 500):
        await save(str(number))
        await sqlite._journal.finish()
    assert (tmp_path / "store.db-wal").stat().st_size <= JOURNAL_BYTES_KEPT
    assert len(rows(tmp_path / "store.db", "SELECT 1 FROM responses")) == 500


async def test_a_journal_that_a_reader_kept_long_is_emptied(
    sqlite: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.stores.sqlite_writer.JOURNAL_PAGES_MAX", 0)
    monkeypatch.setattr("antiphon.stores.sqlite_writer.CHECKPOINT_PAGES", 1)
    await turn(sqlite, "a")
    await turn(sqlite, "b")
    await sqlite._journal.finish()
    assert (tmp_path / "store.db-wal").stat().st_size == 0
    await turn(sqlite, "c", after="b")
    assert await context(sqlite, "c") == ["in_b", "out_b", "in_c", "out_c"]


async def test_the_commit_that_begins_the_journal_anew_is_left_to_the_thread(
    sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.stores.sqlite_writer.CHECKPOINT_PAGES", 1)
    await turn(sqlite, "a")
    await turn(sqlite, "b")
    await sqlite._journal.finish()
    await turn(sqlite, "c")
    assert len(threads("write")) == 1


async def test_more_than_the_queue_holds_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(Storage(database=str(tmp_path / "store.db")), Limits(store_queue_max=2))
    outcomes = await asyncio.gather(*(turn(store, str(number)) for number in range(3)), return_exceptions=True)
    assert [isinstance(outcome, StorageError) for outcome in outcomes] == [False, False, True]
    await store.close()


async def test_a_system_without_threads_fails_the_save(sqlite: SqliteStore) -> None:
    sqlite._writer._lane._thread.shutdown()
    outcomes = await asyncio.gather(*(turn(sqlite, str(number)) for number in range(300)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StorageError}
    await turn(sqlite, "small enough to need none")


async def test_more_items_than_there_are_places_are_refused(
    sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "PLACES", 1)
    with pytest.raises(StorageError, match="more than 1 items"):
        await turn(sqlite, "a")


def test_a_checkpoint_that_fails_is_left_to_the_next() -> None:
    connection = apsw.Connection(":memory:")
    connection.close()
    assert not _checkpoint(connection)


async def test_a_read_that_meets_a_lock_waits_in_its_thread() -> None:
    store = open_shared_memory(Path())  # in a file, readers never wait for writers
    await turn(store, "a")
    store._writer._lane.connection.execute("BEGIN IMMEDIATE")
    store._writer._lane.connection.execute(sql.PROBE)
    reading = asyncio.ensure_future(store.response("p", "resp_a"))
    await asyncio.sleep(0)
    assert not reading.done()
    store._writer._lane.connection.execute("COMMIT")
    assert await reading
    await store.close()


async def test_a_bug_in_a_job_reaches_its_caller_and_stops_nothing(sqlite: SqliteStore) -> None:
    history = (replace(said("in_a"), id=UNSET),)
    for text in ("small", "x" * 1_000_000):  # on the loop, in the thread
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))  # noqa: B023
        with pytest.raises(AssertionError, match="without an id"):
            await sqlite.save("p", made("b", "gone"), (said("in_b", text),), history)
        asyncio.get_running_loop().set_exception_handler(None)
    await turn(sqlite, "c")
    assert await sqlite.response("p", "resp_b") is None


# -- SQLite: being cancelled


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("text", ["small", "x" * 300_000], ids=["small", "large"])
async def test_a_cancelled_save_is_kept_wholly_or_not_at_all(sqlite: SqliteStore, turns: int, text: str) -> None:
    saves = [
        asyncio.ensure_future(sqlite.save("p", made(str(number)), (said(f"in_{number}", text),), ()))
        for number in range(20)
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    for save in saves[::2]:
        save.cancel()
    await asyncio.gather(*saves, return_exceptions=True)
    await sqlite._writer.finish()

    for number, save in enumerate(saves):
        found = await sqlite.response("p", f"resp_{number}")
        assert found or save.cancelled()
        assert len(await sqlite.items("p", [f"in_{number}", f"out_{number}"])) == (2 if found else 0)
    await turn(sqlite, "after")


async def test_a_save_cancelled_before_its_turn_writes_nothing(sqlite: SqliteStore) -> None:
    save = asyncio.ensure_future(sqlite.save("p", made("a"), (), ()))
    await asyncio.sleep(0)  # it has asked
    save.cancel()
    await turn(sqlite, "b")
    assert await sqlite.response("p", "resp_a") is None


async def test_a_save_cancelled_while_it_waits_for_a_lock_holds_up_nobody(sqlite: SqliteStore, tmp_path: Path) -> None:
    with locked(tmp_path / "store.db") as release:
        waiting = asyncio.ensure_future(turn(sqlite, "a"))
        queued = [asyncio.ensure_future(turn(sqlite, name)) for name in ("b", "c")]
        await passes(5)
        waiting.cancel()
        queued[0].cancel()
        release()
        await queued[1]
    assert waiting.cancelled()
    assert await sqlite.response("p", "resp_c")


async def passes(turns: int) -> None:
    """Lets the loop turn a few times: a save has then met the lock and gone to its thread."""
    for _ in range(turns):
        await asyncio.sleep(0)
    assert threads("write")


async def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    store = open_file(tmp_path)
    saves = [asyncio.ensure_future(turn(store, str(number))) for number in range(300)]
    await asyncio.sleep(0)
    await store.close()
    assert [save.exception() for save in saves] == [None] * 300
    assert rows(tmp_path / "store.db", "SELECT count(*) FROM responses") == [(300,)]


async def test_a_closed_store_says_so(sqlite: SqliteStore) -> None:
    await sqlite.close()
    with pytest.raises(StorageError, match="closed"):
        await turn(sqlite, "a")
    with pytest.raises(StorageError, match="closed"):
        await sqlite.response("p", "resp_a")
    with pytest.raises(StorageError, match="closed"):
        await sqlite.items("p", [str(number) for number in range(100)])


async def test_closing_leaves_one_file_and_no_thread(tmp_path: Path) -> None:
    store = open_file(tmp_path)
    await sum_of_turns(store)
    await store.close()
    assert list(modes(tmp_path)) == ["store.db"]
    assert threads() == []


async def sum_of_turns(store: Store) -> None:
    await asyncio.gather(*(turn(store, str(number)) for number in range(300)))
    await store.items("p", [str(number) for number in range(100)])


# -- SQLite: other processes


LOCK = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
input()
"""


@contextmanager
def locked(database: Path) -> Iterator[Callable[[], None]]:
    """Another process holds the write lock until it is told to let go."""
    with process(["-c", LOCK, str(database)]) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"

        def release() -> None:
            other.communicate("\n", timeout=WAIT_S)

        yield release


@contextmanager
def process(arguments: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    source = str(Path(stores.__file__).parents[2])
    other = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    with other:
        try:
            yield other
        finally:
            other.kill()


OTHER = """
import asyncio, sys
from antiphon.config import Limits, Storage
from antiphon.core.ports import ApiKey
from antiphon.stores.sqlite import INLINE_BYTES_MAX, SqliteStore
from antiphon.wire.items import InputText, Message, OutputText
from antiphon.wire.response import Response

def message(item_id, text, role="user", kind=InputText):
    return Message(id=item_id, status="completed", content=(kind(text=text),), role=role)

def made(name, text="y"):
    output = (message(f"out_{name}", text, "assistant", OutputText),)
    return Response(id=f"resp_{name}", created_at=1, status="completed", model="m", output=output)

async def save(store, name, text="x"):
    await store.save("p", made(name), (message(f"in_{name}", text),), ())

async def run(work):
    store = SqliteStore(Storage(database=sys.argv[1]), Limits())
    try:
        await work(store)
    finally:
        await store.close()
"""

ADD_KEY = """
async def work(store):
    name = sys.argv[2]
    await store.add_key(ApiKey(id=f"key_{name}", project="p", name=name, hint="…", digest=name.encode(), created_at=1))
asyncio.run(run(work))
"""


async def test_a_save_waits_for_another_process_without_holding_up_the_loop(
    sqlite: SqliteStore, tmp_path: Path
) -> None:
    await sqlite.save("p", made("a"), (said("in_a", "x" * 1_000_000),), ())  # in the thread
    with locked(tmp_path / "store.db") as release:
        saving = asyncio.ensure_future(turn(sqlite, "b"))
        await passes(5)
        assert await sqlite.response("p", "resp_a")
        assert not saving.done()
        release()
        await saving
    assert await sqlite.response("p", "resp_b")


async def test_a_lock_that_is_not_given_back_fails_the_save_in_the_end(tmp_path: Path) -> None:
    store = open_file(tmp_path, lock_wait_s=0.5)
    with locked(tmp_path / "store.db"):  # all of a group wait once: one by one, they would take longer than a test may
        saves = await asyncio.gather(*(turn(store, str(number)) for number in range(400)), return_exceptions=True)
        assert {type(save) for save in saves} == {StorageError}
        assert "locked" in str(saves[0])
        assert not (await store.check()).ok
        with pytest.raises(StorageError, match="was not deleted"):
            await store.delete("p", "resp_1")
    await turn(store, "after")
    await store.close()


async def test_a_key_added_by_another_process_is_noticed(sqlite: SqliteStore, tmp_path: Path) -> None:
    assert list(await sqlite.keys()) == []
    run_other(ADD_KEY, tmp_path / "store.db", "a")
    assert list(await sqlite.keys()) == [key("a")]


def run_other(work: str, database: Path, *arguments: str) -> str:
    with process(["-c", OTHER + work, str(database), *arguments]) as other:
        said, _ = other.communicate(timeout=WAIT_S)
    assert other.returncode == 0
    return said


def test_several_processes_may_make_one_new_file_at_once(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    work = OTHER + "print('ready', flush=True)\ninput()\n" + ADD_KEY
    with ExitStack() as stack:
        others = [stack.enter_context(process(["-c", work, str(tmp_path / "store.db"), name])) for name in names]
        assert [other.stdout.readline() for other in others if other.stdout] == ["ready\n"] * len(names)
        for other in others:
            assert other.stdin is not None
            other.stdin.write("\n")
            other.stdin.flush()
        for other in others:
            other.communicate(timeout=WAIT_S)
            assert other.returncode == 0
    assert sorted(name for (name,) in rows(tmp_path / "store.db", "SELECT name FROM api_keys")) == names


SAVE_FOR_EVER = """
async def work(store):
    async def one(lane):
        for number in range(10**9):
            name = f"{lane}_{number}"
            await save(store, name, "x" * (number * 997 % 5000))
            print(name, flush=True)
    await asyncio.gather(*(one(lane) for lane in range(8)))
asyncio.run(run(work))
"""


@pytest.mark.parametrize("reports", [1, 300, 2000])
async def test_what_was_reported_saved_survives_a_kill(tmp_path: Path, reports: int) -> None:
    database = tmp_path / "store.db"
    with process(["-c", OTHER + SAVE_FOR_EVER, str(database)]) as other:
        assert other.stdout is not None
        reported = [other.stdout.readline().strip() for _ in range(reports)]
        other.kill()
        *rest, _ = (*other.stdout.read().split("\n"), "")  # the last line may be cut short
        reported += [line for line in rest[:-1] if line]
    assert other.returncode != 0

    store = open_file(tmp_path)
    for name in reported:
        assert await context(store, name) == [f"in_{name}", f"out_{name}"]
    await turn(store, "after")
    await store.close()
    assert rows(database, "PRAGMA integrity_check") == [("ok",)]
    assert rows(database, "PRAGMA foreign_key_check") == []
    assert rows(database, "SELECT count(*) FROM items") == rows(database, "SELECT 2 * count(*) FROM responses")


# -- SQLite: a full disk

FULL_DISK = """
import os, resource
async def work(store):
    await save(store, "before")
    size = os.stat(sys.argv[1] + "-wal").st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    for text in ("x" * 10_000, "x" * 1_000_000):
        try:
            await save(store, "failed", text)
        except Exception as error:
            print(type(error).__name__, error)
    print((await store.check()).ok, [bool(await store.response("p", f"resp_{name}")) for name in ("before", "failed")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await save(store, "after")
asyncio.run(run(work))
"""


async def test_a_disk_without_room_fails_the_save_and_nothing_else(tmp_path: Path) -> None:
    said = run_other(FULL_DISK, tmp_path / "store.db").splitlines()

    failure = "StorageError The response could not be saved, so it was not completed. (the disk failed)"
    assert said == [failure, failure, "False [True, False]"]
    store = open_file(tmp_path)
    assert [bool(await store.response("p", f"resp_{name}")) for name in ("before", "failed", "after")] == [
        True,
        False,
        True,
    ]
    assert await store.items("p", ["in_failed", "out_failed"]) == {}
    await store.close()
    assert rows(tmp_path / "store.db", "PRAGMA integrity_check") == [("ok",)]


async def test_a_full_database_fails_only_what_does_not_fit(sqlite: SqliteStore) -> None:
    connection = sqlite._writer._lane.connection
    (pages,) = next(iter(connection.execute("PRAGMA page_count")))
    connection.pragma("max_page_count", pages + 40)
    outcomes = await asyncio.gather(
        turn(sqlite, "a"),
        sqlite.save("p", made("b"), (said("in_b", "x" * 1_000_000),), ()),
        turn(sqlite, "c"),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], StorageError)
    assert "the disk is full" in str(outcomes[1])
    assert await context(sqlite, "a") == ["in_a", "out_a"]
    assert await context(sqlite, "c") == ["in_c", "out_c"]
    assert await sqlite.items("p", ["in_b", "out_b"]) == {}


# -- SQLite: opening


def test_the_file_is_its_owners_only_and_its_folders_are_made(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        asyncio.run(opened_and_closed(tmp_path / "a" / "b", lambda: modes(tmp_path / "a" / "b")))
    finally:
        os.umask(before)
    assert modes(tmp_path / "a") == {"b": 0o700}


async def opened_and_closed(folder: Path, check: Callable[[], dict[str, int]]) -> None:
    store = open_file(folder)
    await turn(store, "a")
    assert check() == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    await store.close()


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    first = open_file(tmp_path)
    await turn(first, "a")
    await first.add_key(key("a"))
    await first.close()

    second = open_file(tmp_path)
    await turn(second, "b", after="a")
    assert await context(second, "b") == ["in_a", "out_a", "in_b", "out_b"]
    assert list(await second.keys()) == [key("a")]
    await second.close()


def folder(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("this is not a database, however long it is made to be " * 20)


def foreign(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE theirs (x)")


def foreign_and_empty(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("user_version", 1)


def newer(path: Path) -> None:
    asyncio.run(open_file(path.parent).close())
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("user_version", 999)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (folder, "directory"),
        (text, "not an SQLite database"),
        (foreign, "another program"),
        (foreign_and_empty, "another program"),
        (newer, f"version 999, and this antiphon knows versions up to {len(sql.pending('sqlite', 0))}"),
    ],
)
def test_what_cannot_be_used_is_refused_and_left_as_it_was(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "store.db")
    before = None if make is folder else (tmp_path / "store.db").read_bytes()
    with pytest.raises(SettingsError, match=message):
        open_file(tmp_path)
    assert before is None or (tmp_path / "store.db").read_bytes() == before


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be opened"):
        open_file(tmp_path / "file")


def test_a_file_that_holds_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be opened"):
        SqliteStore(Storage(database=os.devnull), Limits())


def test_a_file_that_stays_locked_is_refused_in_the_end(tmp_path: Path) -> None:
    with closing(apsw.Connection(str(tmp_path / "store.db"))) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SettingsError, match="locked"):
            open_file(tmp_path, lock_wait_s=0.05)


def test_a_new_file_that_another_process_is_writing_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    with closing(apsw.Connection(path)) as ours, closing(apsw.Connection(path)) as theirs:
        theirs.execute("BEGIN IMMEDIATE")
        with pytest.raises(SettingsError, match="locked"):
            open_file(tmp_path, lock_wait_s=0.05)

        def let_go(_: int) -> bool:
            theirs.execute("ROLLBACK")
            return True

        ours.set_busy_handler(let_go)
        _use_journal(ours, path)
        assert ours.pragma("journal_mode") == "wal"


def test_waiting_for_a_new_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.stores.sqlite_file.OPEN_ATTEMPTS_MAX", 0)
    with pytest.raises(SettingsError, match="locked"):
        open_file(tmp_path)


def test_a_file_system_without_shared_memory_is_refused(tmp_path: Path) -> None:
    with (
        closing(apsw.Connection(str(tmp_path / "store.db"), vfs="unix-dotfile")) as connection,
        pytest.raises(SettingsError, match="WAL"),
    ):
        _use_journal(connection, "store.db")


async def test_what_a_later_version_wrote_into_a_row_is_a_clear_error(sqlite: SqliteStore) -> None:
    await turn(sqlite, "a")
    await turn(sqlite, "b")
    connection = sqlite._writer._lane.connection
    connection.execute("UPDATE items SET data = replace(data, 'output_text', 'output_smell')")
    connection.execute("UPDATE responses SET body = '[]' WHERE id = 'resp_b'")
    with pytest.raises(StorageError, match="cannot be understood"):
        await sqlite.response("p", "resp_a")
    with pytest.raises(StorageError, match="cannot be understood"):
        await sqlite.context("p", "resp_a")
    assert await sqlite.delete("p", "resp_b")


async def test_a_damaged_file_is_a_storage_error(tmp_path: Path) -> None:
    store = open_file(tmp_path)
    await asyncio.gather(*(turn(store, str(number)) for number in range(200)))
    await store.close()
    damaged = bytearray((tmp_path / "store.db").read_bytes())
    damaged[4096 : 4096 * 12] = b"\xff" * (4096 * 11)  # the roots of the oldest tables, none of the schema
    (tmp_path / "store.db").write_bytes(damaged)

    store = open_file(tmp_path)
    with pytest.raises(StorageError, match="damaged"):
        await store.response("p", "resp_1")
    with pytest.raises(StorageError, match="damaged"):
        await store.items("p", [str(number) for number in range(100)])
    await store.close()


# -- SQLite: migrations and plans


def test_migrations_lead_from_an_empty_file_to_the_newest_version() -> None:
    versions = [migration.version for migration in sql.pending("sqlite", 0)]
    assert versions == list(range(1, len(versions) + 1))
    assert sql.pending("sqlite", len(versions)) == []


async def test_a_file_of_the_first_version_is_brought_up_to_date_with_all_it_holds(tmp_path: Path) -> None:
    first, *_ = sql.pending("sqlite", 0)
    with closing(apsw.Connection(str(tmp_path / "store.db"))) as connection:
        connection.execute(first.script)
        connection.execute(f"PRAGMA user_version = 1; PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(sql.ADD_RESPONSE, ("p", "resp_a", None, 1, "failed", "m", 1, sql.encode_body(made("a"))))

    store = open_file(tmp_path)
    await turn(store, "b")
    assert await found(store, query(model="m")) == ["a", "b"]
    assert await found(store, query(status="failed")) == ["a"]
    await store.close()


async def test_a_current_file_is_not_migrated_again(tmp_path: Path) -> None:
    await open_file(tmp_path).close()
    before = (tmp_path / "store.db").read_bytes()
    await open_file(tmp_path).close()
    assert (tmp_path / "store.db").read_bytes() == before


def named_queries() -> dict[str, str]:
    found = {}
    for name, value in vars(sql).items():
        for order, query in ({"": value} if isinstance(value, str) else value if name in PAGED else {}).items():
            if name.isupper() and not name.startswith("_"):
                found[f"{name} {order}".strip()] = query
    return found


PAGED = {"FIND_PLACE", "READ_PAGE", "READ_CONVERSATION_PAGE"}
LISTINGS: list[dict[str, Any]] = [
    {},
    {"model": "m"},
    {"status": "failed"},
    {"status": "completed"},
    {"model": "m", "status": "failed"},
    {"metadata": (("k", "v"),)},
    {"metadata": (("k", "v"), ("l", "w")), "model": "m", "status": "failed"},
    {"previous_response_id": "resp_a", "metadata": (("k", "v"),), "model": "m"},
]
BOTH_ENDS = re.compile(r"created_at(,response\))?>.* AND \(?created_at(,response\))?<")
NO_LOOK = re.compile(r"\bSCAN (responses|metadata|r|m)\b|TEMP B-TREE|(SEARCH (responses|r) (?!.*COVERING))")


def plan(connection: apsw.Connection, query: str) -> list[str]:
    steps = connection.execute(f"EXPLAIN QUERY PLAN {query}", (None,) * query.count("?")).fetchall()
    return [str(step[3]) for step in steps]


@pytest.mark.parametrize("name", named_queries())
async def test_no_query_reads_a_whole_table(sqlite: SqliteStore, name: str) -> None:
    if name == "READ_KEYS":
        return  # all keys are what it is for
    steps = plan(sqlite._writer._lane.connection, named_queries()[name])
    assert [
        step
        for step in steps
        if re.search(r"SCAN (responses|items|metadata|api_keys|conversations|conversation_items|r|i|m|child)\b", step)
    ] == []


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("fields", LISTINGS, ids=str)
async def test_lists_read_indexes_alone_from_where_they_begin_and_sort_nothing(
    sqlite: SqliteStore, order: Order, fields: dict[str, Any]
) -> None:
    asked = query(order, **fields)
    for source in listing.possible(asked):
        matching, _ = listing.matching("p", asked, source)
        queries = [matching, listing.count_of(order, source), listing.last_walked(order, source)]
        for steps in (plan(sqlite._near, one) for one in queries):
            assert [one for one in steps if NO_LOOK.search(one)] == []
            assert any(BOTH_ENDS.search(one) for one in steps)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_what_goes_on_from_a_response_is_found_by_its_index(sqlite: SqliteStore, order: Order) -> None:
    asked = query(order, previous_response_id="resp_a", model="m", metadata=(("k", "v"),))
    children = listing.children_of("p", asked)
    assert children
    walks = [listing.matching("p", asked, children)[0], listing.last_walked(order, children)]
    for steps in (plan(sqlite._near, one) for one in (listing.COUNT_CHILDREN, *walks)):
        assert any(re.search(r"SEARCH responses USING .*INDEX responses_by_parent \(parent=\?", one) for one in steps)
        assert [one for one in steps if "SCAN responses" in one] == []


def test_the_check_of_plans_can_fail() -> None:
    assert len(named_queries()) > 15
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute("CREATE TABLE items (x)")
        assert plan(connection, "SELECT x FROM items") == ["SCAN items"]
        connection.execute("CREATE TABLE responses (x, created_at, y); CREATE INDEX by_x ON responses (x, created_at)")
        for query in ("x = ?", "x = ? ORDER BY y", "created_at > ?"):
            (first, *others) = plan(connection, f"SELECT y FROM responses WHERE {query}")  # noqa: S608
            assert any(NO_LOOK.search(one) for one in (first, *others))
            assert not BOTH_ENDS.search(first)
