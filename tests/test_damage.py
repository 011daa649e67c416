"""A background response of which something stored is damaged: it is over at some time all the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import apsw
import psycopg
import pytest

from antiphon.config import Limits, Settings, Storage
from antiphon.config import ScriptedModel as Scripted
from antiphon.core.ports import Store
from antiphon.core.runs import Lease
from antiphon.errors import Unreadable
from antiphon.models.scripted import ScriptedModel
from antiphon.stores.postgres import PostgresStore
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire.response import ConversationUse
from tests.conftest import WAIT_S, changed
from tests.rawclient import Played, ask, final, serving
from tests.test_background import UNFINISHED, Node
from tests.test_store import bounded, turn
from tests.test_store_runs import NOW, SOON, B, added, begun, claimed, deltas, ended, in_conversation, numbers, times

__all__ = ["bounded"]

T = 1_700_000_100_000


class Opened:
    """A store, and what lies under it."""

    def __init__(self, store: Store, storage: Storage) -> None:
        self.store = store
        self.storage = storage

    def damage(self, statement: str) -> None:
        if self.storage.is_postgres:
            with psycopg.connect(self.storage.database, autocommit=True) as connection:
                connection.execute(f"SET search_path = antiphon; {statement}".encode())
        else:
            with closing(apsw.Connection(self.storage.database)) as connection:
                connection.set_busy_timeout(WAIT_S * 1000)
                connection.execute(statement)


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    if request.param == "sqlite":
        storage = Storage(database=str(tmp_path / "store.db"))
        store: Store = SqliteStore(storage, Limits())
    else:
        storage = Storage(database=request.getfixturevalue("database"), files=str(tmp_path / "files"))
        store = PostgresStore(storage, Limits())
    yield Opened(store, storage)
    await store.close()


OF_X = "response = (SELECT n FROM responses WHERE id = 'resp_x')"
ALL_EVENTS = f"UPDATE response_events SET data = 'x' WHERE {OF_X}"  # noqa: S608
BODY = "UPDATE responses SET body = '{' WHERE id = 'resp_x'"
DAMAGE = {
    "its request": f"UPDATE runs SET request = '[]' WHERE {OF_X}",  # noqa: S608
    "its body": BODY,
    "its body and all events": f"{BODY}; {ALL_EVENTS}",
    "its input": "UPDATE items SET data = '[' WHERE id = 'in_x'",
    "an event": f"{ALL_EVENTS} AND seq = 1",
    "a missing event": f"DELETE FROM response_events WHERE {OF_X} AND seq = 1",  # noqa: S608
    "all events": ALL_EVENTS,
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_it_fails_and_is_in_nobodys_way(opened: Opened, scripted: Settings, name: str) -> None:
    await turn(opened.store, "parent", project="default")
    await added(opened.store, "x", project="default", after="parent", metadata={"colour": "red"})
    await added(opened.store, "y", project="default", streams=False)
    opened.damage(DAMAGE[name])
    settings = changed(scripted, limits={"background_lease_s": 0.5})
    async with serving(settings, opened.store, ScriptedModel(Scripted(name="m"), settings.limits)) as url:
        node = Node(url, Played())
        async with asyncio.timeout(WAIT_S):
            while not await is_over(url):
                pass
        response, other = await node.get("resp_x"), await node.ended("resp_y")
        frames = await node.frames("resp_x")
        listed = (await ask(url, "GET", "/v1/responses?metadata[colour]=red")).value["data"]
        deleted = (await ask(url, "DELETE", "/v1/responses/resp_x")).status
        left = (await ask(url, "GET", "/v1/responses?metadata[colour]=red")).value["data"]

    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["previous_response_id"] == "resp_parent"
    assert final(frames) == response
    assert (listed, deleted, left) == ([response], 200, [])
    assert other["status"] == "completed"


async def is_over(url: str) -> bool:
    """Until somebody has claimed it, what is damaged cannot be shown."""
    answer = await ask(url, "GET", "/v1/responses/resp_x")
    return answer.status == 200 and answer.value["status"] not in UNFINISHED


async def test_its_conversation_is_free_again(opened: Opened) -> None:
    ticket = await in_conversation(opened.store)
    opened.damage(DAMAGE["its body and all events"])
    await opened.store.runs.release([ticket])
    (taken,) = await claimed(opened.store, B)
    assert taken.request is None
    assert taken.response.conversation == ConversationUse(id="conv_a")
    failed = ended(conversation=taken.response.conversation)
    assert await opened.store.runs.finish(taken.ticket, failed, deltas(0, 1, 2), T)

    await opened.store.conversations.add_items("p", "conv_a", [], [], now=2)
    assert await numbers(opened.store) == [0, 1, 2]


async def test_events_are_read_up_to_the_damage_and_replaced_from_there(opened: Opened) -> None:
    ticket = await begun(opened.store)
    await opened.store.runs.append(ticket, deltas(2, 3, 4, 5), NOW, SOON)
    opened.damage(f"{ALL_EVENTS} AND seq = 4")
    assert await numbers(opened.store) == [0, 1, 2, 3]
    with pytest.raises(Unreadable):
        await numbers(opened.store, after=3)
    assert await opened.store.runs.finish(ticket, ended(), deltas(4), T)

    assert await numbers(opened.store) == [0, 1, 2, 3, 4]
    assert await times(opened.store) == [(0, NOW), (2, NOW), (4, T)]


async def test_one_whose_body_is_damaged_can_be_seized(opened: Opened) -> None:
    await begun(opened.store)
    opened.damage(BODY)
    seized = await opened.store.runs.seize("p", "resp_x", Lease(owner="c", until_ms=SOON))

    assert seized is not None
    assert (seized.request, seized.response.status, seized.ticket.attempt) == (None, "in_progress", 2)
    assert (await opened.store.response("p", "resp_x")) == seized.response
