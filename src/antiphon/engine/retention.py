"""Retention: what is old goes, a little at a time, by itself or when it is asked for. Knows no HTTP."""

import asyncio
from typing import Final

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

    def __init__(self, store: port.Retention, clock: Clock, *, pause_s: float = PAUSE_S) -> None:
        self._store = store
        self._clock = clock
        self._pause_s = pause_s

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
        if settings.responses_days:
            await self.responses(now - settings.responses_days * DAY_S)

    async def responses(self, created_before: int) -> None:
        project = await self._store.next_project("")
        while project is not None:
            pruning = Pruning(project=project, created_before=created_before, limit=STEP_RESPONSES)
            if count := (await self.pruned(pruning)).count:
                log.info("old responses were deleted", project=project, responses=count)
            project = await self._store.next_project(project)

    async def pruned(self, pruning: Pruning) -> Pruning:
        """To its end."""
        while not pruning.is_over:
            before, pruning = pruning, await self._store.prune(pruning)
            if pruning.count > before.count:
                await asyncio.sleep(self._pause_s)
        return pruning

    async def events(self, ended_before: int) -> int:
        """Of how many responses they went."""
        streams = 0
        while not (told := await self._store.prune_events(ended_before, self._clock(), STEP_EVENTS)).is_over:
            streams += told.streams
            await asyncio.sleep(self._pause_s)
        return streams + told.streams
