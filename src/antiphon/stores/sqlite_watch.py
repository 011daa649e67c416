"""Watch: whether another process, or another connection, has written to an SQLite file. Knows no rows."""

import asyncio
from collections.abc import Callable
from typing import Final

import apsw

from antiphon.stores.sqlite_file import rows_of

POLL_S: Final = 0.01
"""Between looks; one takes some 4 us."""
SWEEP_S: Final = 0.1
"""Between looks for runs: nothing else tells of one that another process took in. One takes some 3 us."""


class Watch:
    """On a connection of its own, which does nothing else. Implements News: the file tells, and nobody calls."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._version = self._now()

    async def changed(self, timeout_s: float) -> None:
        """Returns at a change, or after so long. Nothing is missed between two calls."""
        for _ in range(max(1, round(timeout_s / POLL_S))):
            if (version := self._now()) != self._version:
                self._version = version
                return
            await asyncio.sleep(POLL_S)

    def hear(self, called: Callable[[], None]) -> float:
        return SWEEP_S

    def tell(self, response_id: str) -> None:
        pass

    def call(self) -> None:
        pass

    def _now(self) -> int:
        return int(rows_of(self._connection, "PRAGMA data_version")[0][0])
