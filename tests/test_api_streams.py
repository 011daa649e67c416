"""A streamed response on the wire: its frames, its headers, its silences, and how it fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from antiphon.config import Settings
from antiphon.core.deltas import Finish, Text, Thought, ToolCall
from antiphon.engine.log import EventLog
from antiphon.errors import ApiError, ContextLengthExceeded, ModelError, ModelOverloaded
from antiphon.stores.memory import MemoryStore
from antiphon.wire.events import Event, OutputTextDelta
from tests.conftest import WAIT_S, changed, serve
from tests.rawclient import (
    COMMENT,
    DONE,
    Exchange,
    Frame,
    Played,
    ask,
    create,
    events_of,
    final,
    parsed,
    request,
    scripted_in,
    serving,
    streaming,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

STOP = Finish("stop")
TEXT = "response.output_text.delta"
OPENING = ["response.created", "response.in_progress"]
MESSAGE = ["response.output_item.added", "response.content_part.added"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One server of the scripted model for all that only ask it."""
    async with serve(scripted_in(tmp_path_factory.mktemp("streams"))) as address:
        yield address


@pytest.fixture
def played() -> Played:
    return Played()


@asynccontextmanager
async def stage(settings: Settings, played: Played, **limits: float) -> AsyncIterator[str]:
    """A server of the played model. It waits long for everything, unless it is told otherwise."""
    patient = {"first_byte_wait_s": WAIT_S, "keepalive_s": WAIT_S, "shutdown_grace_s": 0.1}
    settings = changed(settings, limits=patient | limits)
    async with serving(settings, MemoryStore(settings.storage, settings.limits), played) as address:
        yield address


def kinds(frames: list[Frame]) -> list[str | None]:
    return [frame.event for frame in frames]


async def whole(one: Exchange) -> list[Frame]:
    return await (await one.head()).frames()


# -- frames


async def test_a_stream_is_events_under_their_own_names_and_then_done(url: str) -> None:
    async with streaming(url, input="think hm | say one two | call f {}") as one:
        frames = await whole(one)

    assert frames[-1] == DONE
    assert all(frame.event == frame.data["type"] for frame in frames[:-1])
    assert [event["sequence_number"] for event in events_of(frames)] == list(range(len(frames) - 1))
    assert final(frames)["status"] == "completed"


async def test_a_stream_has_the_headers_that_clients_and_proxies_need(url: str) -> None:
    async with streaming(url) as one:
        await one.head()

    assert one.status == 200
    assert one.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert one.headers["cache-control"] == "no-cache"
    assert one.headers["x-accel-buffering"] == "no"
    assert one.headers["x-request-id"].startswith("req_")
    assert "content-length" not in one.headers


async def test_after_a_stream_the_connection_serves_on(url: str) -> None:
    async with streaming(url) as one:
        await whole(one)
        one.send("POST", "/v1/responses", request())

        assert (await one.answer()).value["status"] == "completed"


async def test_text_of_any_kind_stays_within_its_line(url: str) -> None:
    text = "a\r\nb\n\nevent: x\ndata: y\n\n\u2028\u2029\x85\0\N{PILE OF POO}"
    async with streaming(url, input=[{"role": "user", "content": text}]) as one:
        frames = await whole(one)

    assert final(frames)["output"][0]["content"][0]["text"] == text


async def test_each_batch_of_the_model_is_one_write(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played) as url, streaming(url, model="played") as one:
        played.say(Text("a"), Text("b"), Text("c"))
        await one.head()
        first = kinds(parsed(await one.piece()))
        played.say(Text("d"), Text("e"))
        second = kinds(parsed(await one.piece()))

    assert first == [*OPENING, *MESSAGE, TEXT, TEXT, TEXT]
    assert second == [TEXT, TEXT]


# -- stream_options


async def test_include_usage_adds_one_frame_that_is_no_event(url: str) -> None:
    async with streaming(url, stream_options={"include_usage": True}) as one:
        frames = await whole(one)

    *events, extra, done = frames
    assert done == DONE
    response = final([*events, done])
    assert events[-1].event == "response.completed"
    assert extra.event is None
    assert extra.data.keys() >= {"object", "id", "model", "choices", "usage"}
    assert {"sequence_number", "type"}.isdisjoint(extra.data)
    assert (extra.data["object"], extra.data["id"]) == ("response.chunk", response["id"])
    assert (extra.data["model"], extra.data["choices"]) == ("scripted", [])
    assert extra.data["usage"] == response["usage"] != None  # noqa: E711


@pytest.mark.parametrize("options", [{}, {"include_usage": False}, {"include_usage": None}, None])
async def test_without_include_usage_nothing_stands_between_the_end_and_done(url: str, options: Any) -> None:
    async with streaming(url, stream_options=options) as one:
        frames = await whole(one)

    assert kinds(frames[-2:]) == ["response.completed", None]


@pytest.mark.parametrize("stream", [False, None])
@pytest.mark.parametrize("options", [{}, {"include_usage": True}])
async def test_stream_options_without_a_stream_are_refused(url: str, stream: Any, options: Any) -> None:
    answer = await create(url, stream=stream, stream_options=options)

    assert answer.refusal == (400, None, "stream_options")


# -- silence


async def test_a_silent_stream_gets_comments_which_are_not_numbered(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played, keepalive_s=0.02) as url, streaming(url, model="played") as one:
        played.say(Text("a"))
        await one.head()
        said = await one.frames_until(TEXT)
        silence = [await one.frames_until(None), await one.frames_until(None)]
        played.say(STOP)
        rest = await one.frames()

    assert silence == [[COMMENT], [COMMENT]]
    assert final([*said, *rest])["status"] == "completed"


async def test_a_silent_model_holds_the_head_back_for_a_while_only(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played, first_byte_wait_s=0.02) as url, streaming(url, model="played") as one:
        await one.head()
        assert kinds(parsed(await one.piece())) == OPENING
        played.say(Text("late"), STOP)
        assert kinds(await one.frames())[-2:] == ["response.completed", None]


async def test_on_the_event_loop_that_serve_uses_no_head_is_held_back_for_ever(scripted: Settings) -> None:
    async def silences(wait_s: float) -> None:
        async with stage(scripted, Played(), first_byte_wait_s=wait_s) as url:
            for _ in range(25):  # whether a timer ends a hair before the deadline hangs on the time of day
                async with asyncio.timeout(WAIT_S), streaming(url, model="played") as one:
                    await one.head()

    def on_uvloop() -> None:
        with asyncio.Runner(loop_factory=uvloop.Loop) as runner:
            for wait_s in (0.005, 0.01, 0.02):
                runner.run(silences(wait_s))

    await asyncio.to_thread(on_uvloop)


# -- failures


FAILURES: list[tuple[ApiError, tuple[int, str | None, str | None]]] = [
    (ModelError("It broke."), (502, "server_error", None)),
    (ContextLengthExceeded(), (400, "context_length_exceeded", "input")),
    (ModelOverloaded(), (429, "rate_limit_exceeded", None)),
]


@pytest.mark.parametrize(("failure", "refusal"), FAILURES)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_first_token_has_an_http_status(
    scripted: Settings, played: Played, failure: ApiError, refusal: tuple[Any, ...], stream: bool
) -> None:
    async with stage(scripted, played) as url:
        played.fail(failure)
        answer = await create(url, model="played", stream=stream)

    assert answer.refusal == refusal
    assert answer.error["message"] == failure.message


@pytest.mark.parametrize("said", [(), (Text("a"),), (Thought("a"),), (ToolCall("0", '{"a', name="f"),)])
async def test_a_failure_after_the_head_ends_a_well_formed_stream(
    scripted: Settings, played: Played, said: tuple[Any, ...]
) -> None:
    async with stage(scripted, played, first_byte_wait_s=0.01) as url, streaming(url, model="played") as one:
        if said:
            played.say(*said)
        await one.head()
        opening = await one.frames_until(OPENING[-1])
        played.fail(ModelError("It broke."))
        response = final([*opening, *await one.frames()])
        stored = (await ask(url, "GET", f"/v1/responses/{response['id']}")).value

    assert one.status == 200
    assert (response["status"], response["error"]) == ("failed", {"code": "server_error", "message": "It broke."})
    assert [item["status"] for item in response["output"]] == ["incomplete"] * len(said)
    assert stored == response


async def test_a_failure_keeps_its_own_code_in_a_stream(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played) as url, streaming(url, model="played") as one:
        played.say(Text("a"))
        played.fail(ContextLengthExceeded())
        response = final(await whole(one))

    assert response["error"]["code"] == "context_length_exceeded"
    assert response["output"][0]["content"][0]["text"] == "a"


async def test_a_model_that_hangs_up_fails_the_response(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played) as url, streaming(url, model="played") as one:
        played.say(Text("a"))
        played.hang_up()
        response = final(await whole(one))

    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")


async def test_an_answer_that_grows_without_end_fails(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played, output_chars_max=10) as url, streaming(url, model="played") as one:
        played.say(Text("a" * 11))
        response = final(await whole(one))

    assert response["status"] == "failed"
    assert "limits.output_chars_max" in response["error"]["message"]
    assert played.is_over.is_set()


async def test_runs_beyond_the_limit_are_told_to_come_again(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played, runs_max=1) as url, streaming(url, model="played") as one:
        played.say(Text("a"))
        await one.head()
        refused = await create(url, model="played")
        played.say(STOP)
        await one.frames()
        played.say(Text("a"), STOP)
        served = await create(url, model="played")

    assert refused.refusal == (429, "rate_limit_exceeded", None)
    assert served.status == 200


# -- readers


async def test_a_reader_that_takes_nothing_does_not_stop_the_run(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played) as url, await Exchange.open(url, read_buffer_bytes=2048) as slow:
        slow.send("POST", "/v1/responses", request(model="played", stream=True))
        played.say(Text("a"))
        await slow.head()
        created = events_of(parsed(await slow.piece()))[0]["response"]
        for _ in range(250):  # five megabytes, more than the sockets between the two will hold
            played.say(Text("x" * 20_000))
        played.say(STOP)
        stored = await finished(url, created["id"])
        rest = await slow.frames()

    assert stored["status"] == "completed"
    assert [frame.event for frame in rest].count(TEXT) == 250
    assert rest[-1] == DONE


async def finished(url: str, response_id: str) -> Any:
    """The response, once it is no longer in progress."""
    async with asyncio.timeout(WAIT_S):
        while True:
            response = (await ask(url, "GET", f"/v1/responses/{response_id}")).value
            if response["status"] != "in_progress":
                return response


async def test_a_response_can_be_read_while_it_is_streamed(scripted: Settings, played: Played) -> None:
    async with stage(scripted, played) as url, streaming(url, model="played", metadata={"a": "b"}) as one:
        played.say(Text("one "), Text("two"))
        await one.head()
        first = parsed(await one.piece())
        path = f"/v1/responses/{first[0].data['response']['id']}"
        running = (await ask(url, "GET", path)).value
        given = (await ask(url, "GET", f"{path}/input_items")).value
        played.say(STOP)
        response = final([*first, *await one.frames()])
        stored = (await ask(url, "GET", path)).value

    assert (running["status"], running["usage"], running["metadata"]) == ("in_progress", None, {"a": "b"})
    assert running["output"][0]["status"] == "in_progress"
    assert given["data"][0]["content"] == [{"type": "input_text", "text": "say hello"}]
    assert stored == response


async def test_two_streams_at_once_do_not_mix(url: str) -> None:
    async with streaming(url, input="long 200") as one, streaming(url, input="think deeply | long 100") as two:
        first, second = map(final, await asyncio.gather(whole(one), whole(two)))

    assert first["id"] != second["id"]
    assert len(first["output"][0]["content"][0]["text"].split()) == 200
    assert [item["type"] for item in second["output"]] == ["reasoning", "message"]


async def test_two_readers_of_one_log_see_every_event_from_where_they_stand() -> None:
    log = EventLog()
    events = [OutputTextDelta(number, "msg_1", 0, 0, "x") for number in range(4)]
    log.extend(events[:1])

    async def read(known: int) -> list[Event]:
        seen: list[Event] = []
        while not log.closed or known < len(log.events):
            await log.wait(known)
            seen += log.events[known:]
            known = len(log.events)
        return seen

    early, late = asyncio.create_task(read(0)), asyncio.create_task(read(2))
    for event in events[1:]:
        log.extend([event])
        await asyncio.wait({early, late}, timeout=0)
    log.close()

    assert await asyncio.wait_for(early, WAIT_S) == events
    assert await asyncio.wait_for(late, WAIT_S) == events[2:]
