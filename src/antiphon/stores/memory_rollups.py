"""MemoryRollups: rollups of the verified fake, in one dictionary. Knows no file, and keeps nothing."""

from collections.abc import Sequence
from copy import deepcopy

from antiphon.core.rollups import Rollup


class MemoryRollups:
    """Implements the port Rollups."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str, str, str], Rollup] = {}

    async def write(self, rollups: Sequence[Rollup]) -> None:
        for one in rollups:
            self._kept[one.minute, one.process, one.project, one.model] = deepcopy(one)

    async def read(self, projects: Sequence[str], since: int, until: int, limit: int) -> Sequence[Rollup]:
        found = [one for key, one in sorted(self._kept.items(), key=lambda kept: kept[0]) if since <= key[0] < until]
        return [deepcopy(one) for one in found if one.project in projects][:limit]

    async def drop(self, before: int, limit: int) -> int:
        old = [key for key in sorted(self._kept) if key[0] < before][:limit]
        for key in old:
            del self._kept[key]
        return len(old)
