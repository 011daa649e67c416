"""Rollups in a database: the scripts on their rows, of either kind. Knows no driver, and no thread."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from antiphon.core.rollups import Rollup, Tally
from antiphon.stores import sql
from antiphon.stores.script import Access, Script, rows_of

NOT_SAVED: Final = "The rollups were not saved."
_decode = msgspec.json.Decoder(Tally).decode


class StoredRollups:
    """Implements the port Rollups."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def write(self, rollups: Sequence[Rollup]) -> None:
        rows = [
            (one.minute, one.process, one.project, one.model, msgspec.json.encode(one.tally).decode())
            for one in rollups
        ]
        if rows:
            await self._access.write(partial(_write, rows), sum(len(row[-1]) for row in rows), NOT_SAVED)

    async def read(self, projects: Sequence[str], since: int, until: int, limit: int) -> Sequence[Rollup]:
        rows = await self._access.read_far(partial(_read, projects, since, until, limit))
        return [
            Rollup(minute=minute, process=process, project=project, model=model, tally=_decode(data))
            for minute, process, project, model, data in rows
        ]

    async def drop(self, before: int, limit: int) -> int:
        return len(await self._access.write(partial(rows_of, sql.DROP_ROLLUPS, (before, limit)), 0, NOT_SAVED))


def _write(rows: Sequence[sql.RollupRow]) -> Script[None]:
    yield [(sql.PUT_ROLLUP, row) for row in rows]


def _read(projects: Sequence[str], since: int, until: int, limit: int) -> Script[list[sql.RollupRow]]:
    found: list[sql.RollupRow] = []
    for project in projects:
        found += yield from rows_of(sql.READ_ROLLUPS, (project, since, until, limit))
    return sorted(found)[:limit]
