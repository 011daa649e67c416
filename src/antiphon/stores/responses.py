"""Responses in a database: what a save writes, and what reads and erases. Knows no driver, no thread, no event loop."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

from antiphon.core.ports import ApiKey, Order, Page
from antiphon.errors import NotFound, StorageError, Unreadable
from antiphon.stores import conversations, sql
from antiphon.stores.script import Query, Row, Script, TooLongHere, column_of, row_of, rows_of
from antiphon.wire.items import Item
from antiphon.wire.response import Response

NOT_SAVED: Final = StorageError().message

T = TypeVar("T")


class Saving(NamedTuple):
    project: str
    response: Response
    body: str
    rows: list[sql.ItemRow]
    history: Sequence[Item]

    @classmethod
    def of(cls, project: str, response: Response, given: Sequence[Item], history: Sequence[Item]) -> "Saving":
        if len(given) + len(history) + len(response.output) > sql.PLACES:
            raise StorageError(f"{NOT_SAVED} (it has more than {sql.PLACES} items)")
        rows = sql.item_rows(given, is_input=True) + sql.item_rows(response.output, is_input=False)
        return cls(project, response, sql.encode_body(response), rows, history)

    @property
    def text_bytes(self) -> int:
        """In characters, which is near enough."""
        return len(self.body) + conversations.text_bytes(self.rows)

    def orphaned(self) -> "Saving":
        """The parent was erased while this ran: what it said stands here now."""
        return self._replace(rows=sql.item_rows(self.history, is_input=True) + self.rows, history=())


Reading: TypeAlias = Callable[[int], Script[T]]
"""Reads something of the response with this number, which holds within one transaction only."""


def look(project: str, response_id: str, read: Reading[T], bytes_max: int) -> Script[T | None]:
    """None when it is unknown or deleted. Raises TooLongHere where reading it costs more than so many bytes."""
    found = yield from row_of(sql.FIND_LIVING, (project, response_id))
    if found is None:
        return None
    n, chain_bytes = found
    if chain_bytes > bytes_max:
        raise TooLongHere
    return (yield from read(n))


def read_response(n: int) -> Script[Response]:
    ((body, _),), output = yield [(sql.READ_BODY, (n,)), (sql.READ_OUTPUT, sql.places(n))]
    return sql.decode_response(body, [data for (data,) in output])


def read_context(n: int) -> Script[tuple[Item, ...]]:
    return sql.decode_items((yield from column_of(sql.READ_CONTEXT, (n,))))


def read_page(limit: int, order: Order, after: str | None, n: int) -> Script[Page]:
    own, _ = sql.places(n)
    begin = sql.PAGE_BEGINS[order]
    if after is not None:
        (begin,) = yield from column_of(sql.FIND_PLACE[order], (n, own, after))
        if begin is None:
            raise NotFound(f"Item with id '{after[:128]}' not found.", param="after")
    found = yield from column_of(sql.READ_PAGE[order], (n, own, begin, limit + 1))
    return Page(items=sql.decode_items(found[:limit]), has_more=len(found) > limit)


def read_items(project: str, ids: Sequence[str]) -> Script[dict[str, Item]]:
    found: dict[str, str] = {}
    for query in (sql.READ_ITEM, sql.READ_CONVERSATIONS_ITEM):
        wanted = [item_id for item_id in ids if item_id not in found]
        rows = yield [(query, (project, item_id)) for item_id in wanted]
        found |= {item_id: one[0][0] for item_id, one in zip(wanted, rows, strict=True) if one}
    items = {item_id: found[item_id] for item_id in ids if item_id in found}
    return dict(zip(items, sql.decode_items(list(items.values())), strict=True))


def delete(project: str, response_id: str) -> Script[bool]:
    yield [(sql.ALONE, (project,))]
    found = yield from row_of(sql.FIND_LIVING, (project, response_id))
    if found is None:
        return False
    yield from erase(project, found[:1])
    return True


def erase(project: str, numbers: Sequence[int]) -> Script[None]:
    """Of living ones; whoever does it is ALONE. Their items stay while a descendant lives, and go with the last."""
    bodies = yield [(sql.READ_BODY, (n,)) for n in numbers]
    drops: list[Query] = []
    for n, ((body, created_at),) in zip(numbers, bodies, strict=True):
        labels = yield from labels_of(project, n, created_at, body)
        *_, unneeded = yield [
            *drops,
            *((sql.DROP_METADATA, (project, key, value, created_at, n)) for key, value in labels.items()),
            (sql.DROP_EVENTS, (n,)),
            (sql.DROP_RUN, (n,)),
            (sql.ERASE_RESPONSE, (n,)),
            (sql.FIND_UNNEEDED, (n,)),
        ]
        drops = [drop for (one,) in unneeded for drop in _drops(one)]
    yield drops


def _drops(n: int) -> tuple[Query, Query]:
    return (sql.DROP_ITEMS, sql.places(n)), (sql.DROP_RESPONSE, (n,))


def labels_of(project: str, n: int, created_at: int, body: str) -> Script[dict[str, str]]:
    """The metadata of a response, whatever has become of its body."""
    try:
        return sql.decode_labels(body)
    except Unreadable:
        return dict((yield from rows_of(sql.READ_METADATA, (project, created_at, n))))


def add_key(key: ApiKey) -> Script[list[Row]]:
    return rows_of(sql.ADD_KEY, (key.id, key.project, key.name, key.hint, key.digest, key.created_at))


def revoke_key(key_id: str) -> Script[list[Row]]:
    """A row when there was one."""
    return rows_of(sql.DROP_KEY, (key_id,))


def keys_of(rows: Sequence[Row]) -> tuple[ApiKey, ...]:
    """The rows of READ_KEYS."""
    return tuple(
        ApiKey(id=id_, project=project, name=name, hint=hint, digest=digest, created_at=created_at)
        for id_, project, name, hint, digest, created_at in rows
    )
