"""What servers on one PostgreSQL tell each other of background responses, so that nobody need ask all the time."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from antiphon.config import Settings
from antiphon.core.deltas import Text
from antiphon.engine import background, signals
from antiphon.engine.engine import Engine
from antiphon.stores import postgres_bell
from antiphon.stores.postgres import PostgresStore
from tests.conftest import WAIT_S, changed
from tests.rawclient import exchange, streaming
from tests.test_background import STOP, Node, asked, happens, node
from tests.test_postgres import other, result, run, store, until
from tests.test_postgres_server import SECRET
from tests.test_store import turn
from tests.test_store_runs import NOW, SOON, A, B, T, begun, deltas, ended

__all__ = ["other", "store"]

LISTENERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"


async def listens(at: PostgresStore) -> None:
    """It hears what is told from now on."""
    await at.runs.changed(0.001)
    await until(lambda: result(at._ear.is_listening))
    assert await at.runs.changed(WAIT_S) is None  # something may have been missed before


async def hears(at: PostgresStore, word: str) -> None:
    """Messages come behind the commit they tell of, so others may come before this one."""
    async with asyncio.timeout(WAIT_S):
        while word not in (told := await at.runs.changed(WAIT_S) or ()):
            assert told, f"nothing was told of {word}"


async def test_a_server_hears_of_which_response_another_wrote(store: PostgresStore, other: PostgresStore) -> None:
    x, y = await begun(store, "x"), await begun(store, "y")
    await listens(other)
    await store.runs.append(x, deltas(2), NOW, SOON)
    await hears(other, "resp_x")
    await store.runs.finish(y, ended("y"), deltas(2), T)
    await hears(other, "resp_y")


async def test_what_came_between_two_looks_is_not_missed(store: PostgresStore, other: PostgresStore) -> None:
    x, y = await begun(store, "x"), await begun(store, "y")
    await listens(other)
    await store.runs.append(x, deltas(2), NOW, SOON)
    await store.runs.append(y, deltas(2), NOW, SOON)
    await until(lambda: result({"resp_x", "resp_y"} <= other._bell._told))
    assert {"resp_x", "resp_y"} <= set(await other.runs.changed(WAIT_S) or ())


async def test_a_server_does_not_hear_itself(store: PostgresStore, other: PostgresStore) -> None:
    for at in (store, other):
        await listens(at)
    await begun(store, "x")
    await begun(other, "y")
    told = await store.runs.changed(WAIT_S)
    assert told == {postgres_bell.CALL}
    await other.runs.append((await begun(other, "z")), deltas(2), NOW, SOON)
    await store.runs.changed(WAIT_S)
    assert "resp_x" not in other._bell._told


async def test_too_many_at_once_are_any(store: PostgresStore, other: PostgresStore) -> None:
    await listens(other)
    for number in range(postgres_bell.WORDS_MAX + 1):
        store._bell.tell(f"resp_{number}")
    assert await other.runs.changed(WAIT_S) is None


async def test_what_nobody_asks_for_is_kept_within_bounds(store: PostgresStore, other: PostgresStore) -> None:
    await listens(other)
    for number in range(3 * postgres_bell.WORDS_MAX):
        store._bell.tell(f"resp_{number}")
        await asyncio.sleep(0)
    await until(lambda: result(postgres_bell.ANY in other._bell._told))
    assert len(other._bell._told) <= 2 * postgres_bell.WORDS_MAX
    assert await other.runs.changed(WAIT_S) is None


async def test_what_is_to_be_made_or_was_taken_away_calls_the_others(
    store: PostgresStore, other: PostgresStore
) -> None:
    called = asyncio.Event()
    other.runs.hear(called.set)
    await listens(other)

    async def is_called() -> None:
        await asyncio.wait_for(called.wait(), WAIT_S)
        called.clear()

    called.clear()
    ticket = await begun(store)
    await is_called()
    await store.runs.release([ticket])
    await is_called()
    await store.runs.seize("p", "resp_x", B)
    await is_called()


async def test_foreground_responses_ring_nothing(store: PostgresStore, other: PostgresStore) -> None:
    await listens(other)
    await turn(store, "a")
    await store.runs.renew([await begun(other, "x")], A)
    assert store._bell._ringing is None


async def test_while_nothing_can_be_heard_one_looks_often_and_then_listens_again(
    store: PostgresStore, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.stores.postgres_ear.RETRY_S", WAIT_S)
    await listens(store)
    run(database, LISTENERS)
    assert await asyncio.wait_for(store.runs.changed(10 * WAIT_S), WAIT_S) is None
    assert not store._ear.is_listening
    assert await asyncio.wait_for(store.runs.changed(10 * WAIT_S), WAIT_S) is None  # after LOOK_S

    monkeypatch.undo()
    await store._ear.close()  # it would only try again after a long time
    await listens(store)


async def test_a_message_that_cannot_be_sent_costs_nothing(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = await begun(store)

    async def away(*_: object) -> None:
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(postgres_bell, "ask", away)
    assert await store.runs.append(ticket, deltas(2), NOW, SOON)
    await store._bell.close()
    monkeypatch.undo()
    assert await store.runs.append(ticket, deltas(3), NOW, SOON)
    await store._bell.close()


# -- two servers, whose own looks come too late for this test


@pytest.fixture
async def nodes(scripted: Settings, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Node, Node]]:
    for module in (background, signals):
        monkeypatch.setattr(module, "LOOK_S", 10 * WAIT_S)
    monkeypatch.setattr(Engine.start, "__defaults__", (10 * WAIT_S,))
    settings = changed(scripted, storage={"database": database}, server={"secret": SECRET})
    limits = {"background_lease_s": 30 * WAIT_S, "background_runs_max": 1}
    async with node(settings, **limits) as one, node(settings, **limits) as other:
        yield one, other


async def made_by(nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """Who makes what was asked for, and the other."""
    await until(lambda: result(any(each.model.is_asked.is_set() for each in nodes)))
    one, other = nodes
    return (one, other) if one.model.is_asked.is_set() else (other, one)


async def test_a_cancel_at_another_server_stops_the_model_at_once(nodes: tuple[Node, Node]) -> None:
    queued = await asked(nodes[0])
    maker, canceller = await made_by(nodes)
    assert (await canceller.cancel(queued["id"])).value["status"] == "cancelled"
    await happens(maker.model.is_over)


async def test_a_reader_at_another_server_sees_it_as_it_comes(nodes: tuple[Node, Node]) -> None:
    async with streaming(nodes[0].url, background=True, model="played") as first:
        await first.head()
        head = await first.frames_until("response.queued")
    response_id = head[0].data["response"]["id"]
    maker, reader = await made_by(nodes)
    async with exchange(reader.url, "GET", f"/v1/responses/{response_id}?stream=true") as one:
        await one.head()
        for word in "ab":
            maker.model.say(Text(word))
            assert (await one.frames_until("response.output_text.delta"))[-1].data["delta"] == word
        maker.model.say(STOP)
        assert (await one.frames())[-2].event == "response.completed"


async def test_what_a_server_has_no_room_for_another_makes_at_once(nodes: tuple[Node, Node]) -> None:
    for _ in nodes:
        await asked(nodes[0])
    for each in nodes:
        await happens(each.model.is_asked)
