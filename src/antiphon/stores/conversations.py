"""Conversations in a database: the scripts on their rows. Knows no driver, no thread and no event loop."""

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from antiphon.config import Limits
from antiphon.core.ports import JOINING, Lock, Order, Page
from antiphon.errors import ApiError, ConversationLocked, ConversationNotFound, InvalidRequest, NotFound, StorageError
from antiphon.stores import sql
from antiphon.stores.script import Access, Query, Row, Scene, Script, TooLongHere, column_of, row_of, rows_of
from antiphon.wire.conversation import Conversation, ConversationList
from antiphon.wire.items import Item
from antiphon.wire.response import Response

NOT_SAVED: Final = "The conversation was not changed."

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StoredConversations:
    """Implements the port Conversations."""

    def __init__(self, access: Access, limits: Limits, inline_bytes_max: int) -> None:
        self._access = access
        self._items_max = limits.history_items_max
        self._inline_bytes_max = inline_bytes_max

    # -- writing

    async def add(self, project: str, conversation: Conversation, items: Sequence[Item]) -> None:
        rows = sql.item_rows(items, is_input=True)
        await self._write(partial(_add, project, conversation, rows), text_bytes(rows))

    async def update(self, project: str, conversation_id: str, metadata: dict[str, str]) -> Conversation:
        return await self._write(partial(_update, project, conversation_id, metadata), 0)

    async def delete(self, project: str, conversation_id: str) -> None:
        await self._write(partial(_delete, project, conversation_id), self._inline_bytes_max)

    async def add_items(
        self, project: str, conversation_id: str, items: Sequence[Item], spare_ids: Sequence[str], *, now: int
    ) -> tuple[Item, ...]:
        job = partial(_add_items, project, conversation_id, items, spare_ids, now, self._items_max)
        return await self._write(job, text_bytes(sql.item_rows(items, is_input=True)))

    async def delete_item(self, project: str, conversation_id: str, item_id: str, *, now: int) -> Conversation:
        return await self._write(partial(_delete_item, project, conversation_id, item_id, now), 0)

    async def lock(self, lock: Lock, *, version: int, now: int, until: int) -> None:
        await self._write(partial(_lock, lock, version, now, until), 0)

    async def renew(self, locks: Sequence[Lock], *, until: int) -> None:
        await self._write(partial(renew, locks, until), 0)

    async def release(self, lock: Lock) -> None:
        await self._write(partial(_release, lock), 0)

    async def _write(self, scene: Scene[T | ApiError], bytes_: int) -> T:
        outcome = await self._access.write(scene, bytes_, NOT_SAVED)
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome

    # -- reading

    async def page(self, project: str, *, limit: int, order: Order, after: str | None) -> ConversationList:
        return await self._access.read(partial(_read_list, project, limit, order, after))

    async def find(self, project: str, conversation_id: str) -> Conversation:
        return (await self._row(project, conversation_id)).conversation

    async def version(self, project: str, conversation_id: str) -> int:
        return (await self._row(project, conversation_id)).version

    async def _row(self, project: str, conversation_id: str) -> "_Row":
        found = await self._access.rows(sql.FIND_CONVERSATION, (project, conversation_id))
        if not found:
            raise ConversationNotFound(conversation_id)
        return _read_row(conversation_id, found[0])

    async def context(self, project: str, conversation_id: str) -> tuple[int, tuple[Item, ...]]:
        return await self._read_of(project, conversation_id, _read_context)

    async def items(self, project: str, conversation_id: str, *, limit: int, order: Order, after: str | None) -> Page:
        return await self._read_of(project, conversation_id, partial(_read_page, limit, order, after))

    async def item(self, project: str, conversation_id: str, item_id: str) -> Item:
        return await self._read_of(project, conversation_id, partial(_read_item, item_id))

    async def _read_of(self, project: str, conversation_id: str, read: "Reading[T]") -> T:
        look = partial(_look, project, conversation_id, read)
        try:
            return await self._access.read(partial(look, self._inline_bytes_max))
        except TooLongHere:
            return await self._access.read_far(partial(look, None))


class _Row(NamedTuple):
    """A conversation as FIND_CONVERSATION gives it; `n` holds within one transaction only."""

    n: int
    version: int
    item_count: int
    item_bytes: int
    next_position: int
    conversation: Conversation
    locked_by: str | None
    locked_until: int | None

    def is_locked(self, now: int) -> bool:
        return self.locked_until is not None and self.locked_until > now


def _read_row(conversation_id: str, found: Row) -> _Row:
    n, version, count, bytes_, position, created_at, metadata, locked_by, locked_until = found
    conversation = Conversation(id=conversation_id, created_at=created_at, metadata=sql.decode_metadata(metadata))
    return _Row(n, version, count, bytes_, position, conversation, locked_by, locked_until)


def text_bytes(rows: Sequence[sql.ItemRow]) -> int:
    """In characters, which is near enough for choosing a thread."""
    return sum(len(row.data) for row in rows)


# -- scripts that write


def _held(project: str, conversation_id: str) -> Script[_Row | None]:
    """The conversation, which nobody else changes before the transaction ends."""
    found = yield from row_of(sql.HOLD_CONVERSATION, (project, conversation_id))
    return None if found is None else _read_row(conversation_id, found)


def _add(project: str, conversation: Conversation, rows: Sequence[sql.ItemRow]) -> Script[None]:
    metadata = sql.encode_metadata(conversation.metadata)
    added = (project, conversation.id, conversation.created_at, metadata)
    (n,) = yield from column_of(sql.ADD_CONVERSATION, added)
    yield _append(project, n, 0, rows)


def _append(project: str, n: int, position: int, rows: Sequence[sql.ItemRow]) -> list[Query]:
    place = sql.conversation_places(n)[0] + position
    added: list[Query] = [
        (sql.ADD_CONVERSATION_ITEM, (place + at, project, row.id, row.data)) for at, row in enumerate(rows)
    ]
    return [*added, (sql.GROW_CONVERSATION, (len(rows), len(rows), text_bytes(rows), n))]


def _update(project: str, conversation_id: str, metadata: dict[str, str]) -> Script[Conversation | ApiError]:
    row = yield from _held(project, conversation_id)
    if row is None:
        return ConversationNotFound(conversation_id)
    yield [(sql.UPDATE_CONVERSATION, (sql.encode_metadata(metadata), project, conversation_id))]
    return replace(row.conversation, metadata=metadata)


def _delete(project: str, conversation_id: str) -> Script[ApiError | None]:
    row = yield from _held(project, conversation_id)
    if row is None:
        return ConversationNotFound(conversation_id)
    yield [
        (sql.DROP_CONVERSATION_ITEMS, sql.conversation_places(row.n)),
        (sql.DROP_CONVERSATION, (row.n,)),
    ]
    return None


def _add_items(
    project: str, conversation_id: str, items: Sequence[Item], spare_ids: Sequence[str], now: int, items_max: int
) -> Script[tuple[Item, ...] | ApiError]:
    row = yield from _held(project, conversation_id)
    if row is None:
        return ConversationNotFound(conversation_id)
    if row.is_locked(now):
        return ConversationLocked()
    if row.item_count + len(items) > items_max:
        return too_many(items_max)
    places = sql.conversation_places(row.n)
    taken = yield [(sql.FIND_CONVERSATION_ITEM, (project, item.id, *places)) for item in items]
    added = tuple(
        replace(item, id=spare) if rows else item for item, spare, rows in zip(items, spare_ids, taken, strict=True)
    )
    yield _append(project, row.n, row.next_position, sql.item_rows(added, is_input=True))
    return added


def too_many(items_max: int) -> InvalidRequest:
    return InvalidRequest(
        f"The conversation would hold more than {items_max} items (limits.history_items_max).", param="items"
    )


def _delete_item(project: str, conversation_id: str, item_id: str, now: int) -> Script[Conversation | ApiError]:
    row = yield from _held(project, conversation_id)
    if row is None:
        return ConversationNotFound(conversation_id)
    if row.is_locked(now):
        return ConversationLocked()
    places = sql.conversation_places(row.n)
    found = yield from row_of(sql.FIND_CONVERSATION_ITEM, (project, item_id, *places))
    if found is None:
        return item_not_found(item_id)
    place, data = found
    yield [
        (sql.DROP_CONVERSATION_ITEM, (place,)),
        (sql.GROW_CONVERSATION, (0, -1, -len(data), row.n)),
    ]
    return row.conversation


def item_not_found(item_id: str, *, param: str | None = None) -> NotFound:
    return NotFound(f"Item with id '{item_id[:128]}' not found.", param=param)


def _lock(lock: Lock, version: int, now: int, until: int) -> Script[ApiError | None]:
    values = (lock.response_id, until, lock.project, lock.conversation_id, version, now)
    if (yield from rows_of(sql.LOCK, values)):
        return None
    is_there = yield from rows_of(sql.FIND_CONVERSATION, (lock.project, lock.conversation_id))
    return ConversationLocked() if is_there else ConversationNotFound(lock.conversation_id)


def renew(locks: Sequence[Lock], until: int) -> Script[None]:
    yield [(sql.RENEW_LOCK, (until, lock.project, lock.conversation_id, lock.response_id)) for lock in locks]


def _release(lock: Lock) -> Script[None]:
    yield [(sql.RELEASE_LOCK, (lock.project, lock.conversation_id, lock.response_id))]


def join(project: str, response: Response, rows: Sequence[sql.ItemRow]) -> Script[None]:
    """A part of saving a response that was made in a conversation: its items stand behind what came before, and the
    conversation is free again."""
    assert response.conversation
    conversation_id = response.conversation.id
    row = yield from _held(project, conversation_id)
    if row is None:
        return  # deleted meanwhile
    if response.status not in JOINING:
        yield [(sql.RELEASE_LOCK, (project, conversation_id, response.id))]
    elif row.locked_by == response.id:
        yield _append(project, row.n, row.next_position, rows)
    else:
        raise taken()


def taken() -> StorageError:
    """Its lock ended because this process stood still for too long, and somebody else changed the conversation."""
    return StorageError(f"{StorageError().message} (its conversation was changed meanwhile)")


# -- scripts that read


def _read_list(project: str, limit: int, order: Order, after: str | None) -> Script[ConversationList]:
    place = sql.FIRST[order]
    if after is not None:
        found = yield from row_of(sql.FIND_CONVERSATION_PLACE, (project, after))
        if found is None:
            raise ConversationNotFound(after, param="after")
        place = found
    rows = yield from rows_of(sql.CONVERSATION_PAGE[order], (project, *place, limit + 1))
    page = (
        Conversation(id=conversation_id, created_at=created_at, metadata=sql.decode_metadata(metadata))
        for conversation_id, created_at, metadata in rows[:limit]
    )
    return ConversationList.of(tuple(page), has_more=len(rows) > limit)


class Reading(Protocol[T_co]):
    """Reads something of the conversation of this row."""

    def __call__(self, row: _Row, project: str, /) -> Script[T_co]: ...


def _look(project: str, conversation_id: str, read: Reading[T], bytes_max: int | None) -> Script[T]:
    found = yield from row_of(sql.FIND_CONVERSATION, (project, conversation_id))
    if found is None:
        raise ConversationNotFound(conversation_id)
    row = _read_row(conversation_id, found)
    if bytes_max is not None and row.item_bytes > bytes_max:
        raise TooLongHere
    return (yield from read(row, project))


def _read_context(row: _Row, _project: str) -> Script[tuple[int, tuple[Item, ...]]]:
    found = yield from column_of(sql.READ_CONVERSATION, sql.conversation_places(row.n))
    return row.version, sql.decode_items(found)


def _read_page(limit: int, order: Order, after: str | None, row: _Row, project: str) -> Script[Page]:
    first, end = sql.conversation_places(row.n)
    begin, edge = (first - 1, end) if order == "asc" else (end, first)
    if after is not None:
        cursor = yield from row_of(sql.FIND_CONVERSATION_ITEM, (project, after, first, end))
        if cursor is None:
            raise item_not_found(after, param="after")
        begin = cursor[0]
    found = yield from column_of(sql.READ_CONVERSATION_PAGE[order], (begin, edge, limit + 1))
    return Page(items=sql.decode_items(found[:limit]), has_more=len(found) > limit)


def _read_item(item_id: str, row: _Row, project: str) -> Script[Item]:
    places = sql.conversation_places(row.n)
    found = yield from row_of(sql.FIND_CONVERSATION_ITEM, (project, item_id, *places))
    if found is None:
        raise item_not_found(item_id)
    return sql.decode_items([found[1]])[0]
