"""DatabaseStore: what a store on SQL is, whichever database plays its scripts. Knows no driver, and no thread."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from antiphon.config import Limits
from antiphon.core.ports import ApiKey, Order, Page, ResponsePage, ResponseQuery
from antiphon.stores import responses, sql
from antiphon.stores.conversations import StoredConversations
from antiphon.stores.files import StoredFiles
from antiphon.stores.listing import Bounds, Search, step
from antiphon.stores.requests import StoredRequests
from antiphon.stores.responses import Reading
from antiphon.stores.retention import StoredRetention
from antiphon.stores.rollups import StoredRollups
from antiphon.stores.runs import News, StoredRuns
from antiphon.stores.script import Access, TooLongHere
from antiphon.wire.items import Item
from antiphon.wire.response import Response

UNBOUNDED: Final = sys.maxsize
AWAY: Final = Bounds(entries_max=20_000, bytes_max=UNBOUNDED)
"""So that a list of what hardly exists, in a large table, lets other reads pass in between."""
LOOKUPS_MAX: Final = 64
"""Items looked up where others wait: beyond it, elsewhere."""
ERASING_BYTES: Final = 256 * 1024
"""What erasing costs is not known before: with its last descendant, a whole chain goes."""

T = TypeVar("T")


class DatabaseStore:
    """Implements the port Store, but for saving, checking and closing. `here` is what may be read where others wait."""

    def __init__(self, access: Access, limits: Limits, news: News, here: Bounds) -> None:
        self._access = access
        self._here, self._away = here, AWAY
        self.conversations = StoredConversations(access, limits, here.bytes_max)
        self.files = StoredFiles(access)
        self.runs = StoredRuns(access, news)
        self.requests = StoredRequests(access)
        self.retention = StoredRetention(access)
        self.rollups = StoredRollups(access)
        self._page_chars_max = limits.page_chars_max
        self._keys: tuple[ApiKey, ...] = ()
        self._keys_version = -1

    # -- reading

    async def response(self, project: str, response_id: str) -> Response | None:
        return await self._read_of(project, response_id, responses.read_response)

    async def has(self, project: str, response_id: str) -> bool:
        return bool(await self._access.rows(sql.FIND_LIVING, (project, response_id)))

    async def responses(self, project: str, query: ResponseQuery) -> ResponsePage:
        search = Search(project=project, query=query, page_chars_max=self._page_chars_max)
        with suppress(TooLongHere):
            search = await self._access.read(partial(step, search, self._here))
        while not search.is_over:
            search = await self._access.read_far(partial(step, search, self._away))
        return search.page

    async def context(self, project: str, response_id: str) -> tuple[Item, ...] | None:
        return await self._read_of(project, response_id, responses.read_context)

    async def input_items(
        self, project: str, response_id: str, *, limit: int, order: Order, after: str | None
    ) -> Page | None:
        return await self._read_of(project, response_id, partial(responses.read_page, limit, order, after))

    async def items(self, project: str, ids: Sequence[str]) -> dict[str, Item]:
        scene = partial(responses.read_items, project, list(dict.fromkeys(ids)))
        return await (self._access.read if len(ids) <= LOOKUPS_MAX else self._access.read_far)(scene)

    async def keys(self) -> Sequence[ApiKey]:
        """The same object until a key is added or revoked, by whichever process."""
        ((version,),) = await self._access.rows(sql.KEYS_VERSION, ())
        if version != self._keys_version:
            # Read after its version: at worst it is newer, and will be read once more.
            self._keys = responses.keys_of(await self._access.rows(sql.READ_KEYS, ()))
            self._keys_version = version
        return self._keys

    async def _read_of(self, project: str, response_id: str, reading: Reading[T]) -> T | None:
        look = partial(responses.look, project, response_id, reading)
        try:
            return await self._access.read(partial(look, self._here.bytes_max))
        except TooLongHere:
            return await self._access.read_far(partial(look, UNBOUNDED))

    # -- writing

    async def delete(self, project: str, response_id: str) -> bool:
        scene = partial(responses.delete, project, response_id)
        return await self._access.write(scene, ERASING_BYTES, "The response was not deleted.")

    async def add_key(self, key: ApiKey) -> None:
        await self._access.write(partial(responses.add_key, key), 0, "The key was not saved.")

    async def revoke_key(self, key_id: str) -> bool:
        return bool(await self._access.write(partial(responses.revoke_key, key_id), 0, "The key was not revoked."))
