"""What only a database over a network goes through: restarts, several servers, migrations under load, an import."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings as examples
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from msgspec.structs import replace

from antiphon import stores
from antiphon.config import Limits, Storage
from antiphon.core.ports import Lock, Order, Quota, Store
from antiphon.errors import ConversationLocked, SettingsError, StorageError
from antiphon.stores import files, listing, postgres_connection, postgres_play, postgres_saves, postgres_schema, sql
from antiphon.stores.postgres import PostgresStore
from antiphon.stores.postgres_ear import Ear
from antiphon.stores.postgres_writer import Unsure
from antiphon.stores.responses import Saving
from antiphon.stores.script import Query, Row
from antiphon.wire.conversation import Conversation
from antiphon.wire.response import ConversationUse
from tests import test_file_store, test_store_conversations, test_store_runs
from tests.conftest import WAIT_S
from tests.ports import free_port
from tests.postgres import Cluster
from tests.test_store import (
    LISTINGS,
    Twins,
    answer,
    bounded,
    context,
    erased,
    found,
    ids,
    key,
    made,
    named_queries,
    open_postgres,
    query,
    said,
    turn,
)

__all__ = ["bounded"]

A = Conversation(id="conv_a", created_at=1, metadata={})
PATIENCE_S = 0.2


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    opened = open_postgres(database)
    yield opened
    await opened.close()


@pytest.fixture
async def other(database: str) -> AsyncIterator[PostgresStore]:
    """Another server's."""
    opened = open_postgres(database)
    yield opened
    await opened.close()


async def until(check: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await check():  # noqa: ASYNC110 - what another server does sets no event here
            await asyncio.sleep(0.005)


def run(address: str, statement: str) -> list[tuple[Any, ...]]:
    """As another program of the same database."""
    with psycopg.connect(address, autocommit=True, options="-c search_path=antiphon") as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@contextmanager
def holding(address: str, statement: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A transaction of another program's, open until it is left."""
    with psycopg.connect(address, options="-c search_path=antiphon") as connection:
        connection.execute(statement.encode())
        yield connection


async def blocked(address: str, count: int = 1) -> list[int]:
    """The processes of the database that wait for a lock, as soon as there are so many."""
    pids: list[int] = []

    async def look() -> bool:
        waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        pids[:] = [row[0] for row in await asyncio.to_thread(run, address, waiting)]
        return len(pids) >= count

    await until(look)
    return pids


# -- opening


def test_a_database_that_is_down_is_said_at_the_start_without_its_password() -> None:
    address = f"postgresql://user:s3cret@127.0.0.1:{free_port()}/db"
    with pytest.raises(SettingsError, match=r"postgresql://\*\*\*@.* cannot be reached: .*refused") as refused:
        open_postgres(address)
    assert "s3cret" not in refused.value.message


def test_an_address_that_is_none_is_said() -> None:
    with pytest.raises(SettingsError, match="cannot be understood"):
        open_postgres("postgresql://[nowhere")


def test_a_database_that_takes_a_connection_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=2"
        with pytest.raises(SettingsError, match="cannot be reached"):
            open_postgres(address)


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_missing_library_is_said_with_what_installs_it() -> None:
    code = """
import sys
sys.modules["psycopg"] = None
from antiphon import config, errors, stores
try:
    stores.build(config.Storage(database="postgresql://h/d"), config.Limits())
except errors.SettingsError as error:
    print(error.message)
"""
    assert "pip install 'antiphon[postgres]'" in python(code)


def test_where_sqlite_is_used_the_driver_is_not_loaded(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from antiphon import app, config
async def main():
    storage = config.Storage(database=sys.argv[1])
    async with app.running(config.Settings(models=(config.ScriptedModel(),), storage=storage)):
        print([name for name in sys.modules if name.startswith("psycopg")])
asyncio.run(main())
"""
    assert python(code, str(tmp_path / "a.db")).strip() == "[]"


# -- what PostgreSQL is told


async def test_what_no_text_of_postgresql_may_hold_comes_back_as_it_was(store: PostgresStore) -> None:
    odd = "a\0b\1c\1" + "0"
    await store.save("p", replace(made("a", metadata={odd: odd}), model=odd), (said(odd),), ())
    await store.files.reserve("file-a", 1)
    file = test_file_store.made("a", filename=odd)
    await store.files.add("p", file, test_file_store.ROOMY)

    assert await found(store, query(metadata=((odd, odd),), model=odd)) == ["a"]
    assert await found(store, query(metadata=(("a\1" + "0b\1c", odd),))) == []
    assert list(await store.items("p", [odd])) == [odd]
    assert await store.files.file("p", "file-a", test_file_store.NOW) == file
    assert await store.response("p", "resp_\0") is None


QUERIES = {
    **named_queries(),
    **{f"files: {name}": text for name, text in vars(files).items() if name.isupper() and " WHERE " in str(text)},
    "READ_BODY of a save": postgres_saves.READ_BODY,
    "SAVE": postgres_saves.SAVE,
}
del QUERIES["READ_KEYS"]  # all keys are what it is for


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_a_whole_table(database: str, name: str) -> None:
    assert whole(database, QUERIES[name]) == []


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("fields", LISTINGS, ids=str)
def test_lists_read_no_whole_table_and_sort_nothing(database: str, order: Order, fields: dict[str, Any]) -> None:
    asked = query(order, **fields)
    for source in listing.possible(asked):
        matching, _ = listing.matching("p", asked, source)
        walks = [listing.count_of(order, source), listing.last_walked(order, source)]
        assert [step for one in (matching, *walks) for step in whole(database, one)] == []
        assert [step for one in walks for step in plan(database, one) if "Sort" in step] == []


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_what_goes_on_from_a_response_is_found_by_its_index(database: str, order: Order) -> None:
    asked = query(order, previous_response_id="resp_a", model="m", metadata=(("k", "v"),))
    children = listing.children_of("p", asked)
    assert children
    walks = [listing.matching("p", asked, children)[0], listing.last_walked(order, children)]
    for steps in (plan(database, one) for one in (listing.COUNT_CHILDREN, *walks)):
        assert any("using responses_by_parent" in step for step in steps)
        assert [step for step in steps if "responses_by_time" in step or "Seq Scan on" in step] == []


def plan(database: str, text: str) -> list[str]:
    spelled = postgres_play.spelled(text).decode()
    for number in range(1, text.count("?") + text.count("%b") + 1):
        spelled = spelled.replace("%s" if "%s" in spelled else "%b", f"${number}", 1)
    nothing = ", ".join(["NULL"] * (text.count("?") + text.count("%b")))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"{postgres_connection.SESSION}; SET plan_cache_mode = force_generic_plan".encode())
        connection.execute(f"PREPARE one AS {spelled}".encode())
        shown = f"EXPLAIN EXECUTE one{f'({nothing})' if nothing else ''}"
        return [str(line) for (line,) in connection.execute(shown.encode()).fetchall()]


def whole(database: str, text: str) -> list[str]:
    return [step for step in plan(database, text) if "Seq Scan on" in step]


def test_the_check_of_plans_can_fail(database: str) -> None:
    assert len(whole(database, "SELECT n FROM responses WHERE chain_bytes = ?")) == 1
    assert any("Sort" in step for step in plan(database, "SELECT n FROM responses WHERE project = ? ORDER BY body"))


async def test_saves_of_one_turn_of_the_loop_share_a_transaction(store: PostgresStore, database: str) -> None:
    await asyncio.gather(*(store.save("p", made(str(number)), (), ()) for number in range(100)))
    assert run(database, "SELECT count(DISTINCT xmin::text), count(*) FROM responses") == [(1, 100)]


async def test_more_than_the_queue_holds_is_refused(database: str) -> None:
    store = open_postgres(database, Limits(store_queue_max=2))
    outcomes = await asyncio.gather(*(turn(store, str(number)) for number in range(3)), return_exceptions=True)
    assert [isinstance(outcome, StorageError) for outcome in outcomes] == [False, False, True]
    await store.close()


async def test_few_connections_serve_many_requests(database: str) -> None:
    connected = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    before = run(database, connected)  # of tests before, which have closed them
    store = open_postgres(database, Limits(store_connections_max=3))
    await asyncio.gather(*(turn(store, str(number)) for number in range(100)))
    assert all(await asyncio.gather(*(store.response("p", f"resp_{number}") for number in range(100))))
    assert len(set(run(database, connected)) - set(before)) <= 3
    await store.close()


async def test_a_large_page_ends_early(database: str) -> None:
    store = open_postgres(database, Limits(page_chars_max=300_000))
    for name in "abc":
        await store.save("p", made(name, None, answer(f"out_{name}", "x" * 120_000)), (), ())
    assert [await found(store, query(after=after)) for after in (None, "b")] == [["a", "b"], ["c"]]
    await store.close()


async def test_a_list_of_what_never_meets_is_walked_in_steps(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bounds in ("_here", "_away"):
        monkeypatch.setattr(store, bounds, listing.Bounds(entries_max=2, bytes_max=10**9))
    for number in range(9):
        side = "even" if number % 2 == 0 else "odd"
        await store.save("p", made(str(number), metadata={"side": side}), (), ())
    assert await found(store, query(metadata=(("side", "odd"), ("side", "even")))) == []
    assert await found(store, query(metadata=(("side", "odd"),))) == ["1", "3", "5", "7"]


async def test_a_closed_store_says_so(database: str) -> None:
    store = open_postgres(database)
    await store.keys()
    saving = asyncio.ensure_future(turn(store, "a"))
    await asyncio.sleep(0)
    await store.close()
    await saving
    for call in (store.response("p", "resp_a"), store.save("p", made("b"), (), ()), store.revoke_key("key_a")):
        with pytest.raises(StorageError, match="closed"):
            await call
    assert run(database, "SELECT id FROM responses") == [("resp_a",)]


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancelled_save_is_kept_wholly_or_not_at_all(store: PostgresStore, database: str, turns: int) -> None:
    saves = [
        asyncio.ensure_future(store.save("p", made(str(number)), (said(f"in_{number}"),), ())) for number in range(20)
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    for save in saves[::2]:
        save.cancel()
    outcomes = await asyncio.gather(*saves, return_exceptions=True)

    assert outcomes[1::2] == [None] * 10
    await turn(store, "last")
    stored = "SELECT r.id, count(i.place) FROM responses r LEFT JOIN items i ON i.place / 1048576 = r.n GROUP BY r.id"
    rows = dict(run(database, stored))
    assert set(rows.values()) == {2}
    assert {f"resp_{number}" for number in range(1, 20, 2)} <= rows.keys()


async def test_postgres_does_what_memory_does(cluster: Cluster) -> None:
    """The same random walks that SQLite passes."""

    class Responses(Twins):
        async def opened(self) -> Store:
            return open_postgres(cluster.emptied())

    class Conversations(test_store_conversations.Twins):
        async def opened(self) -> Store:
            return open_postgres(cluster.emptied())

    class Files(test_file_store.BothStores):
        async def opened(self) -> PostgresStore:
            return open_postgres(cluster.emptied())

    def walked(walk: type[RuleBasedStateMachine]) -> None:
        some = examples(max_examples=12, stateful_step_count=25, deadline=None)
        run_state_machine_as_test(walk, settings=some)

    for walk in (Responses, Conversations, Files):
        await asyncio.to_thread(walked, walk)


# -- locks and accidents


async def test_a_group_whose_connection_ends_before_it_is_committed_is_written_by_another(
    store: PostgresStore, database: str
) -> None:
    writes: dict[str, Callable[[], Awaitable[None]]] = {
        "responses": lambda: store.save("p", made("a"), (said("in_a"),), ()),
        "api_keys": lambda: store.add_key(key("a")),
    }
    for table, write in writes.items():
        with holding(database, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"):
            writing = asyncio.ensure_future(write())
            for pid in await blocked(database):
                run(database, f"SELECT pg_terminate_backend({pid})")
        await asyncio.wait_for(writing, WAIT_S)
    assert await context(store, "a") == ["in_a", "out_a"]
    assert list(await store.keys()) == [key("a")]


async def test_a_read_whose_connection_ends_is_done_on_another(store: PostgresStore, database: str) -> None:
    await turn(store, "a")
    with holding(database, "LOCK TABLE items IN ACCESS EXCLUSIVE MODE"):
        reading = asyncio.ensure_future(context(store, "a"))
        for pid in await blocked(database):
            run(database, f"SELECT pg_terminate_backend({pid})")
    assert await asyncio.wait_for(reading, WAIT_S) == ["in_a", "out_a"]


async def test_a_save_that_was_committed_as_its_connection_ended_is_known_again(store: PostgresStore) -> None:
    response = await turn(store, "a")
    same = Saving("p", response, sql.encode_body(response), [], ())
    another = same._replace(body="{}")
    job = partial(postgres_saves._save, [same, another], True)
    first, second = await store._pool.run(job)
    assert first is None
    assert isinstance(second, StorageError)


@pytest.mark.parametrize("is_committed", [True, False])
async def test_of_a_commit_whose_end_was_not_seen_the_database_is_asked(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    lost = 0

    async def lose_one(connection: psycopg.AsyncConnection[Any]) -> None:
        nonlocal lost
        lost += 1
        if lost > 1 or is_committed:
            await postgres_play.commit(connection)
        if lost == 1:
            await connection.close()
            raise psycopg.OperationalError("gone")

    monkeypatch.setattr("antiphon.stores.postgres_writer.commit", lose_one)
    await asyncio.gather(store.add_key(key("a")), store.add_key(key("b")))
    assert lost == (1 if is_committed else 2)
    assert list(await store.keys()) == [key("a"), key("b")]


async def test_what_is_reported_is_committed_also_where_the_connection_ends_before_the_commit(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def ask_and_lose(connection: psycopg.AsyncConnection[Any], queries: Sequence[Query]) -> list[list[Row]]:
        nonlocal asked
        asked += 1
        answers = await postgres_play_ask(connection, queries)
        if asked == 1:
            await connection.close()
        return answers

    postgres_play_ask = postgres_play.ask
    monkeypatch.setattr(postgres_play, "ask", ask_and_lose)
    await store.add_key(key("a"))
    monkeypatch.undo()
    assert list(await store.keys()) == [key("a")]


async def test_a_commit_that_nobody_knows_of_is_an_error_for_all_of_its_group(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.close()
        raise psycopg.OperationalError("gone")

    async def refuse() -> None:
        raise psycopg.OperationalError("refused")

    await store.add_key(key("first"))
    monkeypatch.setattr("antiphon.stores.postgres_writer.commit", lose)
    monkeypatch.setattr(store._writing, "connect", refuse)
    monkeypatch.setattr(store._writing, "_patience_s", 0)
    outcomes = await asyncio.gather(store.add_key(key("a")), store.add_key(key("b")), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unsure, Unsure]
    monkeypatch.undo()
    assert list(await store.keys()) == [key("first")]


async def test_a_lock_that_is_not_given_back_fails_the_write_in_the_end(
    store: PostgresStore, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await turn(store, "a")
    quick = postgres_connection.SESSION.replace("lock_timeout = '5s'", "lock_timeout = '50ms'")
    monkeypatch.setattr(postgres_connection, "SESSION", quick)
    hasty = open_postgres(database)
    with holding(database, "SELECT * FROM responses FOR UPDATE"):
        with pytest.raises(StorageError, match="locked"):
            await hasty.delete("p", "resp_a")
        assert await hasty.response("p", "resp_a")
    assert await hasty.delete("p", "resp_a")
    await hasty.close()


async def test_a_job_that_takes_too_long_is_cut(
    store: PostgresStore, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await turn(store, "a")
    monkeypatch.setattr(postgres_connection, "JOB_TIMEOUT_S", 0.05)
    lock = "LOCK TABLE responses IN ACCESS EXCLUSIVE MODE"
    with holding(database, lock), pytest.raises(StorageError, match="cannot be reached"):
        await store.response("p", "resp_a")
    monkeypatch.undo()
    assert await store.response("p", "resp_a")


async def test_a_request_that_finds_all_connections_in_use_is_told_so(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "TURN_TIMEOUT_S", 0.05)
    store = open_postgres(database, Limits(store_connections_max=3))
    await turn(store, "a")
    with holding(database, "LOCK TABLE items IN ACCESS EXCLUSIVE MODE"):
        reading = asyncio.ensure_future(store.context("p", "resp_a"))
        await blocked(database)
        with pytest.raises(StorageError, match="all connections"):
            await store.has("p", "resp_a")
    assert await reading
    await store.close()


# -- a database that goes away


class Load:
    """Many at work at once, and what was reported to them."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.saved: list[str] = []
        self.joined: dict[str, list[str]] = {f"conv_{number}": [] for number in range(5)}
        self.is_going = True

    async def work(self) -> None:
        loners = [self._alone(worker) for worker in range(15)]
        async with asyncio.TaskGroup() as group:
            for one in (*loners, *map(self._converse, self.joined)):
                group.create_task(one)

    async def _alone(self, worker: int) -> None:
        for number in itertools.takewhile(lambda _: self.is_going, itertools.count()):
            await turn(self.store, f"{worker}_{number}")
            self.saved.append(f"{worker}_{number}")
            assert await self.store.has("p", f"resp_{worker}_{number}")

    async def _converse(self, conversation_id: str) -> None:
        conversations = self.store.conversations
        await conversations.add("p", replace(A, id=conversation_id), ())
        for number in itertools.takewhile(lambda _: self.is_going, itertools.count()):
            response = replace(made(f"{conversation_id}_{number}"), conversation=ConversationUse(id=conversation_id))
            lock = Lock(project="p", conversation_id=conversation_id, response_id=response.id)
            version = await conversations.version("p", conversation_id)
            await conversations.lock(lock, version=version, now=1, until=9)
            await self.store.save("p", response, (said(f"in_{number}"),), ())
            self.joined[conversation_id] += [f"in_{number}", f"out_{conversation_id}_{number}"]

    async def more(self, count: int) -> None:
        goal = len(self.saved) + count
        await until(lambda: result(len(self.saved) > goal))


def restart(cluster: Cluster, mode: str) -> None:
    if mode == "crash":  # of one of its processes, and it begins anew by itself
        ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'antiphon' LIMIT 1"
        os.kill(int(str(cluster.execute(ours)[0][0])), signal.SIGKILL)
    else:
        cluster.stop(mode)
        cluster.start()


@pytest.mark.parametrize("mode", ["fast", "immediate", "crash"])
async def test_a_restart_under_load_loses_nothing_repeats_nothing_and_fails_nothing(
    database: str, cluster: Cluster, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "TURN_TIMEOUT_S", WAIT_S)
    store = PostgresStore(Storage(database=database), Limits(), patience_s=WAIT_S)  # a restart takes what it takes
    load = Load(store)
    working = asyncio.create_task(load.work())
    for _ in range(2):
        await load.more(30)
        await asyncio.to_thread(restart, cluster, mode)
    await load.more(30)
    load.is_going = False
    await working

    assert all(await asyncio.gather(*(store.has("p", f"resp_{name}") for name in load.saved)))
    for conversation_id, joined in load.joined.items():
        assert ids((await store.conversations.context("p", conversation_id))[1]) == joined
    await store.close()


async def result(value: bool) -> bool:
    return value


async def test_while_the_database_is_away_requests_fail_and_then_they_work_again(
    database: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(Storage(database=database), Limits(), patience_s=PATIENCE_S)
    await turn(store, "a")
    await store.add_key(key("a"))
    await until(lambda: result(store._ear.is_listening) if store._ear._task else store.keys())
    await asyncio.to_thread(cluster.stop)
    try:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: turn(store, "b"),
            lambda: store.response("p", "resp_a"),
            lambda: store.delete("p", "resp_a"),
            store.keys,
            lambda: store.conversations.find("p", "conv_a"),
        ]
        for call in calls:
            with pytest.raises(StorageError, match="cannot be reached"):
                await asyncio.wait_for(call(), WAIT_S)
        assert not (await store.check()).ok
        saving = (store.save("p", made(str(number)), (), ()) for number in range(2_000))
        outcomes = await asyncio.wait_for(asyncio.gather(*saving, return_exceptions=True), WAIT_S)
        assert {type(outcome) for outcome in outcomes} == {StorageError}
        tries, connect = 0, store._pool.connect

        async def counted() -> Any:
            nonlocal tries
            tries += 1
            return await connect()

        monkeypatch.setattr(store._pool, "connect", counted)
        with pytest.raises(StorageError):
            await store.has("p", "resp_a")
        assert tries == 1  # nobody waits again for what has been away for long
    finally:
        await asyncio.to_thread(cluster.start)
    await turn(store, "b", after="a")
    assert await context(store, "b") == ["in_a", "out_a", "in_b", "out_b"]
    assert list(await store.keys()) == [key("a")]
    assert (await store.check()).ok
    await store.close()


async def test_idle_connections_that_ended_cost_no_request(store: PostgresStore, cluster: Cluster) -> None:
    await turn(store, "a")
    await asyncio.gather(*(store.response("p", "resp_a") for _ in range(8)))
    await asyncio.to_thread(cluster.stop)
    await asyncio.to_thread(cluster.start)
    assert all(await asyncio.gather(*(store.response("p", "resp_a") for _ in range(8))))
    await turn(store, "b")


# -- several servers


async def test_what_one_server_does_the_other_sees(store: PostgresStore, other: PostgresStore) -> None:
    await turn(store, "a")
    await turn(other, "b", after="a")
    assert await context(store, "b") == ["in_a", "out_a", "in_b", "out_b"]
    await erased(other, "a")
    assert not await store.has("p", "resp_a")
    assert await found(store, query()) == ["b"]


async def test_a_key_that_one_server_revokes_the_other_takes_no_more(
    store: PostgresStore, other: PostgresStore
) -> None:
    await store.add_key(key("a"))
    assert list(await other.keys()) == [key("a")]
    await until(lambda: result(other._ear.is_listening))
    known = await other.keys()
    assert await other.keys() is known
    await store.revoke_key("key_a")

    async def is_gone() -> bool:
        return list(await other.keys()) == []

    await until(is_gone)


async def test_keys_that_are_known_cost_no_query_and_are_asked_for_again_when_nobody_listens(
    store: PostgresStore, database: str
) -> None:
    await store.add_key(key("a"))
    await store.keys()
    await until(lambda: result(store._ear.is_listening))
    known = await store.keys()
    with holding(database, "LOCK TABLE counters, api_keys IN ACCESS EXCLUSIVE MODE"):
        assert await asyncio.wait_for(store.keys(), WAIT_S) is known
    listening = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    run(database, listening)
    await until(lambda: result(not store._ear.is_listening))
    assert await store.keys() is known
    await until(lambda: result(store._ear.is_listening))


async def test_a_listener_that_hears_nothing_asks_whether_it_still_could(
    store: PostgresStore, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.stores.postgres_ear.HEARTBEAT_S", 0.01)
    heard = asyncio.Event()
    ear = Ear(store._pool)
    ear.hear("somewhere", lambda _: heard.set())
    ear.open()
    await until(lambda: result(ear.is_listening))
    heard.clear()
    has_asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'SELECT 1'"
    await until(lambda: asyncio.to_thread(run, database, has_asked))
    assert not heard.is_set()
    async with await psycopg.AsyncConnection.connect(**store._pool._parameters, autocommit=True) as connection:
        await connection.execute("NOTIFY somewhere")
    await asyncio.wait_for(heard.wait(), WAIT_S)
    await ear.close()


async def test_two_servers_see_one_lock_and_one_version(store: PostgresStore, other: PostgresStore) -> None:
    await store.conversations.add("p", A, [said("a")])
    version = await store.conversations.version("p", A.id)

    async def lock(at: Store, name: str) -> bool:
        try:
            one = Lock(project="p", conversation_id=A.id, response_id=f"resp_{name}")
            await at.conversations.lock(one, version=version, now=1, until=9)
        except ConversationLocked:
            return False
        return True

    got = await asyncio.gather(*(lock((store, other)[number % 2], str(number)) for number in range(10)))
    assert got.count(True) == 1
    owner = got.index(True)
    await other.save("p", test_store_conversations.said_in(str(owner)), [said("in")], ())
    assert (await store.conversations.context("p", A.id))[0] > version


async def test_two_servers_share_a_quota(store: PostgresStore, other: PostgresStore) -> None:
    quota = Quota(files_max=5, bytes_max=10**9, parts_max=9)
    adding = (
        test_file_store.add((store, other)[number % 2].files, test_file_store.made(str(number)), quota=quota)
        for number in range(20)
    )
    assert (await asyncio.gather(*adding)).count(None) == 5


async def test_two_servers_that_claim_at_once_make_no_more_for_a_project_than_they_may(
    store: PostgresStore, other: PostgresStore, database: str
) -> None:
    await test_store_runs.added(store, "a", "b", "c", "d")
    owners = ((store, test_store_runs.A), (other, test_store_runs.B))
    with holding(database, "SELECT FROM runs FOR UPDATE"):
        claiming = [asyncio.create_task(test_store_runs.claimed(at, lease, each=2)) for at, lease in owners]
        await blocked(database, 2)
    claimed = [one.ticket.response_id for task in claiming for one in await task]

    assert sorted(claimed) == ["resp_a", "resp_b"]


async def test_siblings_that_two_servers_erase_at_once_leave_nothing(
    store: PostgresStore, other: PostgresStore, database: str
) -> None:
    for number in range(20):
        root = await turn(store, f"root_{number}")
        await turn(store, f"a_{number}", after=f"root_{number}")
        await turn(store, f"b_{number}", after=f"root_{number}")
        await store.delete("p", root.id)
    erasing = [(store.delete("p", f"resp_a_{n}"), other.delete("p", f"resp_b_{n}")) for n in range(20)]
    assert all(await asyncio.gather(*(one for pair in erasing for one in pair)))
    assert run(database, "SELECT (SELECT count(*) FROM responses), (SELECT count(*) FROM items)") == [(0, 0)]


async def test_a_child_that_is_saved_while_its_parent_is_erased_has_its_whole_history(
    store: PostgresStore, other: PostgresStore
) -> None:
    for number in range(30):
        await turn(store, f"a_{number}")
        history = await store.context("p", f"resp_a_{number}") or ()
        child = made(f"b_{number}", f"a_{number}")
        await asyncio.gather(
            store.save("p", child, (said(f"in_b_{number}"),), history), other.delete("p", f"resp_a_{number}")
        )
        whole_ = [f"{side}_{name}_{number}" for name in "ab" for side in ("in", "out")]
        assert await context(store, f"b_{number}") == whole_


# -- migrations


ALL = [one.version for one in sql.pending("postgres", 0)]


def versions(address: str) -> list[int]:
    return [row[0] for row in run(address, "SELECT version FROM migrations ORDER BY version")]


def test_both_databases_have_the_same_versions() -> None:
    names = {dialect: [one.name for one in sql.pending(dialect, 0)] for dialect in ("sqlite", "postgres")}
    assert names["postgres"] == names["sqlite"]


def test_a_database_that_other_programs_use_is_shared(cluster: Cluster) -> None:
    address = cluster.make("shared")
    cluster.execute("CREATE TABLE public.responses (theirs int)", "shared")
    applied = postgres_schema.prepare(address)
    assert versions(address) == [one.version for one in applied] == ALL
    assert postgres_schema.prepare(address) == []
    assert cluster.execute("SELECT count(*) FROM public.responses", "shared") == [(0,)]


async def test_several_servers_may_make_one_new_database_at_once(cluster: Cluster) -> None:
    address = cluster.make("new")
    opening = (asyncio.to_thread(postgres_schema.prepare, address) for _ in range(6))
    assert sorted(map(len, await asyncio.gather(*opening))) == [0] * 5 + [len(ALL)]


def test_a_newer_database_is_refused(cluster: Cluster) -> None:
    address = cluster.make("newer")
    postgres_schema.prepare(address)
    run(address, "INSERT INTO migrations (version, name) VALUES (99, 'later')")
    with pytest.raises(SettingsError, match="version 99"):
        open_postgres(address)


def test_a_user_who_may_not_make_tables_is_told_so(cluster: Cluster) -> None:
    address = cluster.make("closed")
    cluster.execute("DROP ROLE IF EXISTS guest")
    cluster.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(SettingsError, match="cannot be brought up to date: this user of the database may not"):
        open_postgres(address.replace("postgres@", "guest@"))


async def test_a_migration_runs_while_the_version_before_goes_on(cluster: Cluster) -> None:
    """What a later version may do to a table that is in use, with a transaction in its way for a while."""
    address = cluster.make("live")
    later = sql.Migration(
        ALL[-1] + 1, "later.sql", "ALTER TABLE responses ADD COLUMN later BIGINT; CREATE TABLE later_rows (n BIGINT)"
    )
    store = open_postgres(address)
    before = [turn(store, f"before_{number}") for number in range(20)]
    await asyncio.gather(*before)
    known = [*sql.pending("postgres", 0), later]

    def migrate() -> list[sql.Migration]:
        with postgres_connection.connect_now(address) as connection:
            return postgres_schema.migrate(connection, known)

    with holding(address, "SELECT * FROM responses"):  # holds the lock that the migration needs
        migrating = asyncio.ensure_future(asyncio.to_thread(migrate))
        await blocked(address)
        await asyncio.wait_for(turn(store, "meanwhile"), WAIT_S)
    assert await migrating == [later]
    await turn(store, "after", after="meanwhile")
    assert await store.delete("p", "resp_before_1")
    assert len(await found(store, query())) == 21
    assert versions(address)[-1] == later.version
    await store.close()


async def test_a_migration_that_fails_leaves_nothing(cluster: Cluster) -> None:
    address = cluster.make("failing")
    broken = [
        *sql.pending("postgres", 0),
        sql.Migration(ALL[-1] + 1, "broken.sql", "CREATE TABLE half (n int); SELECT nonsense"),
    ]
    with postgres_connection.connect_now(address) as connection, pytest.raises(psycopg.Error):
        postgres_schema.migrate(connection, broken)
    assert versions(address) == ALL
    assert run(address, "SELECT to_regclass('half')") == [(None,)]
    assert postgres_schema.prepare(address) == []


def test_a_store_is_built_by_its_address(database: str) -> None:
    built = stores.build(Storage(database=database), Limits())
    assert isinstance(built, PostgresStore)
    asyncio.run(built.close())


async def test_the_store_lives_on_a_fast_event_loop_too(database: str) -> None:
    """uvloop is what the product runs on."""
    import uvloop

    async def work() -> list[str]:
        async with AsyncExitStack() as stack:
            store = open_postgres(database)
            stack.push_async_callback(store.close)
            await asyncio.gather(*(turn(store, str(number)) for number in range(30)))
            await store.keys()
            return await context(store, "7")

    def go() -> list[str]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work())

    assert await asyncio.to_thread(go) == ["in_7", "out_7"]
