"""Runs in a database: the scripts on their rows, of either kind. Knows no driver, and no thread."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from typing import Final, NamedTuple, Protocol

from msgspec import UNSET
from msgspec.structs import replace

from antiphon.core.ports import FOR_EVER, JOINING, Lock
from antiphon.core.runs import Claimed, EventTime, Lease, NewRun, Standing, Ticket
from antiphon.errors import StorageError, Unreadable
from antiphon.stores import conversations, responses, sql
from antiphon.stores.script import Access, Query, Script, column_of, row_of, rows_of
from antiphon.wire import codec
from antiphon.wire.events import Event, Lifecycle
from antiphon.wire.items import Item
from antiphon.wire.request import CreateResponse
from antiphon.wire.response import ConversationUse, Response

NOT_SAVED: Final = StorageError().message
EventRow = tuple[int, str, int | None]


class News(Protocol):
    """What processes on one database tell each other. Where they can only look for themselves, telling does nothing."""

    async def changed(self, timeout_s: float) -> Collection[str] | None:
        """As in the port."""
        ...

    def hear(self, called: Callable[[], None]) -> float:
        """As in the port."""
        ...

    def tell(self, response_id: str) -> None:
        """More is written of this response."""
        ...

    def call(self) -> None:
        """Something is left to be made, or taken away from its maker."""
        ...


class StoredRuns:
    """Implements the port Runs. Others are told when it is committed."""

    def __init__(self, access: Access, news: News) -> None:
        self._access = access
        self._news = news
        self.changed = news.changed
        self.hear = news.hear

    # -- writing

    async def add(self, project: str, run: NewRun, *, queue_max: int, per_project_max: int) -> bool:
        if len(run.given) + len(run.history) > sql.PLACES:
            raise StorageError(f"{NOT_SAVED} (it has more than {sql.PLACES} items)")
        body, request = sql.encode_body(run.response), sql.encode_request(run.request)
        rows = sql.item_rows(run.given, is_input=True)
        scene = partial(_add, project, run, body, request, rows, (queue_max, per_project_max))
        size = len(body) + len(request) + conversations.text_bytes(rows)
        is_added = await self._access.write(scene, size, NOT_SAVED)
        self._news.call()
        return is_added

    async def claim(self, lease: Lease, now_ms: int, *, runs_max: int, per_project_max: int) -> Sequence[Claimed]:
        if not await self._access.rows(sql.ANY_FREE_RUN, (now_ms,)):
            return ()
        return await self._access.write(partial(_claim, lease, now_ms, runs_max, per_project_max), 0, NOT_SAVED)

    async def seize(self, project: str, response_id: str, lease: Lease) -> Claimed | None:
        seized = await self._access.write(partial(_seize, project, response_id, lease), 0, NOT_SAVED)
        self._news.call()
        return seized

    async def append(self, ticket: Ticket, events: Sequence[Event], now_ms: int, until_ms: int) -> bool:
        rows = _event_rows(events, now_ms)
        is_written = await self._access.write(partial(_append, ticket, rows, until_ms), _size(rows), NOT_SAVED)
        self._news.tell(ticket.response_id)
        return is_written

    async def finish(self, ticket: Ticket, response: Response, events: Sequence[Event], now_ms: int) -> bool:
        body, rows = sql.encode_body(response), _event_rows(events, now_ms)
        output = sql.item_rows(response.output, is_input=False)
        size = len(body) + conversations.text_bytes(output) + _size(rows)
        scene = partial(_finish, ticket, response, body, output, rows, now_ms)
        is_written = await self._access.write(scene, size, NOT_SAVED)
        self._news.tell(ticket.response_id)
        return is_written

    async def renew(self, tickets: Sequence[Ticket], lease: Lease) -> None:
        if tickets:
            await self._access.write(partial(_lease, tickets, lease), 0, NOT_SAVED)

    async def release(self, tickets: Sequence[Ticket]) -> None:
        await self.renew(tickets, Lease(owner="", until_ms=0))
        self._news.call()

    # -- reading

    async def held(self, owner: str) -> frozenset[Ticket]:
        found = await self._access.rows(sql.HELD_RUNS, (owner,))
        return frozenset(Ticket(project=project, response_id=id_, attempt=attempt) for project, id_, attempt in found)

    async def standing(self, project: str, response_id: str) -> Standing | None:
        found = await self._access.rows(sql.FIND_RUN, (project, response_id))
        run = _Run(*found[0]) if found else None
        return Standing(streams=bool(run.streams), is_over=bool(run.is_over), last_number=run.last_seq) if run else None

    async def events(self, project: str, response_id: str, after: int, limit: int) -> Sequence[Event]:
        found = await self._access.rows(sql.READ_EVENTS, (project, response_id, after, limit))
        return sql.decode_events([data for (data,) in found])

    async def times(self, project: str, response_id: str, after: int, limit: int) -> Sequence[EventTime]:
        values = (project, response_id, after, limit)
        return [(seq, at) for seq, at in await self._access.read_far(partial(rows_of, sql.READ_EVENT_TIMES, values))]

    async def waiting(self) -> int:
        ((count,),) = await self._access.rows(sql.COUNT_WAITING, ())
        return int(count)


class _Run(NamedTuple):
    """A row as FIND_RUN gives it; `n` holds within one transaction only."""

    n: int
    attempt: int
    streams: int
    is_over: int
    last_seq: int
    given: int


def _event_rows(events: Sequence[Event], now_ms: int) -> list[EventRow]:
    """The first one tells when: the others came with it."""
    times = chain((now_ms,), repeat(None))
    return [(event.sequence_number, codec.encode(event).decode(), at) for event, at in zip(events, times, strict=False)]


def _size(rows: Sequence[EventRow]) -> int:
    return sum(len(data) for _, data, _ in rows)


def _added_events(n: int, attempt: int, rows: Sequence[EventRow]) -> list[Query]:
    return [(sql.ADD_EVENT, (n, seq, attempt, data, at)) for seq, data, at in rows]


# -- scripts


def _add(
    project: str, run: NewRun, body: str, request: str, rows: list[sql.ItemRow], most: tuple[int, int]
) -> Script[bool]:
    queue_max, per_project_max = most
    (waiting,) = yield from column_of(sql.COUNT_WAITING, ())
    if waiting >= per_project_max:  # so many may be the project's
        (own,) = yield from column_of(sql.COUNT_WAITING_OF, (project,))
        if own >= per_project_max:
            return False
    if waiting >= queue_max:
        return False
    response, events = run.response, _event_rows(run.opening, run.now_ms)
    before = response.previous_response_id
    parent = (yield from row_of(sql.FIND_PARENT, (project, before))) if before is not None else None
    if parent is None and before is not None:
        rows = sql.item_rows(run.history, is_input=True) + rows
    parent_n, bytes_before = parent or (None, 0)
    chain_bytes = bytes_before + len(body) + conversations.text_bytes(rows)
    created_at = response.created_at
    values = (project, response.id, parent_n, chain_bytes, response.status, response.model, created_at, body)
    (n,) = yield from column_of(f"{sql.ADD_RESPONSE} RETURNING n", values)
    place, _ = sql.places(n)
    yield [
        *(
            (sql.ADD_ITEM, (place + at, project, row.id, int(row.is_input), row.type, row.data))
            for at, row in enumerate(rows)
        ),
        *((sql.ADD_METADATA, (project, key, value, created_at, n)) for key, value in response.metadata.items()),
        (sql.ADD_RUN, (n, request, len(run.given), int(bool(events)), len(events) - 1)),
        *_added_events(n, 0, events),
    ]
    if response.conversation:
        lock = Lock(project=project, conversation_id=response.conversation.id, response_id=response.id)
        yield from conversations.renew((lock,), FOR_EVER)
    return True


def _claim(lease: Lease, now_ms: int, runs_max: int, per_project_max: int) -> Script[list[Claimed]]:
    yield [(sql.ONE_CLAIMS, ())]
    under_way: Counter[str] = Counter(dict((yield from rows_of(sql.COUNT_UNDER_WAY, (now_ms,)))))
    claimed: list[Claimed] = []
    for n, project in (yield from rows_of(sql.FREE_RUNS, (now_ms,))):
        if len(claimed) >= runs_max or under_way[project] >= per_project_max:
            continue
        if (yield from rows_of(sql.TAKE_FREE_RUN, (lease.owner, lease.until_ms, n, now_ms))):  # nobody was faster
            under_way[project] += 1
            claimed.append((yield from _taken(n)))
    return claimed


def _seize(project: str, response_id: str, lease: Lease) -> Script[Claimed | None]:
    taken = yield from column_of(sql.SEIZE_RUN, (lease.owner, lease.until_ms, project, response_id))
    return (yield from _taken(taken[0])) if taken else None


def _taken(n: int) -> Script[Claimed]:
    row = yield from row_of(sql.READ_RUN, (n,))
    assert row is not None
    project, response_id, model, created_at, body, request, given, streams, attempt = row
    wanted: CreateResponse | None
    items: tuple[Item, ...]
    try:
        response = sql.decode_response(body, ())
    except Unreadable:
        bare = Response(id=response_id, created_at=created_at, status="queued", background=True, model=model)
        response, request = (yield from _salvaged(project, n, body, bare)), ""
    try:
        items = sql.decode_items((yield from column_of(sql.READ_GIVEN, (*sql.places(n), given))))
        wanted = sql.decode_request(request)
    except Unreadable:
        wanted, items = None, ()
    response = replace(response, status="in_progress")
    yield [(sql.UPDATE_RESPONSE, (response.status, sql.encode_body(response), 0, n))]
    return Claimed(
        ticket=Ticket(project=project, response_id=response_id, attempt=attempt),
        response=response,
        request=wanted,
        given=items,
        streams=bool(streams),
    )


def _salvaged(project: str, n: int, body: str, bare: Response) -> Script[Response]:
    """What other rows tell of a response whose body cannot be understood, so that it can be ended: its first event, or
    else what it goes on from, its labels, and the conversation that it keeps locked."""
    with suppress(Unreadable):
        events = sql.decode_events((yield from column_of(sql.FIRST_EVENT, (n,))))
        if events and isinstance(events[0], Lifecycle):
            return replace(events[0].response, output=())
    labels = yield from responses.labels_of(project, n, bare.created_at, body)
    parent = yield from column_of(sql.FIND_PARENTS_ID, (n,))
    locked = yield from column_of(sql.FIND_LOCKED, (project, bare.id))
    conversation = ConversationUse(id=locked[0]) if locked else UNSET
    return replace(bare, metadata=labels, previous_response_id=next(iter(parent), None), conversation=conversation)


def _append(ticket: Ticket, rows: Sequence[EventRow], until_ms: int) -> Script[bool]:
    last = rows[-1][0] if rows else -1
    fence = (last, until_ms, ticket.project, ticket.response_id, ticket.attempt)
    found = yield from column_of(sql.ADVANCE_RUN, fence)
    if not found:
        return False
    yield _added_events(found[0], ticket.attempt, rows)
    return True


def _finish(
    ticket: Ticket, response: Response, body: str, output: list[sql.ItemRow], rows: Sequence[EventRow], now_ms: int
) -> Script[bool]:
    last = rows[-1][0] if rows else -1
    found = yield from row_of(sql.END_RUN, (last, now_ms // 1000, ticket.project, ticket.response_id, ticket.attempt))
    if found is None:
        return False
    n, given, streams = found
    places = sql.places(n)
    if response.conversation:
        asked = (yield from column_of(sql.READ_GIVEN, (*places, given))) if response.status in JOINING else []
        joining = [*sql.item_rows(sql.decode_items(asked), is_input=True), *output]
        yield from conversations.join(ticket.project, response, joining)
    (highest,) = yield from column_of(sql.LAST_PLACE, places)
    place = places[0] if highest is None else highest + 1
    told: list[Query] = [(sql.DROP_EVENTS, (n,))]  # they were for who takes over
    if streams:  # what stands where the last ones come could not be understood: else somebody had gone on from it
        told = [*((sql.DROP_EVENTS_FROM, (n, seq)) for seq, *_ in rows[:1]), *_added_events(n, ticket.attempt, rows)]
    yield [
        *((sql.ADD_ITEM, (place + at, ticket.project, row.id, 0, row.type, row.data)) for at, row in enumerate(output)),
        (sql.UPDATE_RESPONSE, (response.status, body, conversations.text_bytes(output), n)),
        *told,
    ]
    return True


def _lease(tickets: Sequence[Ticket], lease: Lease) -> Script[None]:
    yield [
        (sql.LEASE_RUN, (lease.owner, lease.until_ms, ticket.project, ticket.response_id, ticket.attempt))
        for ticket in tickets
    ]
