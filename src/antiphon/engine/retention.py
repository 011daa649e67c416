"""Retention: what is old goes, a little at a time, by itself or when it is asked for. Knows no HTTP."""

import asyncio
from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from antiphon.config import Retention
from antiphon.core import retention as port
from antiphon.core.ids import Clock
from antiphon.core.retention import Pruning
from antiphon.errors import StorageError
from antiphon.observe import log

SWEEP_S: Final = 60.0
STEP_RESPONSES: Final = 20
STEP_EVENTS: Final = 2_000
"""What one step takes at most, in one transaction: others wait for some milliseconds."""
PAUSE_S: Final = 0.05
"""Between steps: then it is the others' turn."""
DAY_S: Final = 24 * 3600
HOUR_S: Final = 3600


class Sweeper:
    """Any number of processes may sweep one database at once."""

    def __init__(
        self, store: port.Retention, clock: Clock, *, pause_s: float = PAUSE_S, only_counts: bool = False
    ) -> None:
        self._store = store
        self._clock = clock
        self._pause_s = pause_s
        self._only_counts = only_counts
        self._step = store.count if only_counts else store.prune

    async def sweep_for_ever(self, settings: Retention) -> None:
        while True:
            try:
                await self.sweep(settings)
            except StorageError as error:
                log.warning("what is old was not swept", reason=error.message)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self, settings: Retention) -> None:
        """Drops all whose time has come."""
        now = self._clock()
        if settings.background_events_hours:
            await self.events(now - settings.background_events_hours * HOUR_S)
        await self._expired(now)
        if settings.responses_days:
            before = now - settings.responses_days * DAY_S
            counts = await self.everywhere(Pruning(project="", created_before=before, limit=STEP_RESPONSES))
            if counts:
                log.info("old responses were deleted", responses=sum(counts.values()), projects=len(counts))

    async def _expired(self, now: int) -> None:
        """Those whose own time has come."""
        looked_at = STEP_RESPONSES
        while looked_at == STEP_RESPONSES:
            looked_at = await self._store.prune_expired(now, STEP_RESPONSES)
            await asyncio.sleep(self._pause_s if looked_at else 0)

    async def everywhere(self, pruning: Pruning) -> Mapping[str, int]:
        """How many went in each project; the pruning's own is not looked at."""
        counts = {}
        project = await self._store.next_project("")
        while project is not None:
            if count := await self.responses(replace(pruning, project=project)):
                counts[project] = count
            project = await self._store.next_project(project)
        return counts

    async def responses(self, pruning: Pruning) -> int:
        """How many went."""
        while not pruning.is_over:
            before, pruning = pruning, await self._step(pruning)
            if pruning.count > before.count and not self._only_counts:
                await asyncio.sleep(self._pause_s)
        return pruning.count

    async def events(self, ended_before: int) -> int:
        """Of how many responses they went."""
        if self._only_counts:
            return await self._store.count_streams(ended_before)
        streams = 0
        while not (told := await self._store.prune_events(ended_before, self._clock(), STEP_EVENTS)).is_over:
            streams += told.streams
            await asyncio.sleep(self._pause_s)
        return streams + told.streams
