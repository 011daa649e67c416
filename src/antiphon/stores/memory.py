"""MemoryStore: the verified fake, which passes the suite that SqliteStore passes. Knows no file, and keeps nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec import UNSET

from antiphon.config import Limits, Storage
from antiphon.core.ports import ApiKey, Check, Order, Page, ResponsePage, ResponseQuery
from antiphon.errors import NotFound, StorageError
from antiphon.stores.memory_conversations import MemoryConversations
from antiphon.stores.memory_files import MemoryFiles
from antiphon.stores.memory_requests import MemoryRequests
from antiphon.stores.memory_retention import MemoryRetention
from antiphon.stores.memory_rollups import MemoryRollups
from antiphon.stores.memory_runs import MemoryRuns
from antiphon.wire import codec
from antiphon.wire.items import Item
from antiphon.wire.response import Response


@dataclass
class _Kept:
    response: Response | None
    """None: erased, and kept for its descendants."""
    parent: tuple[str, str] | None
    given: tuple[Item, ...]
    output: tuple[Item, ...]
    children: int = 0


class MemoryStore:
    """Everything in dictionaries, in the order in which it came."""

    def __init__(self, storage: Storage, limits: Limits) -> None:
        del storage  # nothing to place
        self._page_chars_max = limits.page_chars_max
        self.conversations = MemoryConversations(limits)
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._keys: dict[str, ApiKey] = {}
        self._key_list: tuple[ApiKey, ...] = ()
        self.files = MemoryFiles()
        self.runs = MemoryRuns(self, self.conversations)
        self.requests = MemoryRequests()
        self.retention = MemoryRetention(self, self.runs)
        self.rollups = MemoryRollups()

    async def save(self, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> None:
        if (project, response.id) in self._kept:
            raise StorageError(f"The response '{response.id}' is already stored.")
        if any(item.id is UNSET for item in (*history, *given, *response.output)):
            raise AssertionError("an item without an id cannot be stored: planning gives each one")
        if response.conversation:
            self.conversations.join(project, response, (*given, *response.output))
        if response.store:
            self.keep(project, response, given, history)

    def keep(self, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> None:
        before = response.previous_response_id
        parent = (project, before) if before is not None and (project, before) in self._kept else None
        own = (*given,) if parent or before is None else (*history, *given)
        self._kept[project, response.id] = _Kept(response, parent, own, response.output)
        if parent:
            self._kept[parent].children += 1

    def change(self, project: str, response: Response) -> None:
        """A background response, as it has become."""
        kept = self._kept[project, response.id]
        kept.response, kept.output = response, response.output

    async def response(self, project: str, response_id: str) -> Response | None:
        kept = self._living(project, response_id)
        return kept.response if kept else None

    async def has(self, project: str, response_id: str) -> bool:
        return self._living(project, response_id) is not None

    async def responses(self, project: str, query: ResponseQuery) -> ResponsePage:
        """A plain look at all of them, so that it is easily seen to be right."""
        living = self._listed(project)
        if query.order == "desc":
            living.reverse()
        if query.after is not None:
            places = {response.id: place for place, response in enumerate(living, 1)}
            if query.after not in places:
                raise NotFound(f"Response with id '{query.after[:128]}' not found.", param="after")
            living = living[places[query.after] :]
        return self._page_of(self._matching(project, living, query), query.limit)

    def _listed(self, project: str) -> list[Response]:
        living = [kept.response for (owner, _), kept in self._kept.items() if owner == project and kept.response]
        return sorted(living, key=lambda response: response.created_at)  # what is equal stays as it was saved

    def matching(self, project: str, query: ResponseQuery) -> list[Response]:
        """All, oldest first."""
        return self._matching(project, self._listed(project), query)

    def _matching(self, project: str, living: Sequence[Response], query: ResponseQuery) -> list[Response]:
        matching = [response for response in living if _matches(response, query)]
        if query.previous_response_id is None:
            return matching
        parent = (project, query.previous_response_id)
        return [response for response in matching if self._kept[project, response.id].parent == parent]

    def projects(self) -> set[str]:
        return {project for (project, _), kept in self._kept.items() if kept.response}

    def _page_of(self, matching: Sequence[Response], limit: int) -> ResponsePage:
        page: list[Response] = []
        chars = 0
        for response in matching[:limit]:
            chars += len(codec.encode(response))
            if page and chars > self._page_chars_max:
                break
            page.append(response)
        return ResponsePage(responses=(*page,), has_more=len(matching) > len(page))

    async def delete(self, project: str, response_id: str) -> bool:
        kept = self._living(project, response_id)
        if kept is None:
            return False
        kept.response = None
        self.runs.drop(project, response_id)
        self._drop_unneeded((project, response_id))
        return True

    def _drop_unneeded(self, key: tuple[str, str] | None) -> None:
        while key is not None and self._kept[key].response is None and not self._kept[key].children:
            key = self._kept.pop(key).parent
            if key is not None:
                self._kept[key].children -= 1

    async def context(self, project: str, response_id: str) -> tuple[Item, ...] | None:
        kept = self._living(project, response_id)
        return (*self._before(kept), *kept.given, *kept.output) if kept else None

    async def input_items(
        self, project: str, response_id: str, *, limit: int, order: Order, after: str | None
    ) -> Page | None:
        kept = self._living(project, response_id)
        if kept is None:
            return None
        listed = [*self._before(kept), *kept.given]
        if order == "desc":
            listed.reverse()
        begin = max((at for at, item in enumerate(listed, 1) if item.id == after), default=0)
        if after is not None and not begin:
            raise NotFound(f"Item with id '{after[:128]}' not found.", param="after")
        return Page(items=tuple(listed[begin : begin + limit]), has_more=len(listed) > begin + limit)

    async def items(self, project: str, ids: Sequence[str]) -> dict[str, Item]:
        wanted = set(ids)
        found = {str(item.id): item for item in self.conversations.every_item(project) if item.id in wanted}
        for (owner, _), kept in self._kept.items():
            if owner == project:
                found |= {str(item.id): item for item in (*kept.given, *kept.output) if item.id in wanted}
        return found

    async def keys(self) -> Sequence[ApiKey]:
        return self._key_list

    async def add_key(self, key: ApiKey) -> None:
        if any(key.id == known.id or key.digest == known.digest for known in self._key_list):
            raise StorageError("The key is already stored.")
        self._keys[key.id] = key
        self._key_list = (*self._keys.values(),)

    async def revoke_key(self, key_id: str) -> bool:
        revoked = self._keys.pop(key_id, None)
        self._key_list = (*self._keys.values(),)
        return revoked is not None

    async def check(self) -> Check:
        return Check(name="store", ok=True, detail="in memory: nothing is kept when the server stops")

    async def close(self) -> None:
        self._kept.clear()

    def _living(self, project: str, response_id: str) -> _Kept | None:
        kept = self._kept.get((project, response_id))
        return kept if kept and kept.response else None

    def _before(self, kept: _Kept) -> Iterator[Item]:
        chain = []
        while kept.parent is not None:
            kept = self._kept[kept.parent]
            chain.append(kept)
        for ancestor in reversed(chain):
            yield from ancestor.given
            yield from ancestor.output


def _matches(response: Response, query: ResponseQuery) -> bool:
    return (
        query.model in (None, response.model)
        and query.status in (None, response.status)
        and (query.created_after is None or query.created_after <= response.created_at)
        and (query.created_before is None or response.created_at < query.created_before)
        and set(query.metadata) <= response.metadata.items()
    )
