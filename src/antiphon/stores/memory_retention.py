"""MemoryRetention: the verified fake forgets all at once. Knows no file, and keeps nothing."""

from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from antiphon.core.ports import ResponseQuery
from antiphon.core.retention import Pruning, Told
from antiphon.stores.memory_runs import MemoryRuns
from antiphon.stores.retention import query_of
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

    async def prune_events(self, ended_before: int, now: int, limit: int) -> Told:
        del now, limit  # all have been noted, and nobody waits
        return Told(streams=self._runs.forget(ended_before), is_over=True)

    async def count_streams(self, ended_before: int) -> int:
        return len(self._runs.expired(ended_before))
