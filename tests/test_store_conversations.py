"""What a store must do with conversations, on every store; and what only a file can go through."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec.structs import replace

from antiphon.config import Limits, Storage
from antiphon.core.ports import Lock, Order, Store
from antiphon.errors import ApiError, ConversationLocked, ConversationNotFound, InvalidRequest, NotFound, StorageError
from antiphon.stores import sql
from antiphon.stores.memory import MemoryStore
from antiphon.stores.sqlite import INLINE_BYTES_MAX, SqliteStore
from antiphon.stores.sqlite_file import APPLICATION_ID
from antiphon.wire.conversation import Conversation
from antiphon.wire.items import Item
from antiphon.wire.response import ConversationUse, Response
from tests.test_store import (
    KINDS,
    answer,
    bounded,
    ids,
    made,
    open_file,
    open_file_of,
    open_memory_of,
    open_shared_memory,
    opened,
    plan,
    rows,
    said,
    threads,
    turn,
)

__all__ = ["bounded"]

NOW, LATER = 1_000, 1_030
"""A lock is taken at the one, and ends at the other."""
A = Conversation(id="conv_a", created_at=1, metadata={"topic": "tests"})


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = opened(request, tmp_path)
    yield store
    await store.close()


async def begun(store: Store, *names: str, project: str = "p", **fields: Any) -> None:
    """The conversation `A` with items of these names."""
    await store.conversations.add(project, replace(A, **fields), [said(name) for name in names])


async def held(store: Store, *, project: str = "p") -> list[str]:
    return ids((await store.conversations.context(project, A.id))[1])


async def listed(store: Store, order: Order = "asc", limit: int = 100, after: str | None = None) -> list[str]:
    return ids((await store.conversations.items("p", A.id, limit=limit, order=order, after=after)).items)


async def added(store: Store, *items: Item, now: int = NOW) -> list[str]:
    spare = [f"spare_{number}" for number in range(len(items))]
    return ids(await store.conversations.add_items("p", A.id, items, spare, now=now))


def lock_of(name: str) -> Lock:
    return Lock(project="p", conversation_id=A.id, response_id=f"resp_{name}")


async def locked(store: Store, name: str, *, now: int = NOW) -> None:
    version = await store.conversations.version("p", A.id)
    await store.conversations.lock(lock_of(name), version=version, now=now, until=now + LATER - NOW)


def said_in(name: str, **fields: Any) -> Response:
    return replace(made(name), conversation=ConversationUse(id=A.id), **fields)


async def save(store: Store, response: Response) -> None:
    await store.save("p", response, [said(f"in_{response.id}")], ())


# -- the conversation itself


async def test_a_conversation_comes_back_as_it_was(store: Store) -> None:
    await begun(store, "a", "b")

    assert await store.conversations.find("p", A.id) == A
    assert await store.conversations.context("p", A.id) == (
        await store.conversations.version("p", A.id),
        (said("a"), said("b")),
    )
    assert await store.conversations.item("p", A.id, "b") == said("b")


async def test_metadata_is_replaced(store: Store) -> None:
    await begun(store, "a")

    assert await store.conversations.update("p", A.id, {"x": "y"}) == replace(A, metadata={"x": "y"})
    assert await store.conversations.find("p", A.id) == replace(A, metadata={"x": "y"})


async def test_a_deleted_conversation_is_unknown_and_so_are_its_items(store: Store) -> None:
    await begun(store, "a")
    await store.conversations.delete("p", A.id)

    for attempt in every_use(store, "p"):
        with pytest.raises(ConversationNotFound, match="conv_a"):
            await attempt
    assert await store.items("p", ["a"]) == {}


async def test_another_projects_conversation_is_unknown(store: Store) -> None:
    await begun(store, "a")
    await begun(store, "b", project="q", metadata={})

    for attempt in every_use(store, "r"):
        with pytest.raises(ConversationNotFound):
            await attempt
    assert (await held(store), await held(store, project="q")) == (["a"], ["b"])
    assert ids([*(await store.items("q", ["a", "b"])).values()]) == ["b"]


def every_use(store: Store, project: str) -> list[Any]:
    it, lock = store.conversations, replace(lock_of("x"), project=project)
    return [
        it.find(project, A.id),
        it.update(project, A.id, {}),
        it.delete(project, A.id),
        it.items(project, A.id, limit=1, order="asc", after=None),
        it.item(project, A.id, "a"),
        it.add_items(project, A.id, [said("x")], ["y"], now=NOW),
        it.delete_item(project, A.id, "a", now=NOW),
        it.version(project, A.id),
        it.context(project, A.id),
        it.lock(lock, version=0, now=NOW, until=LATER),
    ]


# -- lists


async def conversations(store: Store, project: str = "p", **asked: Any) -> tuple[list[str], bool]:
    every: dict[str, Any] = {"limit": 100, "order": "desc", "after": None}
    page = await store.conversations.page(project, **every | asked)
    return [one.id for one in page.data], page.has_more


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_conversations_are_listed_by_their_time_and_number_without_gap(store: Store, limit: int) -> None:
    for name, second in (("a", 2), ("b", 2), ("c", 1), ("d", 3)):
        await store.conversations.add("p", replace(A, id=name, created_at=second), [])
        await store.conversations.add("q", replace(A, id=f"q{name}", created_at=second), [])
    await store.conversations.delete("p", "b")
    await store.conversations.add("p", replace(A, id="e", created_at=2), [])
    orders: tuple[Order, ...] = ("asc", "desc")
    seen: dict[Order, list[str]] = {order: [] for order in orders}
    for order in orders:
        has_more = True
        while has_more:
            after = seen[order][-1] if seen[order] else None
            found, has_more = await conversations(store, order=order, limit=limit, after=after)
            seen[order] += found

    assert seen == {"asc": ["c", "a", "e", "d"], "desc": ["d", "e", "a", "c"]}
    assert await conversations(store, "r") == ([], False)


async def test_a_list_is_of_conversations_as_they_are_now(store: Store) -> None:
    await begun(store, "a")
    changed = await store.conversations.update("p", A.id, {"x": "y"})

    page = await store.conversations.page("p", limit=1, order="desc", after=None)
    assert (page.data, page.first_id, page.last_id, page.has_more) == ((changed,), A.id, A.id, False)
    assert (await store.conversations.page("q", limit=1, order="asc", after=None)).first_id is None


@pytest.mark.parametrize("after", ["none", "theirs"])
async def test_a_list_begins_behind_a_conversation_of_the_project_alone(store: Store, after: str) -> None:
    await store.conversations.add("q", replace(A, id="theirs"), [])
    with pytest.raises(ConversationNotFound) as refused:
        await conversations(store, after=after)
    assert refused.value.param == "after"


# -- items


async def test_items_are_added_behind_the_others_and_can_be_deleted(store: Store) -> None:
    await begun(store, "a", "b")
    assert await added(store, said("c"), answer("d")) == ["c", "d"]
    assert await store.conversations.delete_item("p", A.id, "b", now=NOW) == A
    await added(store, said("b"))

    assert await held(store) == ["a", "c", "d", "b"]
    with pytest.raises(NotFound, match="none"):
        await store.conversations.delete_item("p", A.id, "none", now=NOW)
    with pytest.raises(NotFound, match="none"):
        await store.conversations.item("p", A.id, "none")


async def test_an_item_whose_id_is_taken_gets_its_spare_one(store: Store) -> None:
    await begun(store, "a", "b")

    assert await added(store, said("c"), said("b", "again")) == ["c", "spare_1"]
    assert await store.conversations.item("p", A.id, "spare_1") == said("spare_1", "again")
    assert await held(store) == ["a", "b", "c", "spare_1"]


async def test_an_id_may_stand_in_two_conversations(store: Store) -> None:
    await begun(store, "a")
    await store.conversations.add("p", replace(A, id="conv_b"), [said("a", "other")])

    assert await store.conversations.item("p", A.id, "a") == said("a")
    assert await store.conversations.item("p", "conv_b", "a") == said("a", "other")
    assert await store.items("p", ["a"]) == {"a": said("a", "other")}


async def test_an_item_of_a_response_is_found_before_a_conversations(store: Store) -> None:
    await begun(store, "in_a")
    await turn(store, "a")

    assert ids([*(await store.items("p", ["in_a", "out_a"])).values()]) == ["in_a", "out_a"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_follow_each_other_without_gap(store: Store, order: Order, limit: int) -> None:
    names = [f"i{number}" for number in range(6)]
    await store.conversations.add("p", replace(A, id="conv_before"), [said("x")])
    await begun(store, *names)
    await store.conversations.add("p", replace(A, id="conv_behind"), [said("y")])
    seen: list[str] = []
    has_more = True
    while has_more:
        after = seen[-1] if seen else None
        page = await store.conversations.items("p", A.id, limit=limit, order=order, after=after)
        seen += ids(page.items)
        has_more = page.has_more

    assert seen == (names if order == "asc" else names[::-1])


@pytest.mark.parametrize("after", ["none", "elsewhere"])
async def test_after_an_item_of_no_or_another_conversation_is_not_found(store: Store, after: str) -> None:
    await begun(store, "a")
    await store.conversations.add("p", replace(A, id="conv_b"), [said("elsewhere")])

    with pytest.raises(NotFound) as refused:
        await listed(store, after=after)
    assert refused.value.param == "after"


@pytest.mark.parametrize("open_", [open_file_of, open_memory_of])
async def test_more_items_than_a_prompt_may_hold_are_refused(tmp_path: Path, open_: Any) -> None:
    store: Store = open_(tmp_path, Limits(history_items_max=3))
    await begun(store, "a", "b")
    await added(store, said("c"))
    with pytest.raises(InvalidRequest, match="3 items") as refused:
        await added(store, said("d"))
    assert refused.value.param == "items"
    await store.conversations.delete_item("p", A.id, "a", now=NOW)

    assert await added(store, said("d")) == ["d"]
    await store.close()


async def test_every_change_of_the_items_makes_another_version(store: Store) -> None:
    await begun(store)
    versions = [await store.conversations.version("p", A.id)]
    for change in (
        lambda: added(store, said("a")),
        lambda: store.conversations.delete_item("p", A.id, "a", now=NOW),
        lambda: answered(store, "r"),
    ):
        await change()
        versions.append(await store.conversations.version("p", A.id))

    assert len({*versions}) == 4
    await store.conversations.update("p", A.id, {})
    assert (await store.conversations.context("p", A.id))[0] == versions[-1]


async def answered(store: Store, name: str, **fields: Any) -> Response:
    """A response made in the conversation."""
    response = said_in(name, **fields)
    await locked(store, name)
    await save(store, response)
    return response


# -- responses made in it


@pytest.mark.parametrize("status", ["completed", "incomplete"])
async def test_a_response_leaves_its_items_and_the_conversation_free(store: Store, status: Any) -> None:
    await begun(store, "a")
    response = await answered(store, "r", status=status)
    await locked(store, "next")

    assert await held(store) == ["a", "in_resp_r", "out_r"]
    assert await store.response("p", "resp_r") == response
    assert ids(await store.context("p", "resp_r")) == ["in_resp_r", "out_r"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_response_that_did_not_end_well_leaves_only_the_conversation_free(store: Store, status: Any) -> None:
    await begun(store, "a")
    response = await answered(store, "r", status=status)
    await locked(store, "next")

    assert await held(store) == ["a"]
    assert await store.response("p", "resp_r") == response


async def test_of_a_response_that_is_not_stored_only_the_items_are_kept(store: Store) -> None:
    await begun(store, "a")
    await locked(store, "r")
    await save(store, said_in("r", store=False))

    assert await held(store) == ["a", "in_resp_r", "out_r"]
    assert await store.response("p", "resp_r") is None
    assert ids([*(await store.items("p", ["out_r"])).values()]) == ["out_r"]


async def test_a_response_is_stored_also_where_its_conversation_was_deleted(store: Store) -> None:
    await begun(store, "a")
    await locked(store, "r")
    await store.conversations.delete("p", A.id)
    await save(store, said_in("r"))

    assert await store.response("p", "resp_r") == said_in("r")
    assert await store.items("p", ["a"]) == {}


async def test_the_items_of_a_deleted_response_stay_in_the_conversation(store: Store) -> None:
    await begun(store)
    await answered(store, "r")
    await store.delete("p", "resp_r")

    assert await held(store) == ["in_resp_r", "out_r"]


async def test_the_items_of_a_deleted_conversation_stay_with_their_responses(store: Store) -> None:
    await begun(store)
    await answered(store, "r")
    await store.conversations.delete("p", A.id)

    assert ids(await store.context("p", "resp_r")) == ["in_resp_r", "out_r"]


# -- locks


async def test_while_it_is_locked_it_can_be_read_relabelled_and_deleted_but_not_changed(store: Store) -> None:
    await begun(store, "a")
    await locked(store, "r")
    for change in (
        lambda: added(store, said("b"), now=LATER - 1),
        lambda: store.conversations.delete_item("p", A.id, "a", now=NOW),
        lambda: store.conversations.delete_item("p", A.id, "none", now=NOW),
        lambda: locked(store, "other"),
        lambda: locked(store, "r"),
    ):
        with pytest.raises(ConversationLocked):
            await change()

    assert await held(store) == await listed(store) == ["a"]
    await store.conversations.update("p", A.id, {})
    await store.conversations.delete("p", A.id)


async def test_a_lock_of_another_version_is_refused(store: Store) -> None:
    await begun(store, "a")
    version = await store.conversations.version("p", A.id)
    await added(store, said("b"))

    with pytest.raises(ConversationLocked):
        await store.conversations.lock(lock_of("r"), version=version, now=NOW, until=LATER)


async def test_only_its_owner_releases_a_lock(store: Store) -> None:
    await begun(store, "a")
    await locked(store, "r")
    await store.conversations.release(lock_of("other"))
    await save(store, said_in("other", status="failed"))
    with pytest.raises(ConversationLocked):
        await locked(store, "next")
    await store.conversations.release(lock_of("r"))

    await locked(store, "next")


async def test_a_lock_that_nobody_renews_ends(store: Store) -> None:
    await begun(store, "a")
    await locked(store, "crashed")

    assert await added(store, said("b"), now=LATER) == ["b"]
    await locked(store, "next", now=LATER)


async def test_a_renewed_lock_stands(store: Store) -> None:
    await begun(store, "a")
    await locked(store, "r")
    await store.conversations.renew([lock_of("r"), lock_of("other")], until=LATER + 30)

    with pytest.raises(ConversationLocked):
        await locked(store, "next", now=LATER)
    await locked(store, "next", now=LATER + 30)


@pytest.mark.parametrize("change", ["lock", "items", "deletion", "release"])
async def test_one_whose_lock_was_taken_is_not_saved(store: Store, change: str) -> None:
    await begun(store, "a")
    await locked(store, "late")
    changes: dict[str, Callable[[], Any]] = {
        "lock": lambda: locked(store, "next", now=LATER),
        "items": lambda: added(store, said("b"), now=LATER),
        "deletion": lambda: store.conversations.delete_item("p", A.id, "a", now=LATER),
        "release": lambda: store.conversations.release(lock_of("late")),
    }
    await changes[change]()
    before = await held(store)
    with pytest.raises(StorageError):
        await save(store, said_in("late"))

    assert await held(store) == before
    assert await store.response("p", "resp_late") is None
    await store.conversations.renew([lock_of("late")], until=LATER + 99)
    await store.conversations.release(lock_of("late"))
    if change == "lock":
        with pytest.raises(ConversationLocked):
            await added(store, said("c"), now=LATER)


# -- both stores alike

PICK = st.integers(0, 5)


class Twins(RuleBasedStateMachine):
    """Whatever is done, both stores say the same."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.real: Store = self.runner.run(self.opened())
        self.fake: Store = MemoryStore(Storage(), Limits())
        self.number, self.now = 0, NOW
        self.both(lambda store: begun(store, "i0"))

    async def opened(self) -> Store:
        return open_shared_memory(Path())

    def both(self, call: Any) -> Any:
        outcomes = [self.runner.run(outcome(call(store))) for store in (self.real, self.fake)]
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    @rule(picks=st.lists(PICK, max_size=3, unique=True))
    def add(self, picks: Sequence[int]) -> None:
        spare = []
        for _ in picks:
            self.number += 1
            spare.append(f"s{self.number}")
        items = [said(f"i{pick}") for pick in picks]
        self.both(lambda store: store.conversations.add_items("p", A.id, items, spare, now=self.now))

    @rule(pick=PICK)
    def drop(self, pick: int) -> None:
        self.both(lambda store: store.conversations.delete_item("p", A.id, f"i{pick}", now=self.now))

    @rule(owner=st.integers(0, 2), is_stale=st.booleans())
    def lock(self, owner: int, is_stale: bool) -> None:
        version = self.both(lambda store: store.conversations.version("p", A.id)) - is_stale
        until = self.now + 3
        self.both(
            lambda store: store.conversations.lock(lock_of(str(owner)), version=version, now=self.now, until=until)
        )

    @rule(owner=st.integers(0, 2))
    def renew(self, owner: int) -> None:
        self.both(lambda store: store.conversations.renew([lock_of(str(owner))], until=self.now + 3))

    @rule(owner=st.integers(0, 2))
    def release(self, owner: int) -> None:
        self.both(lambda store: store.conversations.release(lock_of(str(owner))))

    @rule(owner=st.integers(0, 2), status=st.sampled_from(["completed", "failed"]))
    def save(self, owner: int, status: Any) -> None:
        self.number += 1
        response = said_in(str(owner), status=status, store=False, output=(answer(f"o{self.number}"),))
        self.both(lambda store: store.save("p", response, [said(f"g{self.number}")], ()))

    @rule()
    def wait(self) -> None:
        self.now += 2

    @rule(order=st.sampled_from(["asc", "desc"]), limit=st.integers(1, 4), after=st.none() | PICK)
    def page(self, order: Order, limit: int, after: int | None) -> None:
        self.both(lambda store: listed(store, order, limit, None if after is None else f"i{after}"))

    @rule(pick=PICK)
    def read(self, pick: int) -> None:
        self.both(lambda store: store.conversations.context("p", A.id))
        self.both(lambda store: store.conversations.item("p", A.id, f"i{pick}"))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.real.close())
            self.runner.close()


async def outcome(call: Any) -> Any:
    try:
        return await call
    except ApiError as error:
        return type(error)


TestTwins = Twins.TestCase
TestTwins.settings = examples(max_examples=60, stateful_step_count=30, deadline=None)


# -- SQLite


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = open_file(tmp_path)
    yield opened
    await opened.close()


async def test_two_processes_see_one_lock_and_one_version(sqlite: SqliteStore, tmp_path: Path) -> None:
    other = open_file(tmp_path)
    await begun(sqlite, "a")
    await locked(other, "r")
    with pytest.raises(ConversationLocked):
        await locked(sqlite, "next")
    await save(other, said_in("r"))
    await locked(sqlite, "next")

    assert await held(sqlite) == ["a", "in_resp_r", "out_r"]
    await other.close()


async def test_a_turn_writes_as_many_bytes_at_any_depth(sqlite: SqliteStore) -> None:
    await begun(sqlite)
    connection = sqlite._writer._lane.connection
    changes = []
    for number in range(100):
        before = connection.total_changes()
        await answered(sqlite, f"{number:03}")
        changes.append(connection.total_changes() - before)

    assert len({*changes}) == 1


async def test_what_is_small_is_read_on_the_loop_and_a_long_conversation_in_the_thread(sqlite: SqliteStore) -> None:
    await begun(sqlite, "a")
    await held(sqlite)
    assert threads() == []
    await added(sqlite, said("b", "x" * INLINE_BYTES_MAX))

    assert await held(sqlite) == ["a", "b"]
    assert len(threads("read")) == 1


async def test_what_is_deleted_is_gone_from_the_file(sqlite: SqliteStore, tmp_path: Path) -> None:
    await begun(sqlite)
    await added(sqlite, said("b", "a secret thing"))
    await sqlite.conversations.delete("p", A.id)
    await sqlite.close()

    assert b"a secret thing" not in (tmp_path / "store.db").read_bytes()
    assert rows(tmp_path / "store.db", "SELECT count(*) FROM conversation_items") == [(0,)]


async def test_a_file_of_the_version_before_gets_its_conversations(tmp_path: Path) -> None:
    *before, last = (one for one in sql.pending("sqlite", 0) if one.version <= 4)
    assert last.name == "0004_conversations.sql"
    with closing(apsw.Connection(str(tmp_path / "store.db"))) as connection:
        for migration in before:
            connection.execute(migration.script)
        connection.execute(f"PRAGMA user_version = {last.version - 1}; PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(sql.ADD_RESPONSE, ("p", "resp_a", None, 1, "failed", "m", 1, sql.encode_body(made("a"))))

    store = open_file(tmp_path)
    await begun(store, "a")
    await answered(store, "b")
    assert await held(store) == ["a", "in_resp_b", "out_b"]
    assert await store.response("p", "resp_a") is not None
    await store.close()


async def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store = open_file(tmp_path)
        if name == "a":
            await begun(store, "i")
        await answered(store, name)
        await store.close()
    store = open_file(tmp_path)

    assert await held(store) == ["i", "in_resp_a", "out_a", "in_resp_b", "out_b"]
    await store.close()


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_is_read_by_its_places_alone(sqlite: SqliteStore, order: Order) -> None:
    steps = plan(sqlite._near, sql.READ_CONVERSATION_PAGE[order])

    assert steps == ["SEARCH conversation_items USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]


async def test_an_id_is_found_by_its_index(sqlite: SqliteStore) -> None:
    (step,) = plan(sqlite._near, sql.FIND_CONVERSATION_ITEM)

    assert "INDEX conversation_items_by_id (project=? AND id=? AND rowid>? AND rowid<?)" in step
