"""GET /v1/responses: stored responses by label, model, status, parent and time. An extension: the reference has none.

So nothing in its query is tolerated: a parameter that it does not take is refused, and so is one that is empty,
malformed or there twice.
"""

from difflib import get_close_matches
from typing import Any, Final

from msgspec import Struct
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from antiphon.api.http import Call, Parameter, Query, Served, send_value
from antiphon.api.paging import asked, paging
from antiphon.core.ports import ResponseQuery
from antiphon.engine.engine import Engine
from antiphon.errors import InvalidValue, UnknownParameter
from antiphon.wire.codec import METADATA_KEY_CHARS_MAX, METADATA_PAIRS_MAX, NAME_CHARS_MAX, NEAR_MISS
from antiphon.wire.dialect import DIALECTS, OPENAI
from antiphon.wire.resources import ResponseList

STATUSES: Final = ("cancelled", "completed", "failed", "in_progress", "incomplete", "queued")
"""Of what is not finished, background responses alone are listed."""
TIME_MAX: Final = 10**15
"""In Unix seconds, far beyond any."""

PARAMETERS: Final = (
    Parameter(
        name="metadata",
        style="deepObject",
        schema={
            "type": "object",
            "additionalProperties": {"type": "string"},
            "propertyNames": {"minLength": 1, "maxLength": METADATA_KEY_CHARS_MAX},
            "maxProperties": METADATA_PAIRS_MAX,
        },
        description="`metadata[key]=value`: only responses whose metadata has this value under this key. Of several, "
        "all must match. Values are compared whole, as text.",
    ),
    Parameter(name="model", schema={"type": "string", "minLength": 1}, description="Only responses of this model."),
    Parameter(
        name="status",
        schema={"type": "string", "enum": STATUSES},
        description="Only responses of this status. Of those still being made, the ones of the background alone are in "
        "the list.",
    ),
    Parameter(
        name="previous_response_id",
        schema={"type": "string", "minLength": 1},
        description="Only responses that go on from this one directly, also where it is deleted. Of an id that nothing "
        "goes on from, the list is empty.",
    ),
    Parameter(
        name="created_after",
        schema={"type": "integer", "minimum": 0, "maximum": TIME_MAX},
        description="Only responses whose `created_at` is this or later, in Unix seconds.",
    ),
    Parameter(
        name="created_before",
        schema={"type": "integer", "minimum": 0, "maximum": TIME_MAX},
        description="Only responses whose `created_at` is earlier than this, in Unix seconds. So periods that follow "
        "each other, one's end the next one's beginning, share no response and miss none.",
    ),
    *paging(
        "responses",
        "a response",
        note=" Very large ones come fewer at a time: `has_more` says whether there are more.",
    ),
)
HINTS: Final = {one.name: one.name for one in PARAMETERS} | {"metadata": "metadata[key]"}
LABEL: Final = "metadata["


class _Listing(Struct, frozen=True):
    engine: Engine

    async def list_responses(self, call: Call) -> None:
        _refuse_websocket(call)
        page = await self.engine.responses(call.project, _asked(call.query()))
        await send_value(call, ResponseList.of(page.responses, has_more=page.has_more))


def _refuse_websocket(call: Call) -> None:
    """Clients that try a WebSocket on this path first fall back on a 405, not on a list."""
    if Headers(scope=call.scope).get("upgrade", "").lower() == "websocket":
        raise HTTPException(405, headers={"allow": "GET, POST"})


def _asked(query: Query) -> ResponseQuery:
    _check_names([name for name, _ in query.pairs])
    labels = tuple((_key(name), value) for name, value in query.pairs if name.startswith(LABEL))
    if len(labels) > METADATA_PAIRS_MAX:
        raise InvalidValue(
            f"Invalid 'metadata': expected at most {METADATA_PAIRS_MAX} keys, but got {len(labels)} instead.",
            param="metadata",
        )
    query.refuse_empty(HINTS)
    status: Any = query.choice("status", None, frozenset(STATUSES))
    return ResponseQuery(
        metadata=labels,
        model=query.one("model"),
        status=status,
        previous_response_id=query.one("previous_response_id"),
        created_after=query.integer("created_after", None, 0, TIME_MAX),
        created_before=query.integer("created_before", None, 0, TIME_MAX),
        **asked(query),
    )


def _check_names(names: list[str]) -> None:
    seen = set[str]()
    for name in names:
        if HINTS.get(name) != name and not name.startswith(LABEL):
            raise UnknownParameter(f"Unknown parameter: '{name[:NAME_CHARS_MAX]}'. {_hint(name)}", param=name)
        if name in seen:
            raise InvalidValue(f"Invalid '{name[:NAME_CHARS_MAX]}': it is given more than once.", param=name)
        seen.add(name)


def _hint(name: str) -> str:
    bare = name[: NAME_CHARS_MAX + 1].partition("[")[0]
    near = get_close_matches(bare, HINTS, n=1, cutoff=NEAR_MISS)
    return f"Did you mean '{HINTS[near[0]]}'?" if near else f"Known are: {', '.join(HINTS.values())}."


def _key(name: str) -> str:
    key = name.removeprefix(LABEL).removesuffix("]")
    if not key or not name.endswith("]") or len(key) > METADATA_KEY_CHARS_MAX:
        raise InvalidValue(
            f"Invalid parameter: '{name[:NAME_CHARS_MAX]}'. Expected metadata[key]=value, with a key of 1 to "
            f"{METADATA_KEY_CHARS_MAX} characters.",
            param=name,
        )
    return key


def routes(engine: Engine) -> list[Served]:
    return [
        Served(
            method="GET",
            path=f"{dialect.prefix}/responses",
            endpoint=_Listing(engine).list_responses,
            summary="List stored responses (an extension of the API)",
            gives=ResponseList if dialect is OPENAI else dict,
            query=PARAMETERS,
        )
        for dialect in DIALECTS
    ]
