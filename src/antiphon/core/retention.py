"""The port Retention: forgetting what is old, a little at a time, so that nobody else waits long. Knows no settings."""

from typing import Protocol

from msgspec import Struct

from antiphon.wire.response import ResponseStatus


class Pruning(Struct, frozen=True, kw_only=True):
    """Which responses of a project are to go, and how far that has come: the oldest go first. None: whichever."""

    project: str
    created_before: int
    """Unix seconds."""
    status: ResponseStatus | None = None
    model: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    limit: int
    """Of one step."""
    place: tuple[int, int] | None = None
    """Behind which it goes on; the store's own."""
    count: int = 0
    """Those that went, or would."""
    is_over: bool = False


class Told(Struct, frozen=True, kw_only=True):
    """What became of the events of background responses that are over."""

    streams: int
    """Responses whose events are all gone now."""
    is_over: bool
    """Whether that was all there is to do."""


class Retention(Protocol):
    """Raises StorageError when the medium fails. What was begun and broke off is begun again, with nothing lost."""

    async def next_project(self, after: str) -> str | None:
        """The next one, by its name, that has responses."""
        ...

    async def prune(self, pruning: Pruning) -> Pruning:
        """A step further: deletes as `Store.delete` does. Passes over what is under way."""
        ...

    async def count(self, pruning: Pruning) -> Pruning:
        """As `prune`, with nothing deleted."""
        ...

    async def expire_at(self, project: str, response_id: str, expires_at: int) -> None:
        """Notes, before the response is stored, when it is to go, in Unix seconds."""
        ...

    async def prune_expired(self, now: int, limit: int) -> int:
        """A step further: deletes, as `Store.delete` does, at most so many whose time has come; gives how many were
        looked at. What is under way is looked at again later."""
        ...

    async def prune_events(self, ended_before: int, now: int, limit: int) -> Told:
        """A step further: forgets at most so many events of background responses that ended before that time. From the
        first on, none of a response can be streamed. One of which nobody noted when it ended counts from `now` on.
        Times are in Unix seconds."""
        ...

    async def count_streams(self, ended_before: int) -> int:
        """The responses that `prune_events` would take events of."""
        ...
