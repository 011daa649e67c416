"""Retention in a database: the scripts that forget what is old, of either kind. Knows no driver, and no thread."""

from functools import partial
from typing import Final

from msgspec.structs import replace

from antiphon.core.ports import ResponseQuery
from antiphon.core.retention import Pruning, Told
from antiphon.stores import listing, responses, sql
from antiphon.stores.script import UNHURRIED, Access, Row, Script, column_of, row_of, rows_of

ENTRIES_MAX: Final = 1_000
"""Walked in one step: about a millisecond."""
BYTES_MAX: Final = 4 * 1024 * 1024
"""Of the responses of one step, the last one's aside."""
STREAMS_MAX: Final = 100
"""In one step."""
LATER_S: Final = 60
"""When one that is under way is looked at again."""
FAILURE: Final = "What is old was not deleted."


class StoredRetention:
    """Implements the port Retention."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def next_project(self, after: str) -> str | None:
        found = await self._access.rows(sql.NEXT_PROJECT, (after,))
        return str(found[0][0]) if found else None

    async def prune(self, pruning: Pruning) -> Pruning:
        ahead = await self.count(pruning)
        if ahead.count == pruning.count:
            return ahead  # the usual case takes no lock
        return await self._access.write(partial(_prune, pruning), UNHURRIED, FAILURE)

    async def count(self, pruning: Pruning) -> Pruning:
        ahead, _ = await self._access.read_far(partial(_found, pruning))
        return ahead

    async def expire_at(self, project: str, response_id: str, expires_at: int) -> None:
        scene = partial(rows_of, sql.ADD_EXPIRY, (expires_at, project, response_id))
        await self._access.write(scene, 0, "The response was not begun.")

    async def prune_expired(self, now: int, limit: int) -> int:
        due = await self._access.rows(sql.DUE_EXPIRIES, (now, limit))
        for expiry in due:
            await self._access.write(partial(_expire, expiry, now), UNHURRIED, FAILURE)
        return len(due)

    async def prune_events(self, ended_before: int, now: int, limit: int) -> Told:
        if not await self._access.rows(sql.ANY_ENDED, (ended_before,)):
            return Told(streams=0, is_over=True)
        return await self._access.write(partial(_prune_events, ended_before, now, limit), UNHURRIED, FAILURE)

    async def count_streams(self, ended_before: int) -> int:
        ((count,),) = await self._access.read_far(partial(rows_of, sql.COUNT_ENDED, (ended_before,)))
        return int(count)


def _prune(pruning: Pruning) -> Script[Pruning]:
    yield [(sql.ALONE, (pruning.project,))]
    ahead, found = yield from _found(pruning)
    yield from responses.erase(pruning.project, found)
    return ahead


def _found(pruning: Pruning) -> Script[tuple[Pruning, list[int]]]:
    """The numbers of those to go in this step, and how far it leads."""
    search = listing.Search(project=pruning.project, query=query_of(pruning), page_chars_max=0)
    search = yield from listing.begun(search)
    if pruning.place is not None:
        search = replace(search, place=pruning.place)
    matching = yield from listing.matches(search, ENTRIES_MAX, pruning.limit)
    about = yield [(sql.ABOUT_OLD, (n,)) for n in matching]
    found: list[int] = []
    size = 0
    for n, ((created_at, own_bytes, is_under_way),) in zip(matching, about, strict=True):
        search = replace(search, place=(created_at, n))
        if not is_under_way:
            found.append(n)
            size += own_bytes
        if size > BYTES_MAX:
            break
    else:
        if len(matching) < pruning.limit:
            search = yield from listing.behind(search, ENTRIES_MAX)
    return replace(pruning, place=search.place, count=pruning.count + len(found), is_over=search.is_over), found


def _expire(expiry: Row, now: int) -> Script[None]:
    _, project, response_id = expiry
    yield [(sql.ALONE, (project,))]
    living = yield from row_of(sql.FIND_LIVING, (project, response_id))
    yield [(sql.DROP_EXPIRY, expiry)]
    if living is None:
        return
    if (yield from rows_of(sql.IS_UNDER_WAY, living[:1])):
        yield [(sql.ADD_EXPIRY, (now + LATER_S, project, response_id))]
    else:
        yield from responses.erase(project, living[:1])


def query_of(pruning: Pruning) -> ResponseQuery:
    return ResponseQuery(
        metadata=pruning.metadata,
        model=pruning.model,
        status=pruning.status,
        created_before=pruning.created_before,
        limit=pruning.limit,
        order="asc",
    )


def _prune_events(ended_before: int, now: int, limit: int) -> Script[Told]:
    """Of each, the row says that nothing can be streamed any more before the first event goes."""
    noted = yield from rows_of(sql.NOTE_ENDED, (now, STREAMS_MAX))
    ended = yield from column_of(sql.ENDED_RUNS, (ended_before, STREAMS_MAX))
    for streams, n in enumerate(ended):
        numbers = yield from column_of(sql.EVENT_NUMBERS, (n, limit))
        if numbers:
            yield [(sql.CLOSE_STREAM, (n,)), (sql.DROP_EVENTS_TO, (n, numbers[-1]))]
        limit -= len(numbers)
        if not limit:
            return Told(streams=streams, is_over=False)
        yield [(sql.FORGET_STREAM, (n,))]
    return Told(streams=len(ended), is_over=max(len(noted), len(ended)) < STREAMS_MAX)
