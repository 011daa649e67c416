"""The queries by name, the rows they carry, and the numbered migrations. Knows no driver, no thread, no event loop.

Parameters are `?`, in the order in which they stand. Every query that takes an id takes its project too; the others
take the number `n` of a response or conversation, or a place, that such a query has found in the same transaction.
"""

from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from antiphon.core.ports import Order
from antiphon.errors import SettingsError, Unreadable
from antiphon.stores import script
from antiphon.wire import codec
from antiphon.wire.events import Event
from antiphon.wire.items import Item
from antiphon.wire.request import CreateResponse
from antiphon.wire.response import Response

PLACES: Final = 1 << 20
"""Items one response can hold, far above `limits.history_items_max`. Part of the stored format: see `items.place`."""

CONVERSATION_PLACES: Final = 1 << 32
"""Items that can ever be added to one conversation. Part of the stored format: see `conversation_items.place`."""

# -- queries

BEYOND: Final[dict[Order, str]] = {
    "asc": "(created_at, n) > (?, ?) ORDER BY created_at, n",
    "desc": "(created_at, n) < (?, ?) ORDER BY created_at DESC, n DESC",
}
"""Behind a place in time; FIRST is the place where a list begins."""
FIRST: Final[dict[Order, script.Row]] = {"asc": (-1, -1), "desc": (2**63 - 1, 2**63 - 1)}

ADD_RESPONSE = """
INSERT INTO responses (project, id, parent, chain_bytes, status, model, created_at, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
ADD_ITEM = "INSERT INTO items (place, project, id, is_input, type, data) VALUES (?, ?, ?, ?, ?, ?)"
ADD_METADATA = "INSERT INTO metadata (project, key, value, created_at, response) VALUES (?, ?, ?, ?, ?)"

FIND_PARENT = "SELECT n, chain_bytes FROM responses WHERE project = ? AND id = ?"
"""An erased one too: its items are still there for its descendants."""
FIND_LIVING = "SELECT n, chain_bytes FROM responses WHERE project = ? AND id = ? AND deleted <> 1"
"""Not `deleted = 0`: for that PostgreSQL, while a table is new to it, may read all of an index of the lists."""
READ_BODY = "SELECT body, created_at FROM responses WHERE n = ?"
READ_OUTPUT = "SELECT data FROM items WHERE place >= ? AND place < ? AND is_input = 0 ORDER BY place"
READ_ITEM = "SELECT data FROM items WHERE project = ? AND id = ? ORDER BY place DESC LIMIT 1"
"""The newest of that id."""

_CHAIN = """
WITH RECURSIVE chain (n, parent) AS (
  SELECT n, parent FROM responses WHERE n = ?
  UNION ALL
  SELECT r.n, r.parent FROM chain c CROSS JOIN responses r WHERE r.n = c.parent
)"""
_ITEMS_OF_CHAIN = f"chain c CROSS JOIN items i WHERE i.place >= c.n * {PLACES} AND i.place < (c.n + 1) * {PLACES}"

READ_CONTEXT = f"{_CHAIN} SELECT i.data FROM {_ITEMS_OF_CHAIN} ORDER BY i.place"  # noqa: S608 - constants only

_INPUT_OF_CHAIN = f"{_ITEMS_OF_CHAIN} AND (i.place < ? OR i.is_input = 1)"
"""Takes the place where the response's own items begin: of those only the input counts."""

FIND_PLACE: dict[Order, str] = {
    "asc": f"{_CHAIN} SELECT max(i.place) FROM {_INPUT_OF_CHAIN} AND i.id = ?",  # noqa: S608
    "desc": f"{_CHAIN} SELECT min(i.place) FROM {_INPUT_OF_CHAIN} AND i.id = ?",  # noqa: S608
}
"""Where a page ended. An id that is there twice counts where it is furthest, so that paging never runs in circles."""

_PAGE = f"""{_CHAIN}, page (place) AS (
  SELECT i.place FROM {_INPUT_OF_CHAIN} AND i.place {{beyond}} ? ORDER BY i.place {{order}} LIMIT ?
)
SELECT i.data FROM page p CROSS JOIN items i WHERE i.place = p.place ORDER BY i.place {{order}}"""  # noqa: S608
"""Places first, so that the text of items outside the page is never read."""
READ_PAGE: dict[Order, str] = {
    "asc": _PAGE.format(beyond=">", order="ASC"),
    "desc": _PAGE.format(beyond="<", order="DESC"),
}
PAGE_BEGINS: dict[Order, int] = {"asc": -1, "desc": 2**63 - 1}

ALONE = "SELECT /* pg_advisory_xact_lock(hashtextextended( */ ? /* , 0)) */"
"""Two that erase in one project wait for each other: of two siblings erased at once, each would leave the parent to the
other. In SQLite one alone writes."""
ERASE_RESPONSE = "UPDATE responses SET deleted = 1, body = NULL WHERE n = ?"
FIND_UNNEEDED = """
WITH RECURSIVE unneeded (n, parent) AS (
  SELECT n, parent FROM responses r
  WHERE n = ? AND NOT EXISTS (SELECT 1 FROM responses child WHERE child.parent = r.n)
  UNION ALL
  SELECT r.n, r.parent FROM unneeded u CROSS JOIN responses r
  WHERE r.n = u.parent AND r.deleted = 1
    AND NOT EXISTS (SELECT 1 FROM responses child WHERE child.parent = r.n AND child.n <> u.n)
)
SELECT n FROM unneeded ORDER BY n DESC"""
"""An erased response without children, then its erased ancestors that had no other child: child before parent."""
DROP_RESPONSE = "DELETE FROM responses WHERE n = ?"
DROP_ITEMS = "DELETE FROM items WHERE place >= ? AND place < ?"
READ_METADATA = "SELECT key, value FROM metadata WHERE project = ? AND created_at = ? AND response = ?"
"""Reads past all of the project's: for a body that cannot be understood alone."""
DROP_METADATA = """
DELETE FROM metadata WHERE project = ? AND key = ? AND value = ? AND created_at = ? AND response = ?"""

ADD_CONVERSATION = "INSERT INTO conversations (project, id, created_at, metadata) VALUES (?, ?, ?, ?) RETURNING n"
CONVERSATION_PAGE: dict[Order, str] = {
    order: f"SELECT id, created_at, metadata FROM conversations WHERE project = ? AND {place} LIMIT ?"  # noqa: S608
    for order, place in BEYOND.items()
}
FIND_CONVERSATION_PLACE = "SELECT created_at, n FROM conversations WHERE project = ? AND id = ?"
FIND_CONVERSATION = """
SELECT n, version, item_count, item_bytes, next_position, created_at, metadata, locked_by, locked_until
FROM conversations WHERE project = ? AND id = ?"""
HOLD_CONVERSATION = f"{FIND_CONVERSATION} {script.HOLD}"
UPDATE_CONVERSATION = "UPDATE conversations SET metadata = ? WHERE project = ? AND id = ?"
DROP_CONVERSATION = "DELETE FROM conversations WHERE n = ?"
GROW_CONVERSATION = """
UPDATE conversations SET version = version + 1, next_position = next_position + ?, item_count = item_count + ?,
  item_bytes = item_bytes + ?, locked_by = NULL, locked_until = NULL WHERE n = ?"""
"""It is free then: a lock that still stands here is its owner's, or has ended."""
LOCK = """
UPDATE conversations SET locked_by = ?, locked_until = ?
WHERE project = ? AND id = ? AND version = ? AND (locked_by IS NULL OR locked_until <= ?) RETURNING n"""
RENEW_LOCK = "UPDATE conversations SET locked_until = ? WHERE project = ? AND id = ? AND locked_by = ?"
RELEASE_LOCK = """
UPDATE conversations SET locked_by = NULL, locked_until = NULL WHERE project = ? AND id = ? AND locked_by = ?"""

FIRST_EVENT = "SELECT data FROM response_events WHERE response = ? ORDER BY seq LIMIT 1"
FIND_PARENTS_ID = "SELECT p.id FROM responses r JOIN responses p ON p.n = r.parent WHERE r.n = ?"
FIND_LOCKED = "SELECT id FROM conversations WHERE project = ? AND locked_by = ?"
"""Reads past all of the project's, as READ_METADATA does."""

ADD_CONVERSATION_ITEM = "INSERT INTO conversation_items (place, project, id, data) VALUES (?, ?, ?, ?)"
FIND_CONVERSATION_ITEM = """
SELECT place, data FROM conversation_items WHERE project = ? AND id = ? AND place >= ? AND place < ?"""
READ_CONVERSATION = "SELECT data FROM conversation_items WHERE place >= ? AND place < ? ORDER BY place"
READ_CONVERSATION_PAGE: dict[Order, str] = {
    "asc": "SELECT data FROM conversation_items WHERE place > ? AND place < ? ORDER BY place LIMIT ?",
    "desc": "SELECT data FROM conversation_items WHERE place < ? AND place >= ? ORDER BY place DESC LIMIT ?",
}
READ_CONVERSATIONS_ITEM = "SELECT data FROM conversation_items WHERE project = ? AND id = ? ORDER BY place DESC LIMIT 1"
"""The newest of that id, of any conversation."""
DROP_CONVERSATION_ITEM = "DELETE FROM conversation_items WHERE place = ?"
DROP_CONVERSATION_ITEMS = "DELETE FROM conversation_items WHERE place >= ? AND place < ?"

ADD_RUN = """
INSERT INTO runs (response, request, given, streams, owner, attempt, lease_until, last_seq)
VALUES (?, ?, ?, ?, '', 0, 0, ?)"""
FIND_RUN = """
SELECT r.n, b.attempt, b.streams, b.is_over, b.last_seq, b.given FROM responses r JOIN runs b ON b.response = r.n
WHERE r.project = ? AND r.id = ?"""
READ_RUN = """
SELECT r.project, r.id, r.model, r.created_at, r.body, b.request, b.given, b.streams, b.attempt
FROM runs b JOIN responses r ON r.n = b.response WHERE b.response = ?"""
COUNT_WAITING = "SELECT count(*) FROM runs WHERE is_over = 0 AND owner = ''"
COUNT_WAITING_OF = """
SELECT count(*) FROM runs b JOIN responses r ON r.n = b.response
WHERE b.is_over = 0 AND b.owner = '' AND r.project = ?"""
COUNT_UNDER_WAY = """
SELECT r.project, count(*) FROM runs b JOIN responses r ON r.n = b.response
WHERE b.is_over = 0 AND b.lease_until > ? GROUP BY r.project"""
ONE_CLAIMS = "SELECT 1 /* FROM pg_advisory_xact_lock(1634628713) */"
"""Until the transaction ends nobody else does, for several at once would each count without the others. The number is
ours."""
ANY_FREE_RUN = "SELECT 1 FROM runs WHERE is_over = 0 AND lease_until <= ? LIMIT 1"
FREE_RUNS = """
SELECT b.response, r.project FROM runs b JOIN responses r ON r.n = b.response
WHERE b.is_over = 0 AND b.lease_until <= ? ORDER BY b.response"""
TAKE_FREE_RUN = """
UPDATE runs SET owner = ?, lease_until = ?, attempt = attempt + 1
WHERE response = ? AND is_over = 0 AND lease_until <= ? RETURNING response"""
_RUN_OF = "response = (SELECT n FROM responses WHERE project = ? AND id = ?) AND is_over = 0"
SEIZE_RUN = f"""
UPDATE runs SET owner = ?, lease_until = ?, attempt = attempt + 1 WHERE {_RUN_OF} RETURNING response"""  # noqa: S608
ADVANCE_RUN = f"""
UPDATE runs SET last_seq = ?, lease_until = ? WHERE {_RUN_OF} AND attempt = ? RETURNING response"""  # noqa: S608
"""With END_RUN the fence: where it gives no row, nothing else is written."""
END_RUN = f"""
UPDATE runs SET last_seq = ?, ended_at = ?, is_over = 1, owner = '', request = ''
WHERE {_RUN_OF} AND attempt = ? RETURNING response, given, streams"""  # noqa: S608
LEASE_RUN = """
UPDATE runs SET owner = ?, lease_until = ?
WHERE response = (SELECT n FROM responses WHERE project = ? AND id = ?) AND attempt = ? AND is_over = 0"""
HELD_RUNS = """
SELECT r.project, r.id, b.attempt FROM runs b JOIN responses r ON r.n = b.response
WHERE b.is_over = 0 AND b.owner = ?"""
DROP_RUN = "DELETE FROM runs WHERE response = ?"
UPDATE_RESPONSE = "UPDATE responses SET status = ?, body = ?, chain_bytes = chain_bytes + ? WHERE n = ?"
LAST_PLACE = "SELECT max(place) FROM items WHERE place >= ? AND place < ?"
READ_GIVEN = """
SELECT g.data FROM (
  SELECT place, data FROM items WHERE place >= ? AND place < ? AND is_input = 1 ORDER BY place DESC LIMIT ?
) g ORDER BY g.place"""
ADD_EVENT = "INSERT INTO response_events (response, seq, attempt, data, written_at) VALUES (?, ?, ?, ?, ?)"
READ_EVENTS = """
SELECT e.data FROM responses r JOIN response_events e ON e.response = r.n
WHERE r.project = ? AND r.id = ? AND r.deleted = 0 AND e.seq > ? ORDER BY e.seq LIMIT ?"""
READ_EVENT_TIMES = """
SELECT e.seq, e.written_at FROM responses r JOIN response_events e ON e.response = r.n
WHERE r.project = ? AND r.id = ? AND r.deleted = 0 AND e.seq > ? AND (e.written_at IS NOT NULL OR NOT EXISTS (
  SELECT 1 FROM response_events b WHERE b.response = e.response AND b.seq = e.seq - 1 AND b.attempt = e.attempt
)) ORDER BY e.seq LIMIT ?"""
"""Those that were written first of what was written together, and the first of each attempt."""
DROP_EVENTS = "DELETE FROM response_events WHERE response = ?"
DROP_EVENTS_FROM = "DELETE FROM response_events WHERE response = ? AND seq >= ?"

NEXT_PROJECT = "SELECT project FROM responses WHERE deleted = 0 AND project > ? ORDER BY project LIMIT 1"
ABOUT_OLD = """
SELECT r.created_at, r.chain_bytes - coalesce(p.chain_bytes, 0),
  EXISTS (SELECT 1 FROM runs b WHERE b.response = r.n AND b.is_over = 0)
FROM responses r LEFT JOIN responses p ON p.n = r.parent WHERE r.n = ?"""
_ENDED = "is_over = 1 AND streams = 1 AND ended_at"
ANY_ENDED = f"SELECT 1 FROM runs WHERE {_ENDED} < ? LIMIT 1"  # noqa: S608
COUNT_ENDED = f"SELECT count(*) FROM runs WHERE {_ENDED} > 0 AND ended_at < ?"  # noqa: S608
NOTE_ENDED = f"""
UPDATE runs SET ended_at = ? WHERE response IN (
  SELECT response FROM runs WHERE {_ENDED} = 0 LIMIT ? /* FOR UPDATE SKIP LOCKED */
) RETURNING response"""  # noqa: S608
ENDED_RUNS = f"""
SELECT response FROM runs WHERE {_ENDED} > 0 AND ended_at < ?
ORDER BY ended_at LIMIT ? /* FOR UPDATE SKIP LOCKED */"""  # noqa: S608
EVENT_NUMBERS = "SELECT seq FROM response_events WHERE response = ? ORDER BY seq LIMIT ?"
DROP_EVENTS_TO = "DELETE FROM response_events WHERE response = ? AND seq <= ?"
CLOSE_STREAM = "UPDATE runs SET last_seq = -1 WHERE response = ?"
FORGET_STREAM = "UPDATE runs SET last_seq = -1, ended_at = NULL WHERE response = ?"

FIND_REQUEST = "SELECT digest, response_id, created_at FROM requests WHERE project = ? AND key = ?"
ADD_REQUEST = (
    "INSERT INTO requests (project, key, digest, response_id, created_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
DROP_REQUEST = "DELETE FROM requests WHERE project = ? AND key = ? AND response_id = ?"
DROP_OLD_REQUESTS = "DELETE FROM requests WHERE created_at <= ?"

ADD_EXPIRY = "INSERT INTO expiries (expires_at, project, response_id) VALUES (?, ?, ?)"
DUE_EXPIRIES = "SELECT expires_at, project, response_id FROM expiries WHERE expires_at <= ? ORDER BY expires_at LIMIT ?"
DROP_EXPIRY = "DELETE FROM expiries WHERE expires_at = ? AND project = ? AND response_id = ?"
IS_UNDER_WAY = "SELECT 1 FROM runs WHERE response = ? AND is_over = 0"

RollupRow: TypeAlias = tuple[int, str, str, str, str]
PUT_ROLLUP = (
    "INSERT INTO rollups (minute, process, project, model, data) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (project, minute, process, model) DO UPDATE SET data = excluded.data"
)
READ_ROLLUPS = (
    "SELECT minute, process, project, model, data FROM rollups"
    " WHERE project = ? AND minute >= ? AND minute < ? ORDER BY minute, process, model LIMIT ?"
)
DROP_ROLLUPS = (
    "DELETE FROM rollups WHERE (project, minute, process, model) IN"
    " (SELECT project, minute, process, model FROM rollups WHERE minute < ? ORDER BY minute LIMIT ?) RETURNING minute"
)

KEYS_VERSION = "SELECT value FROM counters WHERE name = 'api_keys'"
READ_KEYS = "SELECT id, project, name, hint, digest, created_at FROM api_keys ORDER BY n"
ADD_KEY = "INSERT INTO api_keys (id, project, name, hint, digest, created_at) VALUES (?, ?, ?, ?, ?, ?)"
DROP_KEY = "DELETE FROM api_keys WHERE id = ? RETURNING n"
PROBE = "UPDATE counters SET value = value + 1 WHERE name = 'checks'"
"""The smallest true write: what `doctor` asks. (To write what is there already would not reach the disk.)"""

# -- rows


class ItemRow(NamedTuple):
    id: str
    is_input: bool
    type: str
    data: str


class Labels(Struct):
    """The one part of a body that erasing needs: it must succeed although the rest is not understood."""

    metadata: dict[str, str] = {}


Place: TypeAlias = tuple[int, int]
_ENCODER = msgspec.json.Encoder()
_BODY = msgspec.json.Decoder(Response)
_ITEMS = msgspec.json.Decoder(tuple[Item, ...])
_LABELS = msgspec.json.Decoder(Labels)
_METADATA = msgspec.json.Decoder(dict[str, str])
_REQUEST = msgspec.json.Decoder(CreateResponse)


def encode_body(response: Response) -> str:
    return _ENCODER.encode(msgspec.structs.replace(response, output=())).decode()


def item_rows(items: Iterable[Item], *, is_input: bool) -> list[ItemRow]:
    return [ItemRow(_id(item), is_input, _type(item), _ENCODER.encode(item).decode()) for item in items]


def _id(item: Item) -> str:
    if item.id is UNSET:
        raise AssertionError("an item without an id cannot be stored: planning gives each one")
    return item.id


def _type(item: Item) -> str:
    return str(item.__struct_config__.tag)


def decode_response(body: str, output: Sequence[str]) -> Response:
    try:
        bare = _BODY.decode(body)
        return msgspec.structs.replace(bare, output=_ITEMS.decode(_array(output))) if output else bare
    except msgspec.MsgspecError as error:
        raise _unreadable(error) from error


def decode_items(rows: Sequence[str]) -> tuple[Item, ...]:
    try:
        return _ITEMS.decode(_array(rows))  # in one go: half the time of one by one
    except msgspec.MsgspecError as error:
        raise _unreadable(error) from error


def decode_labels(body: str) -> dict[str, str]:
    try:
        return _LABELS.decode(body).metadata
    except msgspec.MsgspecError as error:
        raise _unreadable(error) from error


def encode_request(request: CreateResponse) -> str:
    return _ENCODER.encode(request).decode()


def decode_request(text: str) -> CreateResponse:
    try:
        return _REQUEST.decode(text)
    except msgspec.MsgspecError as error:
        raise _unreadable(error) from error


def decode_events(rows: Sequence[str]) -> list[Event]:
    """Up to the first that cannot be understood; raises Unreadable where there is none before it."""
    events: list[Event] = []
    for data in rows:
        try:
            events.append(codec.decode_event(data.encode()))
        except msgspec.MsgspecError as error:
            if not events:
                raise _unreadable(error) from error
            break
    return events


def encode_metadata(metadata: dict[str, str]) -> str:
    return _ENCODER.encode(metadata).decode()


def decode_metadata(text: str) -> dict[str, str]:
    try:
        return _METADATA.decode(text)
    except msgspec.MsgspecError as error:
        raise _unreadable(error) from error


def _array(rows: Sequence[str]) -> str:
    return f"[{','.join(rows)}]"


def _unreadable(error: msgspec.MsgspecError) -> Unreadable:
    return Unreadable(f"What is stored cannot be understood: {error}")


def places(n: int) -> Place:
    """From the first place of a response to the first of the next."""
    return n * PLACES, (n + 1) * PLACES


def conversation_places(n: int) -> Place:
    """From the first place of a conversation to the first of the next."""
    return n * CONVERSATION_PLACES, (n + 1) * CONVERSATION_PLACES


# -- migrations


class Migration(NamedTuple):
    version: int
    name: str
    script: str


def pending(dialect: str, found: int) -> Sequence[Migration]:
    """What turns a database of version `found` into one of ours. Raises SettingsError when it is newer than we are."""
    known = list(_migrations(dialect))
    if found > len(known):
        raise SettingsError(
            f"The database is of version {found}, and this antiphon knows versions up to {len(known)}. "
            "Use the antiphon that wrote it, or a newer one."
        )
    return known[found:]


def _migrations(dialect: str) -> Iterator[Migration]:
    """In order: 0001_responses.sql makes version 1, and so on without a gap."""
    folder = resources.files(__package__).joinpath("sql", dialect)
    scripts = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    for file in sorted(scripts, key=lambda file: file.name):
        yield Migration(int(file.name.partition("_")[0]), file.name, file.read_text(encoding="utf-8"))
