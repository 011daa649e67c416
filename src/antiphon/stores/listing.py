"""Listing responses: which index leads, and a step along it. Knows no driver, no thread and no event loop.

How it works. Each filter that can be rare has an index in the order of the list, (created_at, n). The rarest of those
asked for leads, which a count of a few entries tells; the others are asked about each of its entries, in indexes too.
No row is read that is not of the page.

What remains costly is a page of filters that are each common and never meet. So the leading index is walked in steps
of so many entries. A step is a transaction and reads the responses it finds: n means nothing outside it. Between steps
only the place is kept, as between pages.

What goes on from one response has an index too, but not in the order of the list: such entries are sorted, at 2 to 3 us
each. A few of them lead whatever else is asked for; many are a filter, as the others are.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from antiphon.core.ports import Order, ResponsePage, ResponseQuery
from antiphon.errors import NotFound
from antiphon.stores import sql
from antiphon.stores.script import Row, Script, TooLongHere, column_of, row_of
from antiphon.wire.response import Response

COUNTED_MAX: Final = 4_000
"""Entries looked at, all indexes together, to find the rarest: a fraction of a millisecond."""
CHILDREN_MAX: Final = 500
"""That are sorted for a page: about a millisecond."""
LATEST: Final = 2**63 - 1

FIND_CURSOR: Final = "SELECT created_at, n FROM responses WHERE project = ? AND id = ? AND deleted <> 1"
OWN_BYTES: Final = """
SELECT r.chain_bytes - coalesce(p.chain_bytes, 0)
FROM responses r LEFT JOIN responses p ON p.n = r.parent WHERE r.n = ?"""
_IS_CHILD: Final = "parent = (SELECT p.n FROM responses p WHERE p.project = ? AND p.id = ?)"
"""By the parent's id, since its number may be another's in the next step."""
COUNT_CHILDREN: Final = f"""
SELECT count(*) FROM (SELECT 1 FROM responses INDEXED BY responses_by_parent WHERE {_IS_CHILD} LIMIT ?) c"""  # noqa: S608


class Bounds(NamedTuple):
    """What one step may cost."""

    entries_max: int
    """Of the leading index."""
    bytes_max: int
    """Of the responses found: beyond it, TooLongHere."""


class Source(NamedTuple):
    """An index that holds all that can match, in the order of the list."""

    table: str
    n: str
    """What it calls the number of a response."""
    condition: str
    values: tuple[str, ...]
    label: tuple[str, str] | None = None
    """The key and value it stands for, if it is metadata's."""


class Search(Struct, frozen=True, kw_only=True):
    """How far the making of one page has come."""

    project: str
    query: ResponseQuery
    page_chars_max: int
    source: Source | None = None
    """None: not begun."""
    place: sql.Place = (0, 0)
    """(created_at, n) behind which it goes on."""
    found: tuple[Response, ...] = ()
    chars: int = 0
    has_more: bool = False
    is_over: bool = False

    @property
    def page(self) -> ResponsePage:
        return ResponsePage(responses=self.found, has_more=self.has_more)


def step(search: Search, bounds: Bounds) -> Script[Search]:
    """One step further. Raises TooLongHere with nothing lost, and NotFound for an unknown cursor."""
    search = yield from begun(search)
    wanted = search.query.limit + 1 - len(search.found)
    found = yield from matches(search, bounds.entries_max, wanted)
    search = yield from _with_read(search, found[: wanted - 1], bounds)
    if search.is_over or len(found) == wanted:
        return replace(search, has_more=True, is_over=True)
    return (yield from behind(search, bounds.entries_max))


def matches(search: Search, entries_max: int, wanted: int) -> Script[list[int]]:
    """The numbers of so many that match among the next entries."""
    assert search.source
    query, values = matching(search.project, search.query, search.source)
    return column_of(query, (*_walk(search, search.source), entries_max, *values, wanted))


def behind(search: Search, entries_max: int) -> Script[Search]:
    """Further by so many entries."""
    assert search.source
    last_place = last_walked(search.query.order, search.source)
    last = yield from row_of(last_place, (*_walk(search, search.source), entries_max - 1))
    return replace(search, is_over=True) if last is None else replace(search, place=(last[0], last[1]))


def _with_read(search: Search, found: list[int], bounds: Bounds) -> Script[Search]:
    """Over, when the page has grown as large as it may."""
    sizes = yield [(OWN_BYTES, (n,)) for n in found]
    own_bytes = [size for ((size,),) in sizes]
    if sum(own_bytes) > bounds.bytes_max:
        raise TooLongHere
    page, chars = list(search.found), search.chars
    for some in _together(found, own_bytes, search.page_chars_max):
        bodies = yield [(sql.READ_BODY, (n,)) for n in some]
        outputs = yield [(sql.READ_OUTPUT, sql.places(n)) for n in some]
        for ((body, _),), rows in zip(bodies, outputs, strict=True):
            output = [data for (data,) in rows]
            chars += len(body) + sum(map(len, output))
            if page and chars > search.page_chars_max:
                return replace(search, found=(*page,), is_over=True)
            page.append(sql.decode_response(body, output))
    return replace(search, found=(*page,), chars=chars)


def _together(found: Sequence[int], own_bytes: Sequence[int], bytes_max: int) -> Iterator[Sequence[int]]:
    """What may be in memory at once, though always one: a hundred large responses are gigabytes."""
    begin, size = 0, 0
    for at, more in enumerate(own_bytes):
        if at > begin and size + more > bytes_max:
            yield found[begin:at]
            begin, size = at, 0
        size += more
    yield found[begin:]


# -- where it begins


def begun(search: Search) -> Script[Search]:
    """With its source, and the place where it begins."""
    if search.source is not None:
        return search
    place = yield from _first_place(search)
    search = replace(search, place=place)
    source = yield from _leading(search)
    return replace(search, source=source)


def _first_place(search: Search) -> Script[sql.Place]:
    """Before the first entry of the period or, if that is further on, at the cursor."""
    query = search.query
    is_asc = query.order == "asc"
    edge = query.created_after or 0 if is_asc else _end(query)
    begin = (edge, -1)  # no n is so small: all of that second come after it, none before it
    if query.after is None:
        return begin
    cursor = yield from row_of(FIND_CURSOR, (search.project, query.after))
    if cursor is None:
        raise NotFound(f"Response with id '{query.after[:128]}' not found.", param="after")
    return (max if is_asc else min)(begin, (cursor[0], cursor[1]))


def _end(query: ResponseQuery) -> int:
    return LATEST if query.created_before is None else query.created_before


def _walk(search: Search, source: Source) -> Row:
    return (search.project, *source.values, *_range(search))


def _range(search: Search) -> tuple[int, int, int]:
    """From the place to the other edge of the period."""
    query = search.query
    return (*search.place, _end(query) if query.order == "asc" else query.created_after or 0)


def _leading(search: Search) -> Script[Source]:
    children = children_of(search.project, search.query)
    if children is not None:
        (count,) = yield from column_of(COUNT_CHILDREN, (*children.values, CHILDREN_MAX + 1))
        if count <= CHILDREN_MAX:
            return children
    return (yield from _rarest(search))


def children_of(project: str, query: ResponseQuery) -> Source | None:
    """What goes on from one response, if that is asked for."""
    if query.previous_response_id is None:
        return None
    # Not `deleted = 0`: for that, PostgreSQL may walk an index that is in the order of the list.
    table = "responses INDEXED BY responses_by_parent"
    return Source(table, "n", f"deleted <> 1 AND {_IS_CHILD}", (project, query.previous_response_id))


def _rarest(search: Search) -> Script[Source]:
    sources = possible(search.query)
    rarest, fewest = sources[0], COUNTED_MAX // len(sources)
    for source in sources if len(sources) > 1 else ():
        counted = (search.project, *source.values, *_range(search), fewest)
        (count,) = yield from column_of(count_of(search.query.order, source), counted)
        if count < fewest:
            rarest, fewest = source, count
    return rarest


def possible(query: ResponseQuery) -> list[Source]:
    """What may lead, the likely rarest first."""
    sources = []
    if query.status not in (None, "completed"):
        condition = "deleted = 0 AND status <> 'completed' AND status = ?"
        sources.append(Source("responses INDEXED BY responses_by_status", "n", condition, (str(query.status),)))
    if query.model is not None:
        condition = "deleted = 0 AND model = ?"
        sources.append(Source("responses INDEXED BY responses_by_model", "n", condition, (query.model,)))
    sources += [Source("metadata", "response", "key = ? AND value = ?", label, label) for label in query.metadata]
    return sources or [Source("responses INDEXED BY responses_by_time", "n", "deleted = 0", ())]


# -- queries: all text here is constant, and what a client said is bound

_BEYOND: dict[Order, str] = {
    "asc": "(created_at, {n}) > (?, ?) AND created_at < ?",
    "desc": "(created_at, {n}) < (?, ?) AND created_at >= ?",
}
"""In the indexes of `responses` SQLite seeks by created_at alone, n being the row's own number: of the place's second,
what lies before the place is passed over, some 40 ns each."""
_SORTED: dict[Order, str] = {"asc": "created_at, {n}", "desc": "created_at DESC, {n} DESC"}
_HAS_LABEL = """EXISTS (SELECT 1 FROM metadata m
  WHERE m.project = ? AND m.key = ? AND m.value = ? AND m.created_at = w.created_at AND m.response = w.n)"""
_IS_SO = """EXISTS (SELECT 1 FROM responses r INDEXED BY responses_by_time
  WHERE r.project = ? AND r.created_at = w.created_at AND r.n = w.n AND r.deleted = 0 AND {is_so})"""

_GOES_ON = f"EXISTS (SELECT 1 FROM responses r WHERE r.n = w.n AND r.{_IS_CHILD})"  # noqa: S608


def _walked(order: Order, source: Source) -> str:
    """Entries of the source from a place on. Takes the project, the source's values, and a range."""
    riding = "" if source.label else ", model, status"
    where = f"project = ? AND {source.condition} AND {_BEYOND[order]} ORDER BY {_SORTED[order]}".format(n=source.n)
    return f"SELECT created_at, {source.n} AS n{riding} FROM {source.table} WHERE {where}"  # noqa: S608


def count_of(order: Order, source: Source) -> str:
    return f"SELECT count(*) FROM ({_walked(order, source)} LIMIT ?) w"  # noqa: S608


def last_walked(order: Order, source: Source) -> str:
    """The place of the last entry of a step; none where the source ends before. Takes how many come before it."""
    return f"{_walked(order, source)} LIMIT 1 OFFSET ?"


def matching(project: str, query: ResponseQuery, source: Source) -> tuple[str, Row]:
    """The query for those of the next entries that match, and its values behind the number of entries."""
    conditions, values = ["true"], list[str]()
    for label in query.metadata:
        if label != source.label:
            conditions.append(_HAS_LABEL)
            values += [project, *label]
    columns = {"model": query.model, "status": query.status}
    asked = {column: value for column, value in columns.items() if value is not None}
    if asked and source.label:
        conditions.append(_IS_SO.format(is_so=" AND ".join(f"r.{column} = ?" for column in asked)))
        values += [project, *asked.values()]
    elif asked:
        conditions += [f"w.{column} = ?" for column in asked]
        values += asked.values()
    children = children_of(project, query)
    if children is not None and children != source:
        conditions.append(_GOES_ON)
        values += children.values
    walked = f"SELECT w.n FROM ({_walked(query.order, source)} LIMIT ?) w"  # noqa: S608
    in_order = f"/* ORDER BY {_SORTED[query.order].format(n='w.n')} */"  # SQLite keeps to it by itself
    return f"{walked} WHERE {' AND '.join(conditions)} {in_order} LIMIT ?", (*values,)
