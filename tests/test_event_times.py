"""When the events of background responses were written: told beside their streams, which stay as they are."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from antiphon.config import Auth, Settings
from antiphon.core.deltas import Text
from antiphon.core.ports import Store
from tests.conftest import serve
from tests.postgres import Cluster
from tests.rawclient import Answer, ask, create, streaming
from tests.test_background import STOP, Node, asked, node
from tests.test_retention import later, postgres_before, rows_before, sqlite_before
from tests.test_store import bounded, open_file, open_postgres
from tests.test_store_runs import NOW, B, deltas, times

__all__ = ["bounded"]


@pytest.fixture
async def one(scripted: Settings) -> AsyncIterator[Node]:
    async with node(scripted) as made:
        yield made


async def times_of(at: Node, response_id: str, query: str = "") -> Answer:
    return await ask(at.url, "GET", f"/antiphon/responses/{response_id}/times{query}")


async def spoken(at: Node) -> tuple[str, list[int]]:
    """A response of three words, each said once the one before was read; and the numbers of their events."""
    said = []
    async with streaming(at.url, background=True, model="played") as stream:
        await stream.head()
        for word in ("a", " b", " c"):
            at.model.say(Text(word))
            said.append((await stream.frames_until("response.output_text.delta"))[-1].data["sequence_number"])
        at.model.say(STOP)
        response = (await stream.frames())[-2].data["response"]
    return response["id"], said


async def test_what_was_read_before_more_was_said_has_an_earlier_time(one: Node) -> None:
    begin_ms = round(time.time() * 1000)
    response_id, said = await spoken(one)
    end_ms = round(time.time() * 1000)
    told = (await times_of(one, response_id)).value
    numbers = [number for number, _ in told["data"]]
    at_ms = [at for _, at in told["data"]]

    assert (told["object"], told["has_more"]) == ("antiphon.event_times", False)
    assert numbers[0] == 0
    assert {*said[1:]} < {*numbers}
    assert sorted([begin_ms, *at_ms, end_ms]) == [begin_ms, *at_ms, end_ms]


async def test_times_come_in_pages(one: Node) -> None:
    response_id, _ = await spoken(one)
    whole = (await times_of(one, response_id)).value["data"]
    pages = [(await times_of(one, response_id, "?limit=2")).value]
    while pages[-1]["has_more"]:
        pages.append((await times_of(one, response_id, f"?limit=2&starting_after={pages[-1]['data'][-1][0]}")).value)

    assert [pair for page in pages for pair in page["data"]] == whole
    assert [len(page["data"]) for page in pages[:-1]] == [2] * (len(pages) - 1)
    assert (await times_of(one, response_id, "?limit=0")).refusal == (400, "integer_below_min_value", "limit")


async def test_what_has_no_stream_is_refused_as_its_stream_is(one: Node, scripted: Settings) -> None:
    one.model.say(Text("a"), STOP)
    unstreamed = await one.ended((await asked(one))["id"])
    gone, _ = await spoken(one)
    await later(scripted, 24.1)
    foreground = (await create(one.url)).value
    ids = {"resp_unknown": 404, foreground["id"]: 400, unstreamed["id"]: 400, gone: 400}

    for response_id, status in ids.items():
        refused = await times_of(one, response_id)
        stream = await ask(one.url, "GET", f"/v1/responses/{response_id}?stream=true")
        assert (refused.status, refused.error) == (status, stream.error)
    assert refused.error["code"] == "response_stream_expired"


async def test_another_projects_times_do_not_exist(scripted: Settings) -> None:
    shop, desk = "sk-shop-0123456789abcdef0123", "sk-desk-0123456789abcdef0123"
    keys = {"keys": ({"project": "shop", "key": shop}, {"project": "desk", "key": desk})}
    settings = structs.replace(scripted, auth=msgspec.convert(keys, Auth))
    async with serve(settings) as address:
        url = address.removesuffix("/v1")
        mine, theirs = ({"authorization": f"Bearer {key}"} for key in (shop, desk))
        async with streaming(url, mine, background=True) as stream:
            await stream.head()
            response_id = (await stream.frames())[0].data["response"]["id"]
        path = f"/antiphon/responses/{response_id}/times"
        seen = [(await ask(url, "GET", path, headers=headers)).status for headers in (mine, theirs, None)]

    assert seen == [200, 404, 401]


# -- from the version before, which goes on meanwhile


async def check_from_before(store: Store, execute: Callable[[str], Any]) -> None:
    execute(rows_before(2, "x"))  # by a server of the version before
    taken = await store.runs.seize("p", "resp_x", B)
    assert taken is not None
    assert await store.runs.append(taken.ticket, deltas(3, 4), NOW, B.until_ms)

    assert await times(store, "over") == [(2, None)]
    assert await times(store) == [(2, None), (3, NOW)]
    assert await times(store, after=2) == [(3, NOW)]


async def test_in_an_sqlite_file_of_the_version_before_times_are_not_known(tmp_path: Path) -> None:
    with sqlite_before(tmp_path) as (_, execute):
        execute(rows_before(1, "over"))
        store = open_file(tmp_path)
        await check_from_before(store, execute)
        await store.close()


async def test_in_a_postgresql_database_of_the_version_before_times_are_not_known(cluster: Cluster) -> None:
    with postgres_before(cluster) as (address, execute):
        execute(rows_before(1, "over"))
        store = open_postgres(address)
        await check_from_before(store, execute)
        await store.close()
