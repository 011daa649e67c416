"""Saving responses in PostgreSQL, a whole group in one statement. Knows no queue, and no life of a connection."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from antiphon.errors import StorageError
from antiphon.stores import conversations, sql
from antiphon.stores.postgres_connection import Connection, NoConnection, Pool, is_lost, outcome_of
from antiphon.stores.postgres_play import ask, escaped
from antiphon.stores.postgres_writer import AGAIN, ATTEMPTS_MAX
from antiphon.stores.responses import NOT_SAVED, Saving
from antiphon.stores.script import Query, Row, Script

STORED: Final = f"{NOT_SAVED} (it is already stored)"

SAVE: Final = f"""
WITH given AS MATERIALIZED (
  SELECT g.*, p.n AS parent, coalesce(p.chain_bytes, 0) + g.own_bytes AS chain_bytes, nextval('responses_n_seq') AS n,
    g.parent_id IS NOT NULL AND p.n IS NULL AS is_orphan
  FROM unnest(%b::text[], %b::text[], %b::text[], %b::bigint[], %b::text[], %b::text[], %b::bigint[], %b::text[])
    WITH ORDINALITY AS g (project, id, parent_id, own_bytes, status, model, created_at, body, at)
  LEFT JOIN responses p ON p.project = g.project AND p.id = g.parent_id
), numbers AS MATERIALIZED (
  SELECT array_agg(n ORDER BY at) AS n FROM given
), added AS (
  INSERT INTO responses (n, project, id, parent, chain_bytes, status, model, created_at, body)
  SELECT n, project, id, parent, chain_bytes, status, model, created_at, body FROM given WHERE NOT is_orphan
  ON CONFLICT (project, id) DO NOTHING RETURNING n
), added_items AS (
  INSERT INTO items (place, project, id, is_input, type, data)
  SELECT numbers.n[i.at] * {sql.PLACES} + i.position, i.project, i.id, i.is_input, i.type, i.data
  FROM numbers, unnest(%b::bigint[], %b::bigint[], %b::text[], %b::text[], %b::bigint[], %b::text[], %b::text[])
    AS i (at, position, project, id, is_input, type, data)
  WHERE numbers.n[i.at] IN (SELECT n FROM added)
), added_labels AS (
  INSERT INTO metadata (project, key, value, created_at, response)
  SELECT l.project, l.key, l.value, l.created_at, numbers.n[l.at]
  FROM numbers, unnest(%b::bigint[], %b::text[], %b::text[], %b::text[], %b::bigint[])
    AS l (at, project, key, value, created_at)
  WHERE numbers.n[l.at] IN (SELECT n FROM added)
)
SELECT is_orphan, n IN (SELECT n FROM added) FROM given ORDER BY at"""  # noqa: S608 - constants only
"""Whether the parent is gone, and whether it was saved: neither means that the id is taken. Numbers are given after the
moment that the statement sees began, so a child's is greater than its parent's."""
READ_BODY: Final = "SELECT body FROM responses WHERE project = ? AND id = ?"


class Saves:
    """The lane of saves: how a group of them is committed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def commit(self, savings: Sequence[Saving]) -> list[Any]:
        """None or an exception for each."""
        outcomes: list[Any] = []
        for some in _independent(savings):
            outcomes += await self._commit(some)
        return outcomes

    async def _commit(self, savings: Sequence[Saving]) -> list[Any]:
        answer: Any = None
        may_be_saved = False
        for _ in range(ATTEMPTS_MAX):
            answer = await self._tried(savings, may_be_saved=may_be_saved)
            may_be_saved |= is_lost(answer)  # what is stored by then, the lost statement saved
            if not is_lost(answer) and not isinstance(answer, AGAIN):
                break
        if isinstance(answer, list):
            return answer
        if len(savings) == 1 or isinstance(answer, NoConnection) or is_lost(answer):
            return [answer] * len(savings)
        return [(await self._commit([saving]))[0] for saving in savings]

    async def _tried(self, savings: Sequence[Saving], *, may_be_saved: bool) -> Any:
        job = partial(_save, savings, may_be_saved)
        return await outcome_of(self._pool.run(job))


def _independent(savings: Sequence[Saving]) -> Iterator[Sequence[Saving]]:
    """In groups of which none is another's parent: a statement does not see what it writes."""
    begin, ids = 0, set[tuple[str, str | None]]()
    for at, saving in enumerate(savings):
        if (saving.project, saving.response.previous_response_id) in ids:
            yield savings[begin:at]
            begin, ids = at, set()
        ids.add((saving.project, saving.response.id))
    yield savings[begin:]


async def _save(savings: Sequence[Saving], may_be_saved: bool, connection: Connection) -> list[StorageError | None]:
    (rows,) = await ask(connection, [_query(savings)])
    outcomes: list[StorageError | None] = []
    for saving, (is_orphan, is_saved) in zip(savings, rows, strict=True):
        if is_orphan:
            ((_, is_saved),) = (await ask(connection, [_query([saving.orphaned()], with_parents=False)]))[0]
        if not is_saved and may_be_saved:
            (found,) = await ask(connection, [(READ_BODY, (saving.project, saving.response.id))])
            is_saved = found == [(saving.body,)]
        outcomes.append(None if is_saved else StorageError(STORED))
    return outcomes


def script(saving: Saving) -> Script[None]:
    """Saves one that was made in a conversation, and joins it to that."""
    if saving.response.store:
        (((is_orphan, is_saved),),) = yield [_query([saving])]
        if is_orphan:
            (((_, is_saved),),) = yield [_query([saving.orphaned()], with_parents=False)]
        if not is_saved:
            raise StorageError(STORED)
    yield from conversations.join(saving.project, saving.response, saving.rows)


def _query(savings: Sequence[Saving], *, with_parents: bool = True) -> Query:
    responses = [
        (
            saving.project,
            escaped(saving.response.id),
            escaped(saving.response.previous_response_id or "") or None if with_parents else None,
            saving.text_bytes,
            saving.response.status,
            escaped(saving.response.model),
            saving.response.created_at,
            saving.body,
        )
        for saving in savings
    ]
    items = [
        (at, position, saving.project, escaped(row.id), int(row.is_input), row.type, row.data)
        for at, saving in enumerate(savings, 1)
        for position, row in enumerate(saving.rows)
    ]
    labels = [
        (at, saving.project, escaped(key), escaped(value), saving.response.created_at)
        for at, saving in enumerate(savings, 1)
        for key, value in saving.response.metadata.items()
    ]
    return SAVE, (*_columns(responses, 8), *_columns(items, 7), *_columns(labels, 5))


def _columns(rows: Sequence[Row], count: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]
