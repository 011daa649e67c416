"""What a store must do with background responses: who makes them, what they told, and the fence between attempts."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from antiphon.core.ports import Lock, ResponseQuery, Store
from antiphon.core.runs import Claimed, EventTime, Lease, NewRun, Ticket
from antiphon.errors import ConversationLocked
from antiphon.wire.conversation import Conversation
from antiphon.wire.events import (
    Event,
    HostedStatus,
    OutputTextDelta,
    ResponseCompleted,
    ResponseCreated,
    ResponseQueued,
)
from antiphon.wire.formats import JsonSchemaFormat
from antiphon.wire.request import CreateResponse, TextOptions
from antiphon.wire.response import ConversationUse, Response
from antiphon.wire.tools import FunctionTool, NamedFunction
from tests.conftest import WAIT_S
from tests.test_store import KINDS, answer, bounded, ids, made, open_file, opened, said, turn

__all__ = ["bounded"]

NOW = 1_000_000
T = 1_700_000_100_000
"""When a response ends, in Unix milliseconds."""
SOON = NOW + 10_000
A, B = Lease(owner="a", until_ms=SOON), Lease(owner="b", until_ms=SOON + 10_000)
REQUEST = CreateResponse(
    model="m",
    background=True,
    stream=True,
    tools=(FunctionTool(name="f", parameters={"type": "object"}, strict=True, description="d"),),
    tool_choice=NamedFunction(name="f"),
    text=TextOptions(format=JsonSchemaFormat(name="n", schema={"type": "object"}, strict=True)),
    metadata={"colour": "red"},
    temperature=0.5,
)


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = opened(request, tmp_path)
    yield store
    await store.close()


def queued(name: str, after: str | None = None, **fields: Any) -> Response:
    return replace(made(name, after, **fields), status="queued", output=(), background=True)


def run_of(name: str, after: str | None = None, *, streams: bool = True, **fields: Any) -> NewRun:
    response = queued(name, after, **fields)
    opening = (ResponseCreated(0, response), ResponseQueued(1, response)) if streams else ()
    return NewRun(
        response=response, request=REQUEST, given=(said(f"in_{name}"),), history=(), opening=opening, now_ms=NOW
    )


async def added(store: Store, *names: str, project: str = "p", **fields: Any) -> None:
    for name in names:
        assert await store.runs.add(project, run_of(name, **fields), queue_max=100, per_project_max=100)


async def claimed(store: Store, lease: Lease = A, now_ms: int = NOW, most: int = 100, each: int = 100) -> list[Claimed]:
    return list(await store.runs.claim(lease, now_ms, runs_max=most, per_project_max=each))


async def begun(store: Store, name: str = "x", **fields: Any) -> Ticket:
    await added(store, name, **fields)
    (one,) = await claimed(store)
    return one.ticket


def deltas(*numbers: int) -> list[Event]:
    return [OutputTextDelta(number, "msg_1", 0, 0, f"word {number}") for number in numbers]


def ended(name: str = "x", **fields: Any) -> Response:
    return replace(queued(name, **fields), status="completed", output=(answer(f"out_{name}"),))


async def times(store: Store, name: str = "x", after: int = -1, limit: int = 100) -> list[EventTime]:
    return [*await store.runs.times("p", f"resp_{name}", after, limit)]


async def numbers(store: Store, name: str = "x", after: int = -1, limit: int = 100) -> list[int]:
    return [one.sequence_number for one in await store.runs.events("p", f"resp_{name}", after, limit)]


# -- from the beginning it is a stored response


async def test_a_queued_response_is_found_listed_and_shows_its_input(store: Store) -> None:
    await turn(store, "parent")
    await added(store, "x", after="parent", metadata={"colour": "red"})
    query = ResponseQuery(metadata=(("colour", "red"),), status="queued", limit=10, order="asc")
    children = ResponseQuery(previous_response_id="resp_parent", limit=10, order="asc")
    page = await store.input_items("p", "resp_x", limit=10, order="asc", after=None)

    assert await store.response("p", "resp_x") == queued("x", "parent", metadata={"colour": "red"})
    assert [one.id for one in (await store.responses("p", query)).responses] == ["resp_x"]
    assert [one.id for one in (await store.responses("p", children)).responses] == ["resp_x"]
    assert page is not None
    assert ids(page.items) == ["in_parent", "out_parent", "in_x"]
    assert await store.response("q", "resp_x") is None
    assert await store.runs.standing("q", "resp_x") is None


async def test_what_it_tells_first_is_written_with_it(store: Store) -> None:
    await added(store, "x")
    await added(store, "y", streams=False)

    assert await store.runs.events("p", "resp_x", -1, 10) == list(run_of("x").opening)
    assert await numbers(store, "y") == []
    standing = await store.runs.standing("p", "resp_x")
    assert standing is not None
    assert (standing.streams, standing.is_over, standing.last_number) == (True, False, 1)
    assert not (await store.runs.standing("p", "resp_y")).streams  # type: ignore[union-attr] # it is there


async def test_a_response_of_the_foreground_has_no_run(store: Store) -> None:
    await turn(store, "x")

    assert await store.runs.standing("p", "resp_x") is None
    assert await store.runs.seize("p", "resp_x", A) is None
    assert await claimed(store) == []


async def test_a_full_queue_takes_nothing_more(store: Store) -> None:
    one = partial(store.runs.add, queue_max=1, per_project_max=9)
    assert await one("p", run_of("x"))
    assert not await one("q", run_of("y"))
    assert await store.response("q", "resp_y") is None
    await claimed(store)

    assert await one("q", run_of("y"))


async def test_a_project_cannot_fill_the_queue(store: Store) -> None:
    one = partial(store.runs.add, queue_max=9, per_project_max=1)
    assert await one("p", run_of("x"))
    assert not await one("p", run_of("y"))
    assert await one("q", run_of("y"))
    await claimed(store)

    assert await one("p", run_of("y"))


# -- who makes it


async def test_a_claim_hands_over_all_that_is_needed_to_make_it(store: Store) -> None:
    await added(store, "x", metadata={"colour": "red"})
    (one,) = await claimed(store)
    stored = await store.response("p", "resp_x")

    assert one.ticket == Ticket(project="p", response_id="resp_x", attempt=1)
    assert (one.request, one.given, one.streams) == (REQUEST, (said("in_x"),), True)
    assert one.response == replace(queued("x", metadata={"colour": "red"}), status="in_progress") == stored


async def test_the_oldest_is_claimed_first_and_each_once(store: Store) -> None:
    await added(store, "x", "y", "z")
    first, second = await claimed(store, most=2), await claimed(store, B)

    assert [one.ticket.response_id for one in first] == ["resp_x", "resp_y"]
    assert [one.ticket.response_id for one in second] == ["resp_z"]
    assert await claimed(store) == []


async def test_a_project_that_has_enough_under_way_waits_and_others_do_not(store: Store) -> None:
    await added(store, "a", "b", "c")
    await added(store, "d", project="q")
    first = await claimed(store, each=2)
    ticket = first[0].ticket

    assert [one.ticket.response_id for one in first] == ["resp_a", "resp_b", "resp_d"]
    assert await claimed(store, B, each=2) == []
    assert await store.runs.finish(ticket, ended("a"), (), T)
    assert [one.ticket.response_id for one in await claimed(store, B, each=2)] == ["resp_c"]


async def test_a_lease_that_ended_is_taken_over_and_one_that_was_renewed_is_not(store: Store) -> None:
    await added(store, "x", "y")
    x, y = [one.ticket for one in await claimed(store)]
    await store.runs.renew([y], B)
    (taken,) = await claimed(store, B, now_ms=SOON)

    assert taken.ticket == replace(x, attempt=2)
    assert await store.runs.held("a") == frozenset()
    assert await store.runs.held("b") == {taken.ticket, y}


async def test_what_is_released_is_free_at_once(store: Store) -> None:
    ticket = await begun(store)
    await store.runs.release([ticket])

    assert [one.ticket.attempt for one in await claimed(store, B)] == [2]


async def test_who_lost_a_run_renews_and_releases_nothing(store: Store) -> None:
    ticket = await begun(store)
    await claimed(store, B, now_ms=SOON)
    await store.runs.renew([ticket], replace(A, until_ms=SOON * 2))
    await store.runs.release([ticket])

    assert await store.runs.held("b") == {replace(ticket, attempt=2)}
    assert await claimed(store, A, now_ms=SOON + 1) == []


async def test_one_that_is_made_can_be_seized(store: Store) -> None:
    ticket = await begun(store)
    seized = await store.runs.seize("p", "resp_x", B)

    assert seized is not None
    assert seized.ticket == replace(ticket, attempt=2)
    assert await store.runs.seize("q", "resp_x", B) is None


# -- what it tells


async def test_events_are_read_behind_a_number_and_in_pages(store: Store) -> None:
    ticket = await begun(store)
    hosted = HostedStatus("response.antiphon:scripted_call.searching", 5, "id", 1)
    assert await store.runs.append(ticket, deltas(2, 3, 4), NOW, SOON)
    assert await store.runs.append(ticket, [hosted], NOW, SOON)

    assert await numbers(store) == [0, 1, 2, 3, 4, 5]
    assert await numbers(store, after=1, limit=2) == [2, 3]
    assert await store.runs.events("p", "resp_x", 3, 10) == [*deltas(4), hosted]
    assert not await store.runs.events("q", "resp_x", -1, 10)
    standing = await store.runs.standing("p", "resp_x")
    assert standing is not None
    assert standing.last_number == 5


async def test_what_is_written_together_has_one_time(store: Store) -> None:
    ticket = await begun(store)
    assert await store.runs.append(ticket, deltas(2, 3, 4), NOW + 10, SOON)
    (later,) = await claimed(store, B, now_ms=SOON)
    assert not await store.runs.append(ticket, deltas(5), NOW + 20, SOON)
    assert await store.runs.append(later.ticket, deltas(5), NOW + 20, SOON)
    assert await store.runs.finish(later.ticket, ended(), deltas(6, 7), T)

    assert await times(store) == [(0, NOW), (2, NOW + 10), (5, NOW + 20), (6, T)]
    assert await times(store, after=2, limit=1) == [(5, NOW + 20)]
    assert await times(store, after=3) == [(5, NOW + 20), (6, T)]
    assert not await store.runs.times("q", "resp_x", -1, 100)


async def test_what_is_written_renews_the_lease(store: Store) -> None:
    ticket = await begun(store)
    await store.runs.append(ticket, deltas(2), NOW, SOON + 5)

    assert await claimed(store, B, now_ms=SOON) == []
    assert len(await claimed(store, B, now_ms=SOON + 5)) == 1


async def test_an_attempt_that_is_not_the_last_writes_nothing(store: Store) -> None:
    ticket = await begun(store)
    (later,) = await claimed(store, B, now_ms=SOON)

    assert not await store.runs.append(ticket, deltas(2), NOW, SOON)
    assert not await store.runs.finish(ticket, ended(), deltas(2), T)
    assert await numbers(store) == [0, 1]
    assert (await store.response("p", "resp_x")).status == "in_progress"  # type: ignore[union-attr] # it is there
    assert await store.runs.append(later.ticket, deltas(2), NOW, SOON)
    assert await numbers(store) == [0, 1, 2]


# -- its end


async def test_the_end_is_a_stored_response_like_any_other(store: Store) -> None:
    await turn(store, "parent")
    ticket = await begun(store, after="parent", metadata={"colour": "red"})
    response = ended(after="parent", metadata={"colour": "red"})
    last = ResponseCompleted(2, response)
    assert await store.runs.finish(ticket, response, [last], T)
    child = await turn(store, "child", after="x")

    assert await store.response("p", "resp_x") == response
    assert (await store.runs.events("p", "resp_x", 1, 10)) == [last]
    assert ids(await store.context("p", child.id)) == [
        *("in_parent", "out_parent", "in_x", "out_x", "in_child", "out_child")
    ]
    standing = await store.runs.standing("p", "resp_x")
    assert standing is not None
    assert (standing.is_over, standing.last_number) == (True, 2)


async def test_what_is_over_is_not_made_again(store: Store) -> None:
    ticket = await begun(store)
    await store.runs.finish(ticket, ended(), (), T)

    assert await claimed(store, B, now_ms=SOON * 2) == []
    assert await store.runs.seize("p", "resp_x", B) is None
    assert not await store.runs.append(ticket, deltas(2), NOW, SOON)
    assert not await store.runs.finish(ticket, ended(), (), T)
    assert await store.runs.held("a") == frozenset()


async def test_events_that_nobody_streams_go_with_the_end(store: Store) -> None:
    ticket = await begun(store, streams=False)
    await store.runs.append(ticket, deltas(2), NOW, SOON)
    assert await numbers(store) == [2]
    await store.runs.finish(ticket, ended(), deltas(3), T)

    assert await numbers(store) == []
    assert await times(store) == []


async def test_a_deleted_response_leaves_neither_run_nor_events(store: Store) -> None:
    await store.runs.finish(await begun(store), ended(), deltas(2), T)
    assert await store.delete("p", "resp_x")

    assert await store.runs.standing("p", "resp_x") is None
    assert await numbers(store) == []
    await added(store, "x")
    assert await numbers(store) == [0, 1]


async def test_a_parent_erased_meanwhile_takes_nothing_away(store: Store) -> None:
    await turn(store, "parent")
    ticket = await begun(store, after="parent")
    await store.delete("p", "resp_parent")
    await store.runs.finish(ticket, ended(after="parent"), (), T)

    assert ids(await store.context("p", "resp_x")) == ["in_parent", "out_parent", "in_x", "out_x"]


async def test_a_history_of_an_erased_parent_is_no_part_of_what_was_given(store: Store) -> None:
    run = replace(run_of("x", "gone"), history=(said("in_gone"),))
    assert await store.runs.add("p", run, queue_max=10, per_project_max=10)
    (one,) = await claimed(store)

    assert one.given == (said("in_x"),)
    assert ids(await store.context("p", "resp_x")) == ["in_gone", "in_x"]


# -- in a conversation


async def in_conversation(store: Store) -> Ticket:
    await store.conversations.add("p", Conversation(id="conv_a", created_at=1), [said("first")])
    lock = Lock(project="p", conversation_id="conv_a", response_id="resp_x")
    await store.conversations.lock(lock, version=await store.conversations.version("p", "conv_a"), now=1, until=31)
    return await begun(store, conversation=ConversationUse(id="conv_a"))


async def test_its_conversation_is_locked_until_its_end(store: Store) -> None:
    ticket = await in_conversation(store)
    with pytest.raises(ConversationLocked):
        await store.conversations.add_items("p", "conv_a", [said("b")], ["spare"], now=10**9)
    await store.runs.finish(ticket, ended(conversation=ConversationUse(id="conv_a")), (), T)
    await store.conversations.add_items("p", "conv_a", [said("b")], ["spare"], now=2)

    _, items = await store.conversations.context("p", "conv_a")
    assert ids(items) == ["first", "in_x", "out_x", "b"]


async def test_one_that_failed_frees_its_conversation_and_leaves_nothing_there(store: Store) -> None:
    ticket = await in_conversation(store)
    failed = replace(ended(conversation=ConversationUse(id="conv_a")), status="failed")
    await store.runs.finish(ticket, failed, (), T)
    await store.conversations.add_items("p", "conv_a", [said("b")], ["spare"], now=2)

    _, items = await store.conversations.context("p", "conv_a")
    assert ids(items) == ["first", "b"]


# -- two processes on one file


async def test_another_process_is_told_of_what_was_written(tmp_path: Path) -> None:
    one, other = open_file(tmp_path), open_file(tmp_path)
    ticket = await begun(one)
    waiting = asyncio.create_task(other.runs.changed(10 * WAIT_S))
    await other.runs.changed(0.01)  # what was written before it looked
    await one.runs.append(ticket, deltas(2), NOW, SOON)
    await asyncio.wait_for(waiting, WAIT_S)

    assert await numbers(other) == [0, 1, 2]
    await other.close()
    await one.close()


async def test_two_processes_never_claim_the_same(tmp_path: Path) -> None:
    stores = [open_file(tmp_path), open_file(tmp_path)]
    await added(stores[0], *(f"x{number}" for number in range(40)))

    async def claim(store: Store, lease: Lease) -> Sequence[Claimed]:
        return [one for _ in range(20) for one in await claimed(store, lease, most=1)]

    both = await asyncio.gather(*map(claim, stores, (A, B)))
    got = [one.ticket.response_id for some in both for one in some]
    assert sorted(got) == sorted({f"resp_x{number}" for number in range(40)})
    for store in stores:
        await store.close()
