"""Requests in a database: the scripts on their rows, of either kind. Knows no driver, and no thread."""

from functools import partial
from typing import Final

from antiphon.core.requests import Mark
from antiphon.stores import sql
from antiphon.stores.script import Access, Script, rows_of

NOT_SAVED: Final = "The request was not noted."


class StoredRequests:
    """Implements the port Requests."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def mark(self, project: str, key: str, mark: Mark, *, expired_at: int) -> Mark:
        return await self._access.write(partial(_mark, project, key, mark, expired_at), 0, NOT_SAVED)

    async def unmark(self, project: str, key: str, response_id: str) -> None:
        scene = partial(rows_of, sql.DROP_REQUEST, (project, key, response_id))
        await self._access.write(scene, 0, NOT_SAVED)


def _mark(project: str, key: str, mark: Mark, expired_at: int) -> Script[Mark]:
    values = (project, key, mark.digest, mark.response_id, mark.created_at)
    _, _, ((digest, response_id, created_at),) = yield [
        (sql.DROP_OLD_REQUESTS, (expired_at,)),
        (sql.ADD_REQUEST, values),
        (sql.FIND_REQUEST, (project, key)),
    ]
    return Mark(digest=bytes(digest), response_id=response_id, created_at=created_at)
