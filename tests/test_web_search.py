"""The hosted tool web_search, end to end: a real index, real pages on 127.0.0.1, and the official SDK."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import pytest_asyncio
from msgspec import structs

from antiphon.config import Settings, WebSearch
from antiphon.core.builder import Builder
from antiphon.core.citations import mark
from antiphon.core.fold import Fold
from antiphon.wire import codec
from antiphon.wire.response import Response
from antiphon.wire.tools import WebSearchTool
from antiphon.wire.web import SearchWeb, WebSearchCall
from tests import wirecheck
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import Played, ask, create, events_of, final, parsed, scripted_in, streaming
from tests.recorded import events
from tests.test_background import Node
from tests.websites import article, website

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE = "https://bank.example/news"
RATE = f"{BASE}/rate.html"
SEARCH: dict[str, Any] = {"type": "web_search"}
SOURCES, RESULTS = "web_search_call.action.sources", "web_search_call.results"
LONG = [
    f"Paragraph {number} of the long report says that {number} times {number} is {number**2}." for number in range(400)
]
PAGES = {
    "/report": ("text/html; charset=utf-8", article("The Long Report", *LONG)),
    "/fresh": ("text/plain", b"not opened yet"),
    "/plain.txt": ("text/plain", b"plain text here"),
    "/away": ("->", b"/report"),
    "/picture": ("image/png", b"\x89PNG"),
}


def mark_of(url: str) -> str:
    return f"【{mark(hashlib.sha256(url.encode()).digest())}】"


def call(name: str, **arguments: Any) -> str:
    return f"call {name} {json.dumps(arguments)}"


class Place(NamedTuple):
    url: str
    """Of the server."""
    site: str
    """Of a website."""


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("news")
    (folder / "deep").mkdir()
    (folder / "rate.html").write_bytes(article("The Rate – Bank", "The rate is “3.50 %” – 3.75 %.", "It was cut."))
    (folder / "deep/leave.md").write_text("# Leave\n\nStaff have thirty days of leave.\n", "utf-8")
    index = WebSearch(backend="local", folder=str(folder), url=BASE)
    return changed(scripted_in(tmp_path_factory.mktemp("store")), tools={"web_search": index})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(searching: Settings) -> AsyncIterator[Place]:
    """One server for all tests: none looks at what another one stored."""
    async with website(PAGES) as site:
        settings = changed(searching, fetch={"allow": (f"127.0.0.1:{site.port}",)})
        async with serve(settings) as url:
            yield Place(url, f"http://127.0.0.1:{site.port}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sdk(place: Place) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=place.url, api_key="none", max_retries=0, timeout=WAIT_S) as client:
        yield client


CITED = f"{call('web_search', query='interest rate')} => say Die Rate – 🏦 ist 3,5 %{mark_of(RATE)}. Sure【zzzz9】."
ACTION = {"type": "search", "queries": ["interest rate"], "query": "interest rate"}
TEXT = f"Die Rate – 🏦 ist 3,5 % ([bank.example]({RATE})). Sure."


# -- stream, wait and background


def assert_cited(response: Any) -> None:
    search, message = response.output
    assert (search.type, search.status, search.id[:3]) == ("web_search_call", "completed", "ws_")
    assert search.action.to_dict() == ACTION
    [part] = message.content
    assert part.text == TEXT
    [citation] = part.annotations
    assert part.text[citation.start_index : citation.end_index] == f"([bank.example]({RATE}))"
    assert (citation.type, citation.url, citation.title) == ("url_citation", RATE, "The Rate – Bank")
    assert response.tool_usage.web_search.num_requests == 1


async def test_an_answer_cites_what_a_search_found(sdk: openai.AsyncOpenAI) -> None:
    assert_cited(await sdk.responses.create(model="scripted", input=CITED, tools=[{"type": "web_search"}]))


async def test_it_cites_while_it_streams(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.responses.stream(model="scripted", input=CITED, tools=[{"type": "web_search"}]) as stream:
        kinds = [event.type async for event in stream]
        assert_cited(await stream.get_final_response())

    assert kinds.count("response.output_text.annotation.added") == 1


async def test_it_cites_in_the_background(sdk: openai.AsyncOpenAI) -> None:
    queued = await sdk.responses.create(model="scripted", input=CITED, tools=[{"type": "web_search"}], background=True)
    async with asyncio.timeout(WAIT_S):
        while queued.status in {"queued", "in_progress"}:
            queued = await sdk.responses.retrieve(queued.id)

    assert_cited(queued)


# -- the wire


async def test_a_stream_is_lawful_whoever_reads_it(place: Place) -> None:
    for include in ([], [SOURCES], [SOURCES, RESULTS]):
        answer = await create(place.url, input=CITED, tools=[SEARCH], stream=True, include=include)
        wirecheck.openai(answer)


async def test_its_events_are_of_the_kinds_and_in_the_order_of_the_recordings(place: Place) -> None:
    script = (
        f"think a | {call('web_search', query='rate')} => think b | {call('web_search', query='cut')} => think c | "
    )
    said = f"say So it is.{mark_of(RATE)} And so on."
    async with streaming(place.url, input=script + said, tools=[SEARCH]) as one:
        await one.head()
        ours = events_of(await one.frames())

    recorded = list(events("openai-responses/builtin-tool-web_search-stream"))
    assert searches(ours) == searches(recorded)
    assert searches(ours)["added"] == [{"id", "type", "status"}] * 2
    assert shape(ours) == shape(recorded)
    for told in (ours, recorded):
        added = next(event for event in told if event["type"] == "response.output_text.annotation.added")
        assert added.keys() == {*PLACE, "annotation", "annotation_index"}


PLACE = ("type", "sequence_number", "item_id", "output_index", "content_index")


def searches(told: list[Any]) -> dict[str, list[Any]]:
    """What is told of searches: kinds of events in order, and keys of items."""
    items = {event["output_index"] for event in told if event.get("item", {}).get("type") == "web_search_call"}
    events_ = [event for event in told if event.get("output_index") in items]
    keys = {kind: [set(one["item"]) for one in events_ if one["type"].endswith(kind)] for kind in ("added", "done")}
    return {"kinds": [event["type"] for event in events_], **keys}


def shape(told: list[Any]) -> list[str]:
    """The kinds of events, without thoughts, whose words the original hides, and with each run of deltas as one."""
    thoughts = {event["output_index"] for event in told if event.get("item", {}).get("type") == "reasoning"}
    kinds = [event["type"] for event in told if event.get("output_index") not in thoughts]
    return [kind for at, kind in enumerate(kinds) if kinds[at - 1 : at] != [kind]][:20]


async def test_what_was_found_is_shown_to_those_who_ask_for_it(place: Place) -> None:
    created = await create(place.url, input=CITED, tools=[SEARCH], include=[SOURCES])
    path = f"/v1/responses/{created.value['id']}"
    plain = (await ask(place.url, "GET", path)).value["output"][0]
    whole = (await ask(place.url, "GET", f"{path}?include={RESULTS}&include={SOURCES}")).value["output"][0]
    listed = (await ask(place.url, "GET", "/v1/responses")).value["data"][0]["output"][0]

    assert created.value["output"][0].keys() == plain.keys() == listed.keys() == {"type", "id", "status", "action"}
    assert created.value["output"][0]["action"]["sources"] == [{"type": "url", "url": RATE}]
    assert plain["action"] == listed["action"] == ACTION
    [result] = whole["results"]
    assert (result["url"], result["title"]) == (RATE, "The Rate – Bank")
    assert "3.50 %” – 3.75 %." in result["text"]
    assert whole["action"]["sources"] == [{"type": "url", "url": RATE}]


@pytest.mark.parametrize("include", ["", f"&include={RESULTS}"])
async def test_a_background_stream_shows_it_to_those_who_ask_for_it(place: Place, include: str) -> None:
    asked = parsed((await create(place.url, input=CITED, tools=[SEARCH], background=True, stream=True)).body)
    response_id = final(asked)["id"]
    again = final(await polled(place).frames(response_id, include))

    assert "results" not in final(asked)["output"][0]
    assert ("results" in again["output"][0]) is bool(include)


async def test_items_of_inputs_and_conversations_show_it_to_those_who_ask_for_it(place: Place) -> None:
    conversation = (await ask(place.url, "POST", "/v1/conversations", {})).value["id"]
    first = (await create(place.url, input=CITED, tools=[SEARCH], conversation=conversation)).value
    second = await create(place.url, input=CITED, tools=[SEARCH])
    third = (await create(place.url, input="hi", previous_response_id=second.value["id"])).value["id"]
    item = f"/v1/conversations/{conversation}/items/{first['output'][0]['id']}"

    for path in (f"/v1/conversations/{conversation}/items", f"/v1/responses/{third}/input_items", item):
        for include, is_there in (("", False), (f"?include={RESULTS}", True)):
            value = (await ask(place.url, "GET", path + include)).value
            [search] = [one for one in value.get("data", [value]) if one["type"] == "web_search_call"]
            assert ("results" in search) is is_there, path
            assert "sources" not in search["action"]


def polled(place: Place) -> Node:
    return Node(place.url, Played())


async def test_open_responses_reads_it_under_a_name_of_this_servers_own(place: Place) -> None:
    created = (await create(place.url, input=CITED, tools=[SEARCH])).value["id"]
    answer = await ask(place.url, "GET", f"/openresponses/v1/responses/{created}")

    wirecheck.openresponses(answer)
    assert [item["type"] for item in answer.value["output"]] == ["antiphon:web_search_call", "message"]
    assert "tool_usage" not in answer.value


# -- what the model is told


async def told(place: Place, *path: str | int, **fields: Any) -> Any:
    """What it is told at that path."""
    answer = await create(place.url, **{"input": f"tell {'.'.join(map(str, path))}", **fields})
    return json.loads("".join(part["text"] for item in answer.value["output"] for part in item.get("content", ())))


async def outcome(place: Place, *calls: str, **tool: Any) -> list[tuple[str, str]]:
    """How each call ended, and what the model was told of it."""
    answer = (await create(place.url, input=" | ".join(calls), tools=[SEARCH | tool], include=[RESULTS])).value
    items = [item for item in answer["output"] if item["type"] == "web_search_call"]
    assert len(items) == len(calls)
    return [(item["status"], told_of(item)) for item in items]


def told_of(item: Any) -> str:
    return "\n".join([*(result["text"] for result in item["results"]), *([item["note"]] if "note" in item else [])])


async def test_the_model_is_told_the_same_in_later_turns(place: Place) -> None:
    first = (await create(place.url, input=call("web_search", query="interest rate"), tools=[SEARCH])).value
    heard = first["output"][-1]["content"][0]["text"]
    again = await told(place, "items", 2, "output", previous_response_id=first["id"])

    assert mark_of(RATE) not in heard  # which a reader sees as a link
    assert f"([bank.example]({RATE}))" in again
    assert heard.split(")) ", 1)[1] == again.split(")) ", 1)[1]
    assert await told(place, "items", 1, "arguments", previous_response_id=first["id"]) == '{"query":"interest rate"}'


async def test_a_citation_of_what_an_earlier_turn_found_is_one(place: Place) -> None:
    first = (await create(place.url, input=call("web_search", query="interest rate"), tools=[SEARCH])).value
    later = (await create(place.url, input=f"say still{mark_of(RATE)}", previous_response_id=first["id"])).value

    assert later["output"][0]["content"][0]["annotations"][0]["url"] == RATE


async def test_a_search_that_is_sent_back_without_its_results_is_told_to_be_gone(place: Place) -> None:
    kept = (await create(place.url, input=CITED, tools=[SEARCH], store=False)).value["output"]
    asked = [{"role": "user", "content": "q"}, *kept, {"role": "user", "content": "tell items.2.output"}]
    answer = (await create(place.url, input=asked)).value

    assert "no longer at hand" in answer["output"][0]["content"][0]["text"]


async def test_one_that_is_sent_back_whole_is_told_whole(place: Place) -> None:
    kept = (await create(place.url, input=CITED, tools=[SEARCH], store=False, include=[RESULTS])).value["output"]
    asked = [{"role": "user", "content": "q"}, *kept, {"role": "user", "content": f"say so{mark_of(RATE)}"}]
    answer = (await create(place.url, input=asked)).value

    assert answer["output"][0]["content"][0]["annotations"][0]["url"] == RATE


async def test_in_an_answer_that_must_fit_a_schema_nothing_is_cited(place: Place) -> None:
    schema = {"type": "object", "properties": {"rate": {"type": "string"}}, "required": ["rate"]}
    form = {"type": "json_schema", "name": "r", "schema": schema, "strict": True}
    script = f'{call("web_search", query="rate")} => say {{"rate":"3.5{mark_of(RATE)}"}}'
    answer = (await create(place.url, input=script, tools=[SEARCH], text={"format": form})).value

    [part] = answer["output"][-1]["content"]
    assert (part["text"], part["annotations"]) == ('{"rate":"3.5"}', [])


async def test_several_queries_are_searched_in_one_call(place: Place) -> None:
    script = call("web_search", query="leave", queries=["interest rate", "leave"])
    answer = (await create(place.url, input=script, tools=[SEARCH], include=[SOURCES])).value

    action = answer["output"][0]["action"]
    assert action["queries"] == ["leave", "interest rate"]
    assert [source["url"] for source in action["sources"]] == [f"{BASE}/deep/leave.md", RATE]
    assert answer["tool_usage"]["web_search"]["num_requests"] == 2


async def test_calls_of_one_turn_count_for_max_tool_calls(place: Place) -> None:
    script = f"{call('web_search', query='rate')} | {call('web_search', query='leave')} => say done"
    answer = (await create(place.url, input=script, tools=[SEARCH], max_tool_calls=1)).value

    assert [item["type"] for item in answer["output"]] == ["web_search_call", "message"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("web_search", {}),
        ("web_search", {"query": "  "}),
        ("web_search", {"query": 5}),
        ("web_open_page", {}),
        ("web_open_page", {"url": ""}),
        ("web_find_in_page", {"url": "https://a.example/", "pattern": " "}),
    ],
)
async def test_a_call_that_is_none_is_told_to_the_model_which_mends_it(
    place: Place, name: str, arguments: dict[str, Any]
) -> None:
    script = f"{call(name, **arguments)} => {call('web_search', query='rate')} => say done"
    answer = (await create(place.url, input=script, tools=[SEARCH])).value

    assert [item["type"] for item in answer["output"]] == ["web_search_call", "message"]


# -- pages


async def test_a_page_is_opened_in_parts_and_what_stands_around_it_is_left_out(place: Place) -> None:
    page = f"{place.site}/report"
    [(_, first), (_, second), (_, last)] = await outcome(
        place,
        call("web_open_page", url=page),
        call("web_open_page", url=page, part=2),
        call("web_open_page", url=page, part=99),
        search_context_size="low",
    )

    assert "Paragraph 0 of the long report" in first
    assert "Log in" not in first
    assert "alert" not in first
    assert "Part 1 of " in first
    assert "Ask for part 2" in first
    assert "Paragraph 0 of" not in second
    assert "Paragraph 100 of" in second
    assert "has no part 99" in last


async def test_what_is_found_in_a_page_is_told_with_what_stands_around(place: Place) -> None:
    [(ended, found), (_, nothing)] = await outcome(
        place,
        call("web_find_in_page", url=f"{place.site}/report", pattern="17  TIMES 17"),
        call("web_find_in_page", url=f"{place.site}/report", pattern="seventeen"),
    )

    assert ended == "completed"
    assert "says that 17 times 17 is 289." in found
    assert "do not stand" in nothing


async def test_actions_are_recorded_as_in_the_recordings(place: Place) -> None:
    page = f"{place.site}/plain.txt"
    script = f"{call('web_open_page', url=page)} | {call('web_find_in_page', url=page, pattern='text')}"
    answer = (await create(place.url, input=script, tools=[SEARCH])).value

    assert [item["action"] for item in answer["output"][:2]] == [
        {"type": "open_page", "url": page},
        {"type": "find_in_page", "url": page, "pattern": "text"},
    ]
    assert answer["tool_usage"]["web_search"]["num_requests"] == 0


@pytest.mark.parametrize(
    ("path", "why"), [("/picture", "media type"), ("/nowhere", "404"), ("", "404")], ids=lambda one: str(one) or "root"
)
async def test_a_page_that_cannot_be_read_fails_its_call_and_the_model_hears_why(
    place: Place, path: str, why: str
) -> None:
    [(ended, heard)] = await outcome(place, call("web_open_page", url=place.site + path))

    assert ended == "failed"
    assert why in heard


async def test_a_failed_call_has_no_event_of_its_own(place: Place) -> None:
    script = f"{call('web_open_page', url='ftp://a.example/')} => say so"
    answer = await create(place.url, input=script, tools=[SEARCH], stream=True)

    wirecheck.openai(answer)
    kinds = [event["type"] for event in events_of(parsed(answer.body)) if "web_search" in event["type"]]
    assert kinds == [f"response.web_search_call.{status}" for status in ("in_progress", "searching")]


async def test_what_is_not_public_is_not_opened_unless_the_operator_allows_it(searching: Settings) -> None:
    async with website(PAGES) as site, serve(searching) as url:
        inside = f"http://127.0.0.1:{site.port}/report"
        [(ended, heard)] = await outcome(Place(url, ""), call("web_open_page", url=inside))

        assert ended == "failed"
        assert "may not be reached from here" in heard
        assert site.asked == []


async def test_where_nothing_is_fetched_no_page_is_opened_but_those_of_the_index(searching: Settings) -> None:
    async with serve(changed(searching, fetch={"enabled": False})) as url:
        [(ended, heard), (opened, _)] = await outcome(
            Place(url, ""), call("web_open_page", url="https://a.example/"), call("web_open_page", url=RATE)
        )

    assert (ended, opened) == ("failed", "completed")
    assert "fetches no addresses" in heard


# -- what a request allows


async def test_domains_bound_searches_pages_and_where_they_lead(place: Place) -> None:
    away, leave = f"{place.site}/away", f"{BASE}/deep/leave.md"
    calls = (call("web_search", query="leave"), call("web_open_page", url=leave), call("web_open_page", url=away))
    only_bank = await outcome(place, *calls, filters={"allowed_domains": ["bank.example"]})
    not_bank = await outcome(place, *calls, filters={"blocked_domains": ["example"]})

    assert [ended for ended, _ in only_bank] == ["completed", "completed", "failed"]
    assert [ended for ended, _ in not_bank] == ["completed", "failed", "completed"]
    assert not_bank[0][1] == "Nothing was found."


async def test_without_access_to_the_web_only_what_is_at_hand_is_opened(place: Place) -> None:
    page = f"{place.site}/fresh"
    calls = (call("web_search", query="leave"), call("web_open_page", url=RATE), call("web_open_page", url=page))
    before = await outcome(place, *calls, external_web_access=False)
    await outcome(place, call("web_open_page", url=page))
    after = await outcome(place, *calls, external_web_access=False)

    assert [ended for ended, _ in before] == ["completed", "completed", "failed"]
    assert [ended for ended, _ in after] == ["completed", "completed", "completed"]


async def test_the_size_of_the_context_bounds_what_is_told(place: Place) -> None:
    page = call("web_open_page", url=f"{place.site}/report")
    sizes = [len((await outcome(place, page, search_context_size=size))[0][1]) for size in ("low", "medium", "high")]

    assert sizes[0] < 4_200 < sizes[1] < 10_200 < sizes[2]


# -- where it is not there, or cannot be


async def test_where_it_is_not_set_up_it_is_left_out_and_named(tmp_path: Path) -> None:
    async with serve(scripted_in(tmp_path)) as url:
        offered = await create(url, tools=[SEARCH])
        forced = await create(url, tools=[SEARCH], tool_choice={"type": "web_search"})

    assert offered.headers["antiphon-omitted-tools"] == "web_search"
    assert offered.value["tools"] == []
    assert "tool_usage" not in offered.value
    assert forced.refusal == (400, None, "tool_choice")
    assert "[tools.web_search] backend" in forced.error["message"]


async def test_under_strict_it_is_refused_with_what_to_set(tmp_path: Path) -> None:
    async with serve(changed(scripted_in(tmp_path), server={"strict": True})) as url:
        answer = await create(url, tools=[SEARCH])

    assert answer.refusal == (400, "unsupported_parameter", "tools")
    assert "[tools.web_search] backend" in answer.error["message"]


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([SEARCH, {"type": "function", "name": "web_open_page", "parameters": {}}], "tools[1].name"),
        ([{"type": "function", "name": "web_search", "parameters": {}}, SEARCH], "tools[1]"),
        ([SEARCH, SEARCH | {"type": "web_search_preview"}], "tools[1]"),
        ([SEARCH | {"user_location": {"country": "Germany"}}], "tools[0].user_location.country"),
        ([SEARCH | {"filters": {"allowed_domains": ["https://a.example"]}}], "tools[0].filters.allowed_domains[0]"),
        ([SEARCH | {"search_context_size": "huge"}], "tools[0].search_context_size"),
        (
            [{"type": "web_search_preview", "search_content_types": ["image"]}],
            "tools[0].search_content_types",
        ),
    ],
)
async def test_a_declaration_that_cannot_be_is_refused_by_its_place(place: Place, tools: Any, param: str) -> None:
    answer = await create(place.url, tools=tools)

    assert (answer.status, answer.error["param"]) == (400, param)


async def test_the_users_place_is_the_us_unless_told_otherwise(place: Place) -> None:
    nowhere = SEARCH | {"user_location": {"type": "approximate", "country": None}}
    answers = [(await create(place.url, tools=[tool])).value["tools"][0] for tool in (SEARCH, nowhere)]

    assert answers[0] == {
        "type": "web_search",
        "filters": None,
        "search_context_size": "medium",
        "user_location": {"type": "approximate", "city": None, "country": "US", "region": None, "timezone": None},
    }
    assert answers[1]["user_location"]["country"] is None


# -- laws, and another model


@pytest.mark.parametrize("ends", ["completed", "failed", None])
async def test_every_prefix_of_a_search_adds_up_to_what_the_builder_shows(ends: Any) -> None:
    """Also of one that is cut short, which has its action all the same."""
    numbers = iter(range(100))
    skeleton = Response(id="resp_1", created_at=1, status="in_progress", model="m", tools=(WebSearchTool(),))
    builder = Builder(skeleton, lambda prefix: f"{prefix}_{next(numbers)}")
    fold, call_ = Fold(), WebSearchCall(status="in_progress", action=SearchWeb(query="q", queries=("q",)))

    def check() -> None:
        for event in builder.take():
            fold.feed(json.loads(codec.encode(event)))
        assert fold.response == json.loads(codec.encode(builder.response))

    builder.start()
    index = builder.begin(call_)
    check()
    builder.progress(index, "searching")
    check()
    if ends:
        builder.outcome(index, structs.replace(builder.running(index), status=ends, results=(), note="n"))
        check()
    builder.abandon()
    builder.append(builder.propose("cancelled"))
    check()
    assert fold.response["output"][0]["action"] == {"type": "search", "queries": ["q"], "query": "q"}
    assert fold.response["output"][0]["status"] == (ends or "incomplete")


async def test_the_embedded_model_searches_when_it_must(searching: Settings) -> None:
    async with serve(structs.replace(searching, models=())) as url:
        answer = await create(url, model="antiphon-tiny", tools=[SEARCH], tool_choice="required", max_output_tokens=200)

    assert answer.value["output"][0]["type"] == "web_search_call"
    assert answer.value["output"][0]["action"]["type"] == "search"
    assert answer.value["output"][-1]["type"] == "message"
