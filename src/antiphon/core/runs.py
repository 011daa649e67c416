"""The port Runs: background responses while they are made, and what they have told. Knows no event loop.

A background response is a stored one from the beginning, and a *run* beside it says who makes it. Whoever does holds a
lease on it and renews it; once that has ended, anybody takes the run over, as another attempt. Every write names its
attempt and writes nothing once there is a later one: that *fence*, and no queue, makes events come exactly once.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from antiphon.wire.events import Event
from antiphon.wire.items import Item
from antiphon.wire.request import CreateResponse
from antiphon.wire.response import Response

EventTime: TypeAlias = tuple[int, int | None]
"""The number of an event, and when it was written, in Unix milliseconds: with it those behind it, up to the next one
that is given. None: nobody knows, since a version that kept no times wrote them."""


class Ticket(Struct, frozen=True, kw_only=True):
    """One attempt at a run."""

    project: str
    response_id: str
    attempt: int


class Lease(Struct, frozen=True, kw_only=True):
    """Who makes a run, and until when, in Unix milliseconds."""

    owner: str
    until_ms: int


class NewRun(Struct, frozen=True, kw_only=True):
    response: Response
    """Queued."""
    request: CreateResponse
    """From which it can be made again: without its input, which is `given`."""
    given: tuple[Item, ...]
    history: tuple[Item, ...]
    """What came before, for the case that its parent has been erased meanwhile."""
    opening: tuple[Event, ...]
    """What it tells first. Empty: its events are nobody's to stream."""
    now_ms: int


class Claimed(Struct, frozen=True, kw_only=True):
    """A run that was taken over."""

    ticket: Ticket
    response: Response
    """In progress, without output."""
    request: CreateResponse | None
    """None: what is stored cannot be understood, for instance because another version wrote it."""
    given: tuple[Item, ...]
    streams: bool


class Standing(Struct, frozen=True, kw_only=True):
    """What is known of a run without its events."""

    streams: bool
    is_over: bool
    last_number: int
    """The last sequence number that is written; -1: none, or none any more."""

    @property
    def is_expired(self) -> bool:
        """Its events were kept for as long as they are kept, and are gone."""
        return self.streams and self.is_over and self.last_number < 0


class Runs(Protocol):
    """Remembers runs. Raises StorageError when the medium fails."""

    async def add(self, project: str, run: NewRun, *, queue_max: int, per_project_max: int) -> bool:
        """Stores the response with its own items, and the run, which waits for somebody to make it. False, with nothing
        written, when so many wait already, in all or of the project. The lock of its conversation no longer ends by
        itself."""
        ...

    async def claim(self, lease: Lease, now_ms: int, *, runs_max: int, per_project_max: int) -> Sequence[Claimed]:
        """Takes over, oldest first, runs that nobody makes: queued ones, and those whose lease has ended. Those of a
        project that has so many under way already are left waiting."""
        ...

    async def seize(self, project: str, response_id: str, lease: Lease) -> Claimed | None:
        """Takes over this one, whoever makes it. None: there is none, or it is over."""
        ...

    async def append(self, ticket: Ticket, events: Sequence[Event], now_ms: int, until_ms: int) -> bool:
        """Writes events, at least one, and renews the lease. False, with nothing written: there is a later attempt."""
        ...

    async def finish(self, ticket: Ticket, response: Response, events: Sequence[Event], now_ms: int) -> bool:
        """Writes its last events and the response as it ended, by the rules of `Store.save`. False as in `append`. What
        could not be understood and stands where these events come is replaced."""
        ...

    async def renew(self, tickets: Sequence[Ticket], lease: Lease) -> None:
        """The leases of those that are still the last attempt; says nothing of others."""
        ...

    async def release(self, tickets: Sequence[Ticket]) -> None:
        """Lets others take them over at once."""
        ...

    async def held(self, owner: str) -> frozenset[Ticket]:
        """The runs that are this owner's, whether or not their leases have ended. Cheap."""
        ...

    async def standing(self, project: str, response_id: str) -> Standing | None:
        """None: no background response, or unknown."""
        ...

    async def events(self, project: str, response_id: str, after: int, limit: int) -> Sequence[Event]:
        """What is written behind the event of this number, in order. Ends before what cannot be understood; raises
        Unreadable where that is the first."""
        ...

    async def times(self, project: str, response_id: str, after: int, limit: int) -> Sequence[EventTime]:
        """When what stands behind the event of this number was written, in order."""
        ...

    async def waiting(self) -> int:
        """How many runs nobody has taken."""
        ...

    async def changed(self, timeout_s: float) -> Collection[str] | None:
        """Returns when another process may have written, or after so long. To which responses; None: perhaps to any."""
        ...

    def hear(self, called: Callable[[], None]) -> float:
        """From now on it is called when another process has left something to be made, or has taken a run away from its
        maker. Who hears nothing must look all the same, after as many seconds as this gives: not every medium can tell,
        and none always does."""
        ...
