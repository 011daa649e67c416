"""MemoryRuns: runs of the verified fake, which has one process. Knows no file, and keeps nothing."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from antiphon.core.ports import FOR_EVER, Lock
from antiphon.core.runs import Claimed, EventTime, Lease, NewRun, Standing, Ticket
from antiphon.stores.memory_conversations import MemoryConversations
from antiphon.wire.events import Event
from antiphon.wire.items import Item
from antiphon.wire.response import Response


@dataclass
class _Run:
    new: NewRun
    owner: str = ""
    until_ms: int = 0
    attempt: int = 0
    is_over: bool = False
    events: list[Event] = field(default_factory=list)
    times: list[EventTime] = field(default_factory=list)
    last_number: int = -1
    ended_at: int | None = None
    """None: not yet, or its events are gone."""

    @property
    def streams(self) -> bool:
        return bool(self.new.opening)


class Rows(Protocol):
    """The rows of responses."""

    def keep(self, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> None: ...

    def change(self, project: str, response: Response) -> None: ...


class MemoryRuns:
    """Implements the port Runs."""

    def __init__(self, rows: Rows, conversations: MemoryConversations) -> None:
        self._rows = rows
        self._conversations = conversations
        self._runs: dict[tuple[str, str], _Run] = {}

    async def add(self, project: str, run: NewRun, *, queue_max: int, per_project_max: int) -> bool:
        waiting = [of for (of, _), each in self._under_way() if not each.owner]
        if len(waiting) >= queue_max or waiting.count(project) >= per_project_max:
            return False
        response = run.response
        self._rows.keep(project, response, run.given, run.history)
        if response.conversation:
            lock = Lock(project=project, conversation_id=response.conversation.id, response_id=response.id)
            await self._conversations.renew((lock,), until=FOR_EVER)
        kept = self._runs[project, response.id] = _Run(run)
        _tell(kept, run.opening, run.now_ms)
        return True

    async def claim(self, lease: Lease, now_ms: int, *, runs_max: int, per_project_max: int) -> Sequence[Claimed]:
        under_way = Counter(project for (project, _), run in self._under_way() if run.until_ms > now_ms)
        claimed: list[Claimed] = []
        for (project, response_id), run in list(self._under_way()):
            if run.until_ms <= now_ms and len(claimed) < runs_max and under_way[project] < per_project_max:
                under_way[project] += 1
                claimed.append(self._take(project, response_id, run, lease))
        return claimed

    async def seize(self, project: str, response_id: str, lease: Lease) -> Claimed | None:
        run = self._runs.get((project, response_id))
        return self._take(project, response_id, run, lease) if run and not run.is_over else None

    def _take(self, project: str, response_id: str, run: _Run, lease: Lease) -> Claimed:
        run.owner, run.until_ms, run.attempt = lease.owner, lease.until_ms, run.attempt + 1
        response = replace(run.new.response, status="in_progress")
        self._rows.change(project, response)
        return Claimed(
            ticket=Ticket(project=project, response_id=response_id, attempt=run.attempt),
            response=response,
            request=run.new.request,
            given=run.new.given,
            streams=run.streams,
        )

    async def append(self, ticket: Ticket, events: Sequence[Event], now_ms: int, until_ms: int) -> bool:
        run = self._fenced(ticket)
        if run is None:
            return False
        run.until_ms = until_ms
        _tell(run, events, now_ms)
        return True

    async def finish(self, ticket: Ticket, response: Response, events: Sequence[Event], now_ms: int) -> bool:
        run = self._fenced(ticket)
        if run is None:
            return False
        if response.conversation:
            self._conversations.join(ticket.project, response, (*run.new.given, *response.output))
        self._rows.change(ticket.project, response)
        run.events = [event for event in run.events if not events or event.sequence_number < events[0].sequence_number]
        run.times = [time for time in run.times if not events or time[0] < events[0].sequence_number]
        _tell(run, events, now_ms)
        run.is_over, run.owner, run.ended_at = True, "", now_ms // 1000 if run.streams else None
        if not run.streams:
            _forget(run)
        return True

    async def renew(self, tickets: Sequence[Ticket], lease: Lease) -> None:
        for ticket in tickets:
            if run := self._fenced(ticket):
                run.owner, run.until_ms = lease.owner, lease.until_ms

    async def release(self, tickets: Sequence[Ticket]) -> None:
        await self.renew(tickets, Lease(owner="", until_ms=0))

    async def held(self, owner: str) -> frozenset[Ticket]:
        return frozenset(
            Ticket(project=project, response_id=response_id, attempt=run.attempt)
            for (project, response_id), run in self._under_way()
            if run.owner == owner
        )

    async def standing(self, project: str, response_id: str) -> Standing | None:
        run = self._runs.get((project, response_id))
        if run is None:
            return None
        return Standing(streams=run.streams, is_over=run.is_over, last_number=run.last_number)

    async def events(self, project: str, response_id: str, after: int, limit: int) -> Sequence[Event]:
        run = self._runs.get((project, response_id))
        return [event for event in run.events if event.sequence_number > after][:limit] if run else ()

    async def times(self, project: str, response_id: str, after: int, limit: int) -> Sequence[EventTime]:
        run = self._runs.get((project, response_id))
        return [time for time in run.times if time[0] > after][:limit] if run else ()

    async def waiting(self) -> int:
        return sum(not run.owner for _, run in self._under_way())

    async def changed(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)  # there is no other process

    def hear(self, called: Callable[[], None]) -> float:
        return 1.0  # there is nobody to hear

    def expired(self, ended_before: int) -> list[_Run]:
        return [run for run in self._runs.values() if run.ended_at is not None and run.ended_at < ended_before]

    def forget(self, ended_before: int) -> int:
        """Of how many the events are gone now."""
        expired = self.expired(ended_before)
        for run in expired:
            _forget(run)
            run.last_number, run.ended_at = -1, None
        return len(expired)

    def drop(self, project: str, response_id: str) -> None:
        self._runs.pop((project, response_id), None)

    def _under_way(self) -> Iterator[tuple[tuple[str, str], _Run]]:
        return ((key, run) for key, run in self._runs.items() if not run.is_over)

    def _fenced(self, ticket: Ticket) -> _Run | None:
        run = self._runs.get((ticket.project, ticket.response_id))
        return run if run and run.attempt == ticket.attempt and not run.is_over else None


def _tell(run: _Run, events: Sequence[Event], now_ms: int) -> None:
    run.events += events
    if events:
        run.last_number = events[-1].sequence_number
        run.times.append((events[0].sequence_number, now_ms))


def _forget(run: _Run) -> None:
    run.events.clear()
    run.times.clear()
