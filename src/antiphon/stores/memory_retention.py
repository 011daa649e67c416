"""MemoryRetention: the verified fake forgets all at once. Knows no file, and keeps nothing."""

from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from antiphon.core.ports import ResponseQuery
from antiphon.core.retention import Pruning, Told
from antiphon.stores.memory_runs import MemoryRuns
from antiphon.stores.retention import LATER_S, query_of
from antiphon.wire.response import Response


class Rows(Protocol):
    """The rows of responses."""

    def projects(self) -> set[str]: ...

    def matching(self, project: str, query: ResponseQuery) -> Sequence[Response]: ...

    async def delete(self, project: str, response_id: str) -> bool: ...


class MemoryRetention:
    """Implements the port Retention."""

    def __init__(self, rows: Rows, runs: MemoryRuns) -> None:
        self._rows = rows
        self._runs = runs
        self._expiries: list[tuple[int, str, str]] = []

    async def next_project(self, after: str) -> str | None:
        return min((project for project in self._rows.projects() if project > after), default=None)

    async def prune(self, pruning: Pruning) -> Pruning:
        for response_id in (found := await self._found(pruning)):
            await self._rows.delete(pruning.project, response_id)
        return replace(pruning, count=pruning.count + len(found), is_over=True)

    async def count(self, pruning: Pruning) -> Pruning:
        return replace(pruning, count=pruning.count + len(await self._found(pruning)), is_over=True)

    async def _found(self, pruning: Pruning) -> list[str]:
        ids = [response.id for response in self._rows.matching(pruning.project, query_of(pruning))]
        runs = {response_id: await self._runs.standing(pruning.project, response_id) for response_id in ids}
        return [response_id for response_id, run in runs.items() if run is None or run.is_over]

    async def expire_at(self, project: str, response_id: str, expires_at: int) -> None:
        self._expiries.append((expires_at, project, response_id))

    async def prune_expired(self, now: int, limit: int) -> int:
        due = sorted(one for one in self._expiries if one[0] <= now)[:limit]
        for expiry in due:
            _, project, response_id = expiry
            run = await self._runs.standing(project, response_id)
            self._expiries.remove(expiry)
            if run is None or run.is_over:
                await self._rows.delete(project, response_id)
            else:
                self._expiries.append((now + LATER_S, project, response_id))
        return len(due)

    async def prune_events(self, ended_before: int, now: int, limit: int) -> Told:
        del now, limit  # all have been noted, and nobody waits
        return Told(streams=self._runs.forget(ended_before), is_over=True)

    async def count_streams(self, ended_before: int) -> int:
        return len(self._runs.expired(ended_before))
