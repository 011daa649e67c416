"""Background: the queue of background responses, who makes them, and who reads along. Knows no HTTP.

The stored run is the truth, and the only queue. Every process claims what nobody makes, as far as it has room: what has
just been asked for, what another process left when it stopped, and what one left that died, once its lease has ended.
So there is one path, and a crash adds nothing to it but the past that a run is handed.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from msgspec import structs

from antiphon.core.builder import Builder
from antiphon.core.hosted import runner_of
from antiphon.core.past import MIDWAY, Past
from antiphon.core.plan import Plan
from antiphon.core.ports import Model
from antiphon.core.runs import Claimed, EventTime, Lease, NewRun, Ticket
from antiphon.engine.journal import Journal, time_ms
from antiphon.engine.run import Checks, Run, wire_error
from antiphon.engine.signals import Key, Signals
from antiphon.engine.world import World
from antiphon.errors import (
    ApiError,
    NotStreamable,
    QueueFull,
    ServerError,
    StorageError,
    StreamExpired,
    Unavailable,
    Unreadable,
)
from antiphon.observe import log as logger
from antiphon.wire.events import TERMINAL, Event, ResponseCreated, ResponseQueued
from antiphon.wire.items import HostedCall
from antiphon.wire.request import CreateResponse
from antiphon.wire.response import Response

PAUSE_S: Final = 1.0
"""After a bug."""
LOOK_S: Final = 0.25
"""Between looks whether somebody took away what is made here: to cancel it, mostly."""
PAGE_EVENTS: Final = 500
OPENING: Final = 2
"""Events that are told before a response is made."""
CANCEL_TRIES_MAX: Final = 10
"""When others cancel it at the same moment."""
CANCEL_WAIT_S: Final = 5.0
"""For a run to end by itself, with what it has said."""


class Made(NamedTuple):
    """What a run is made of."""

    plan: Plan
    model: Model
    checks: Checks


class _Attempt:
    """A run that this process makes."""

    def __init__(self, claimed: Claimed) -> None:
        self.claimed = claimed
        self.journal: Journal | None = None
        self.run: Run | None = None
        self._is_left = False
        self.task: asyncio.Task[None] | None = None

    @property
    def ticket(self) -> Ticket:
        return self.claimed.ticket

    @property
    def is_left(self) -> bool:
        return self._is_left if self.journal is None else self.journal.is_left

    @property
    def is_over(self) -> bool:
        return self.journal is not None and self.journal.is_over

    @property
    def can_be_redone(self) -> bool:
        """Without anything being lost but time."""
        return self.journal is None or not self.journal.tells_something

    def leave(self) -> None:
        self._is_left = True
        if self.journal is not None:
            self.journal.leave()
        elif self.task is not None:
            self.task.cancel()


class Background:
    def __init__(self, world: World, make: Callable[[Claimed], Awaitable[Made]], on_end: Callable[[Run], None]) -> None:
        """`make` prepares a claimed run, or raises an ApiError. `on_end` is called with each that ended here."""
        self._world = world
        self._on_end = on_end
        self._runs = world.store.runs
        self._make = make
        self._owner = f"{world.new_id('process')}_{os.getpid()}"
        self._attempts: dict[Key, _Attempt] = {}
        self._taking = asyncio.Lock()
        """Held until what is taken is among the attempts, so that who takes it away finds it there."""
        self._signals = Signals(self._runs, lambda key: key in self._attempts)
        self._wanted = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._closed = False

    # -- asking for one

    async def add(self, project: str, plan: Plan, request: CreateResponse) -> None:
        """Queues a response. Raises QueueFull."""
        response = plan.response
        opening = _opening(response) if request.stream else ()
        run = NewRun(
            response=response,
            request=request,
            given=plan.given,
            history=plan.history,
            opening=opening,
            now_ms=time_ms(),
        )
        limits = self._world.limits
        most = limits.background_queue_per_project_max
        if not await self._runs.add(project, run, queue_max=limits.background_queue_max, per_project_max=most):
            raise QueueFull
        self._wanted.set()

    def start(self) -> None:
        """Begins to make what is asked for, and what was left."""
        self._sweep_s = self._runs.hear(self._wanted.set)
        self._sweeping = asyncio.create_task(self._sweep())
        self._sweeping.add_done_callback(self._sweep_on)

    def _sweep_on(self, swept: asyncio.Task[None]) -> None:
        """A bug there must not leave everything undone that comes after it."""
        if _told(swept) and not self._closing.is_set():
            asyncio.get_running_loop().call_later(PAUSE_S, self.start)

    # -- making

    async def _sweep(self) -> None:
        sweep_at = renew_at = 0.0
        while True:
            now = time.monotonic()
            try:
                if self._attempts and now >= renew_at:  # first: who stood still must not take over from itself
                    renew_at = now + self._world.limits.background_lease_s / 3
                    tickets = [one.ticket for one in self._attempts.values() if not one.is_over]
                    await self._runs.renew(tickets, self._lease())
                if self._wanted.is_set() or now >= sweep_at:
                    self._wanted.clear()
                    sweep_at = now + self._sweep_s
                    await self._claim()
                if self._attempts:
                    await self._look()
            except StorageError as error:
                logger.error("background responses could not be looked after", error=error.message)
            try:
                async with asyncio.timeout(min(LOOK_S, self._sweep_s) if self._attempts else self._sweep_s):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _claim(self) -> None:
        limits = self._world.limits
        room = limits.background_runs_max - len(self._attempts)
        if self._closing.is_set() or room <= 0:
            return
        async with self._taking:
            claimed = await self._runs.claim(
                self._lease(), time_ms(), runs_max=room, per_project_max=limits.background_runs_per_project_max
            )
            if not self._closing.is_set():
                self._begin(claimed)
                return
        await self._runs.release([one.ticket for one in claimed])

    def _begin(self, claimed: Sequence[Claimed]) -> None:
        for one in claimed:
            key = (one.ticket.project, one.ticket.response_id)
            if key in self._attempts:  # this process stood still for longer than its lease
                self._attempts[key].leave()
            attempt = self._attempts[key] = _Attempt(one)
            attempt.task = asyncio.create_task(self._attempt(key, attempt))
            attempt.task.add_done_callback(_told)

    async def _look(self) -> None:
        """What somebody else took over is made here no longer."""
        before = list(self._attempts.values())
        held = await self._runs.held(self._owner)
        for attempt in before:
            if attempt.ticket not in held and not attempt.is_over and not attempt.is_left:
                attempt.leave()

    def _lease(self) -> Lease:
        return Lease(owner=self._owner, until_ms=time_ms() + round(self._world.limits.background_lease_s * 1000))

    async def _attempt(self, key: Key, attempt: _Attempt) -> None:
        try:
            await self._take(key, attempt)
        except StorageError as error:  # its lease ends, and then it is tried again
            logger.error("a background response could not be made", response=key[1], error=error.message)
        finally:
            if self._attempts.get(key) is attempt:
                del self._attempts[key]
            self._wanted.set()
            self._signals.wake(key)

    async def _take(self, key: Key, attempt: _Attempt) -> None:
        claimed = attempt.claimed
        past = await self._past(*key)
        past.is_damaged |= claimed.streams and past.next_number < OPENING
        try:
            self._check(claimed, past)
            plan, model, checks = await self._make(claimed)
            if past.begun and not (plan.prompt.may_be_resumed and model.prefills(plan.prompt)):
                raise _stopped(MIDWAY)
        except ApiError as error:
            if isinstance(error, StorageError) and not isinstance(error, Unreadable):
                raise  # another time it may be read
            await self._end(claimed, past, error)
            return
        past.next_number = max(past.next_number, OPENING)  # of what nobody streams, it is not written
        attempt.journal = journal = Journal(
            self._runs,
            claimed,
            past,
            self._world.limits.background_lease_s,
            lambda: self._signals.wake(key),
        )
        attempt.run = run = Run(self._world, key[0], plan, model, checks, self._on_end, journal)
        await run.task
        await journal.close()

    def _check(self, claimed: Claimed, past: Past) -> None:
        most = self._world.limits.background_attempts_max
        if claimed.ticket.attempt > most:
            raise ServerError(f"The response was begun {most} times and never ended (limits.background_attempts_max).")
        if claimed.request is None:
            raise ServerError("The stored request cannot be understood by this version of the server.")
        if fault := past.fault(self._is_repeatable):
            raise _stopped(fault)

    def _is_repeatable(self, item: HostedCall) -> bool:
        runner = runner_of(item, self._world.tools)
        return runner is not None and runner.is_repeatable(item)

    async def _past(self, project: str, response_id: str) -> Past:
        past = Past()
        try:
            while events := await self._runs.events(project, response_id, past.next_number - 1, PAGE_EVENTS):
                for event in events:
                    past.feed(event)
                await asyncio.sleep(0)  # others get their turn
        except (Unreadable, LookupError, AssertionError):
            past.is_damaged = True
        return past

    async def _end(self, claimed: Claimed, past: Past, error: ApiError | None) -> None:
        """Ends it without a run: failed, or cancelled."""
        untold = _opening(structs.replace(claimed.response, status="queued"))[past.next_number :]
        past.next_number = max(past.next_number, OPENING)
        builder = Builder(claimed.response, self._world.new_id, past=past)
        builder.abandon()
        final = builder.propose("failed" if error else "cancelled", error=wire_error(error))
        builder.append(final)
        events = (*untold, *builder.take())
        await self._runs.finish(claimed.ticket, final.response, events, time_ms())
        self._signals.wake((claimed.ticket.project, claimed.ticket.response_id))
        self._world.meter.ended(claimed.ticket.project, final.response, None, None)
        logger.info("response ended", response=final.response.id, status=final.response.status)

    # -- reading

    def running(self, project: str, response_id: str) -> Run | None:
        """If this process makes it, and has begun."""
        attempt = self._attempts.get((project, response_id))
        return attempt.run if attempt and not attempt.is_left else None

    async def seen(self, project: str, response: Response) -> Response:
        """A response that is not finished, with what is written of it."""
        return structs.replace(response, output=(await self._past(project, response.id)).output)

    async def follow(self, project: str, response_id: str, after: int) -> AsyncGenerator[Sequence[Event], None]:
        """Events behind the one of this number: those that are written, and then as they come. Raises NotStreamable;
        and Unavailable, on the way, when this process stops."""
        await self._require_stream(project, response_id)
        return self._follow((project, response_id), after)

    async def times(self, project: str, response_id: str, after: int, limit: int) -> Sequence[EventTime]:
        """When the events behind the one of this number were written. Raises NotStreamable."""
        times = await self._runs.times(project, response_id, after, limit)
        await self._require_stream(project, response_id)  # asked afterwards: then none of these had gone
        return times

    async def _require_stream(self, project: str, response_id: str) -> None:
        standing = await self._runs.standing(project, response_id)
        if standing is None or not standing.streams:
            missing = "background" if standing is None else "stream"
            raise NotStreamable(f"This response cannot be streamed because it was not created with {missing}=true.")
        if standing.is_expired:
            raise StreamExpired

    async def _follow(self, key: Key, after: int) -> AsyncGenerator[Sequence[Event], None]:
        while not self._closed:
            change = self._signals.expect(key)
            try:
                if events := await self._runs.events(*key, after, PAGE_EVENTS):
                    if events[0].sequence_number > after + 1:
                        raise Unavailable  # meanwhile their time has come: who asks again is told
                    yield events
                    after = events[-1].sequence_number
                    if isinstance(events[-1], TERMINAL):
                        return
                    continue
                standing = await self._runs.standing(*key)
                if standing is not None and standing.is_expired:
                    raise Unavailable
                if standing is None or (standing.is_over and standing.last_number <= after):
                    return
                if not standing.is_over:
                    await change
            finally:
                self._signals.forget(key, change)
        raise Unavailable

    # -- ending

    async def cancel(self, project: str, response_id: str) -> None:
        """Returns when it is over. From here it is taken away from whoever makes it: what that does then is nobody's,
        and it notices soon."""
        key = (project, response_id)
        attempt = self._attempts.get(key)
        if attempt and attempt.run and not attempt.is_left:
            attempt.run.cancel()
            await asyncio.wait([attempt.run.task], timeout=CANCEL_WAIT_S)
        for _ in range(CANCEL_TRIES_MAX):
            standing = await self._runs.standing(project, response_id)
            if standing is None or standing.is_over:
                return
            async with self._taking:
                if key in self._attempts:
                    self._attempts[key].leave()
                claimed = await self._runs.seize(project, response_id, self._lease())
            if claimed is not None:
                await self._end(claimed, await self._past(project, response_id), None)

    async def close(self) -> None:
        """Hands over what can be made again without a loss, lets the rest end within limits.shutdown_grace_s, and then
        hands over that, too."""
        self._closing.set()
        attempts = list(self._attempts.values())
        for attempt in attempts:
            if attempt.can_be_redone:
                attempt.leave()
        tasks = [attempt.task for attempt in attempts if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self._world.limits.shutdown_grace_s)
        for attempt in attempts:
            if attempt.task is not None and not attempt.task.done():
                attempt.leave()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._closed = True
        await self._signals.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
            self._sweeping = None
        if attempts:
            await self._runs.release([attempt.ticket for attempt in attempts])


def _opening(response: Response) -> tuple[Event, ...]:
    return ResponseCreated(0, response), ResponseQueued(1, response)


def _told(task: asyncio.Task[None]) -> bool:
    """Whether a bug ended the task: then it is logged."""
    if task.cancelled() or task.exception() is None:
        return False
    logger.error("a background task broke", exc_info=task.exception())
    return True


def _stopped(when: str) -> ServerError:
    return ServerError(f"The server stopped {when}. Please try again.")
