"""Stored responses, listed over raw HTTP: filters, pages, projects, refusals; and through the SDK's own paging."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import openai
import pytest
import pytest_asyncio
from openai.pagination import AsyncCursorPage
from openai.types.responses import Response as SdkResponse

from antiphon.config import Limits, Settings, StaticKey, Storage
from antiphon.core.deltas import Finish, Text
from antiphon.stores.memory import MemoryStore
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire.items import InputText, Message, OutputText
from antiphon.wire.response import Response, ResponseStatus
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import Answer, Played, ask, create, exchange, request, scripted_in, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALPHA, BETA = "sk-alpha-0123456789abcdef", "sk-beta-0123456789abcdef"
PAGES_MAX = 200
COUNT = 60
T0 = 1_700_000_000
STATUSES: tuple[ResponseStatus, ...] = ("completed", "completed", "failed", "completed", "incomplete", "cancelled")


def message(item_id: str, part: Any, role: Any) -> Message:
    return Message(id=item_id, status="completed", role=role, content=(part,))


def stored(number: int) -> Response:
    """Three of them share each second."""
    return Response(
        id=f"resp_{number:02}",
        created_at=T0 + number // 3,
        status=STATUSES[number % len(STATUSES)],
        model="small" if number % 5 else "large",
        metadata={"parity": "even" if number % 2 == 0 else "odd", "number": str(number), "a b&c[d]=é": "x y+z&="},
        output=(message(f"msg_{number}", OutputText(text=f"answer {number}"), "assistant"),),
    )


STORED = [stored(number) for number in range(COUNT)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server that has stored all of them, in one project, and some others in another."""
    settings = scripted_in(tmp_path_factory.mktemp("listing"))
    store = SqliteStore(settings.storage, settings.limits)
    for response in STORED:
        given = message(f"in_{response.id}", InputText(text="?"), "user")
        await store.save("default", response, (given,), ())
        await store.save("other", response, (given,), ())
    async with serving(settings, store) as address:
        yield address
    await store.close()


async def listed(url: str, query: str = "", headers: Any = None) -> Answer:
    return await ask(url, "GET", f"/v1/responses{query and '?'}{query}", headers=headers)


async def numbers(url: str, query: str) -> list[int]:
    return [int(one["id"][5:]) for one in (await listed(url, query)).value["data"]]


async def all_pages(url: str, query: str) -> list[int]:
    seen: list[int] = []
    after = ""
    for _ in range(PAGES_MAX):
        page = (await listed(url, query + after)).value
        seen += [int(one["id"][5:]) for one in page["data"]]
        if not page["has_more"]:
            return seen
        after = f"&after={page['last_id']}"
    raise AssertionError("the pages have no end")


# -- what is in the list


async def test_a_list_is_of_whole_responses_as_they_are_retrieved(url: str) -> None:
    page = (await listed(url, "limit=2")).value

    assert page == {
        "object": "list",
        "data": [(await ask(url, "GET", f"/v1/responses/resp_{number}")).value for number in (59, 58)],
        "first_id": "resp_59",
        "last_id": "resp_58",
        "has_more": True,
    }
    assert page["data"][0]["output"][0]["content"][0]["text"] == "answer 59"


async def test_the_newest_twenty_come_first(url: str) -> None:
    assert await numbers(url, "") == list(range(59, 39, -1))


async def test_a_list_of_nothing_has_no_ids(url: str) -> None:
    empty: Any = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await listed(url, "model=none")).value == empty


async def test_what_was_just_made_is_listed_and_what_was_deleted_is_not(scripted: Settings) -> None:
    async with serve(scripted) as address:
        url = address.removesuffix("/v1")
        made = [(await create(url, metadata={"topic": topic})).value for topic in ("a", "b", "a")]
        await create(url, store=False, metadata={"topic": "a"})
        child = (await create(url, previous_response_id=made[0]["id"])).value
        assert (await listed(url, "metadata[topic]=a&order=asc")).value["data"] == [made[0], made[2]]

        await ask(url, "DELETE", f"/v1/responses/{made[0]['id']}")
        assert (await listed(url, "metadata[topic]=a")).value["data"] == [made[2]]
        assert (await listed(url, "order=asc")).value["data"] == [made[1], made[2], child]


async def test_what_goes_on_from_a_response_is_listed_by_its_id(scripted: Settings) -> None:
    async with serve(scripted) as address:
        url = address.removesuffix("/v1")
        root = (await create(url)).value["id"]
        first = (await create(url, previous_response_id=root, metadata={"k": "v"})).value
        second = (await create(url, previous_response_id=root, background=True)).value
        below = (await create(url, previous_response_id=first["id"])).value
        forks, deeper = f"previous_response_id={root}", f"previous_response_id={first['id']}"

        assert [one["id"] for one in (await listed(url, f"{forks}&order=asc")).value["data"]] == [
            first["id"],
            second["id"],
        ]
        assert (await listed(url, f"{forks}&metadata[k]=v")).value["data"] == [first]
        assert (await listed(url, f"{deeper}&limit=1")).value["data"] == [below]
        assert (await listed(url, f"previous_response_id={below['id']}")).value["data"] == []

        await ask(url, "DELETE", f"/v1/responses/{root}")
        assert (await listed(url, f"{forks}&limit=1&order=asc")).value["data"] == [first]


async def test_what_is_still_being_made_is_not_listed_yet(tmp_path: Path) -> None:
    model, store = Played(), MemoryStore(Storage(), Limits())
    async with (
        serving(scripted_in(tmp_path), store, model) as url,
        exchange(url, "POST", "/v1/responses", request(model="played")) as one,
    ):
        await asyncio.wait_for(model.is_asked.wait(), WAIT_S)
        assert (await listed(url)).value["data"] == []
        model.say(Text("done"), Finish("stop"))
        made = (await one.answer()).value
        assert (await listed(url)).value["data"] == [made]


async def test_a_project_lists_its_own_responses_alone(tmp_path: Path) -> None:
    keys = (StaticKey(project="alpha", key=ALPHA), StaticKey(project="beta", key=BETA))
    alpha, beta = ({"authorization": f"Bearer {key}"} for key in (ALPHA, BETA))
    async with serve(changed(scripted_in(tmp_path), auth={"keys": keys})) as address:
        url = address.removesuffix("/v1")
        made = (await create(url, alpha, metadata={"k": "v"})).value
        for query in ("", "metadata[k]=v", "model=scripted"):
            assert (await listed(url, query, alpha)).value["data"] == [made]
            assert (await listed(url, query, beta)).value["data"] == []
        assert (await listed(url, f"after={made['id']}", beta)).refusal == (404, None, "after")
        assert (await listed(url)).status == 401


# -- filters

FILTERS: dict[str, Any] = {
    "model=large": lambda it: it.model == "large",
    "status=failed": lambda it: it.status == "failed",
    "status=completed": lambda it: it.status == "completed",
    "status=incomplete&model=large": lambda it: it.status == "incomplete" and it.model == "large",
    "metadata[parity]=even": lambda it: it.metadata["parity"] == "even",
    "metadata%5Bparity%5D=even": lambda it: it.metadata["parity"] == "even",
    "metadata[number]=7": lambda it: it.metadata["number"] == "7",
    "metadata[number]=7&metadata[parity]=even": lambda _: False,
    "metadata[number]=8&metadata[parity]=even": lambda it: it.id == "resp_08",
    "metadata[parity]=odd&status=completed": lambda it: it.metadata["parity"] == "odd" and it.status == "completed",
    "metadata[parity]=odd&status=failed": lambda _: False,
    "metadata[parity]=": lambda _: False,
    "metadata[Parity]=odd": lambda _: False,
    f"created_after={T0 + 5}": lambda it: it.created_at >= T0 + 5,
    f"created_before={T0 + 5}": lambda it: it.created_at < T0 + 5,
    f"created_after={T0 + 5}&created_before={T0 + 6}": lambda it: it.created_at == T0 + 5,
    f"created_after={T0 + 5}&created_before={T0 + 5}": lambda _: False,
    "created_after=0": lambda _: True,
    f"metadata[parity]=odd&model=small&status=cancelled&created_after={T0 + 3}&created_before={T0 + 12}": lambda it: (
        it.metadata["parity"] == "odd"
        and it.model == "small"
        and it.status == "cancelled"
        and T0 + 3 <= it.created_at < T0 + 12
    ),
    urlencode({"metadata[a b&c[d]=é]": "x y+z&="}): lambda _: True,
}


@pytest.mark.parametrize("query", FILTERS)
async def test_a_list_holds_what_matches_all_that_is_asked(url: str, query: str) -> None:
    expected = [number for number, response in enumerate(STORED) if FILTERS[query](response)]

    assert await numbers(url, f"{query}&limit=100&order=asc") == expected
    assert await numbers(url, f"{query}&limit=100") == expected[::-1]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 60])
@pytest.mark.parametrize("query", ["", "metadata[parity]=odd", "status=completed&metadata[parity]=even", "model=large"])
async def test_pages_follow_each_other_to_the_end_without_gap_or_repeat(
    url: str, query: str, limit: int, order: str
) -> None:
    expected = await numbers(url, f"{query}&limit=100&order={order}")
    assert len(expected) > 1
    assert await all_pages(url, f"{query}&limit={limit}&order={order}") == expected


async def test_a_page_begins_behind_a_response_that_need_not_match(url: str) -> None:
    assert await numbers(url, "after=resp_07&order=asc&model=large&limit=2") == [10, 15]


async def test_periods_that_follow_each_other_miss_none_and_share_none(url: str) -> None:
    edges = [T0, T0 + 4, T0 + 9, T0 + 30]
    seen: list[int] = []
    for begin, end in pairwise(edges):
        seen += await numbers(url, f"created_after={begin}&created_before={end}&limit=100&order=asc")
    assert seen == list(range(COUNT))


# -- refusals

UNKNOWN, INVALID, TYPE = "unknown_parameter", "invalid_value", "invalid_type"
REFUSED: dict[str, tuple[str, str, str]] = {
    "modle=x": (UNKNOWN, "modle", "Did you mean 'model'?"),
    "limits=5": (UNKNOWN, "limits", "Did you mean 'limit'?"),
    "metdata[topic]=x": (UNKNOWN, "metdata[topic]", "Did you mean 'metadata[key]'?"),
    "metadata=x": (UNKNOWN, "metadata", "Did you mean 'metadata[key]'?"),
    "create_after=5": (UNKNOWN, "create_after", "Did you mean 'created_after'?"),
    "model[]=x": (UNKNOWN, "model[]", "Did you mean 'model'?"),
    "include=x": (UNKNOWN, "include", "Known are: metadata[key], model, status"),
    "=x": (UNKNOWN, "", "Known are"),
    "metadata[]=x": (INVALID, "metadata[]", "with a key"),
    "metadata[=x": (INVALID, "metadata[", "with a key"),
    "metadata[k=x": (INVALID, "metadata[k", "with a key"),
    "metadata[k]x=x": (INVALID, "metadata[k]x", "with a key"),
    "metadata%5B%5D=x": (INVALID, "metadata[]", "with a key"),
    "metadata[k]=a&metadata[k]=b": (INVALID, "metadata[k]", "more than once"),
    "model=a&model=b": (INVALID, "model", "more than once"),
    "&".join(f"metadata[{number}]=x" for number in range(17)): (INVALID, "metadata", "at most 16"),
    "model=": (INVALID, "model", "empty"),
    "previous_response_id=": (INVALID, "previous_response_id", "empty"),
    "previous_response=x": (UNKNOWN, "previous_response", "Did you mean 'previous_response_id'?"),
    "after=": (INVALID, "after", "empty"),
    "limit=": (INVALID, "limit", "empty"),
    "created_after": (INVALID, "created_after", "empty"),
    "created_after=yesterday": (TYPE, "created_after", "expected an integer"),
    "created_before=1.5": (TYPE, "created_before", "expected an integer"),
    "created_before=1e9": (TYPE, "created_before", "expected an integer"),
    "created_after=99999999999999999999": (TYPE, "created_after", "expected an integer"),
    "created_after=-1": ("integer_below_min_value", "created_after", "from 0 to"),
    "limit=0": ("integer_below_min_value", "limit", "from 1 to 100"),
    "limit=101": ("integer_above_max_value", "limit", "from 1 to 100"),
    "limit=x": (TYPE, "limit", "expected an integer"),
    "order=up": (INVALID, "order", "'asc', 'desc'"),
    "status=done": (INVALID, "status", "'completed'"),
    "%FF=x": (UNKNOWN, "\ufffd", "Known are"),
    "x" * 9_000 + "=1": (UNKNOWN, "x" * 256, "Known are"),
    "metadata[" + "x" * 9_000 + "=1": (INVALID, ("metadata[" + "x" * 256)[:256], "with a key"),
}


@pytest.mark.parametrize("query", REFUSED, ids=lambda query: query[:40])
async def test_what_is_not_understood_is_refused_by_name(url: str, query: str) -> None:
    code, param, text = REFUSED[query]
    answer = await listed(url, query)

    assert answer.refusal == (400, code, param or None)
    assert text in answer.error["message"]


async def test_a_list_after_an_unknown_response_is_not_found(url: str) -> None:
    answer = await listed(url, "after=resp_none")
    assert answer.refusal == (404, None, "after")
    assert "resp_none" in answer.error["message"]


async def test_what_could_be_meant_as_sql_is_a_value_like_any_other(url: str) -> None:
    for text in ("' OR 1=1 --", "%", "\0", '"', "x'); DROP TABLE responses; --"):
        for name in ("model", "previous_response_id", f"metadata[{text}]"):
            assert await numbers(url, f"{quote(name)}={quote(text)}") == []
    assert len(await numbers(url, "limit=100")) == COUNT


# -- the description, and the SDK


async def test_the_description_tells_each_parameter_of_the_list(url: str) -> None:
    document = (await ask(url, "GET", "/openapi.json")).value
    operation = document["paths"]["/v1/responses"]["get"]
    parameters = {one["name"]: one for one in operation["parameters"]}

    assert list(parameters) == [
        *("metadata", "model", "status", "previous_response_id", "created_after", "created_before"),
        *("limit", "order", "after"),
    ]
    assert all(one["in"] == "query" and one["description"] for one in parameters.values())
    assert parameters["metadata"]["style"] == "deepObject"
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    assert parameters["status"]["schema"]["enum"] == [
        *("cancelled", "completed", "failed", "in_progress", "incomplete", "queued")
    ]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/ResponseList"}


async def test_the_sdk_pages_through_the_list_as_through_its_own(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=WAIT_S) as client:
        options: Any = {"params": {"metadata": {"parity": "odd"}, "limit": 7, "order": "asc"}}
        page = await client.get("/responses", cast_to=AsyncCursorPage[SdkResponse], options=options)
        assert [one.output_text for one in page.data] == [f"answer {number}" for number in range(1, 15, 2)]
        assert page.has_more

        paged = client.get_api_list("/responses", page=AsyncCursorPage[SdkResponse], model=SdkResponse, options=options)
        assert [one.id async for one in paged] == [f"resp_{number:02}" for number in range(1, COUNT, 2)]
