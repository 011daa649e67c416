"""/antiphon/responses/{response_id}/times: when the events of a background response were written."""

from typing import Final

from msgspec import Struct

from antiphon.api.http import Call, Parameter, Served, send_value
from antiphon.api.responses import NUMBER_MAX
from antiphon.engine.engine import Engine
from antiphon.wire.overview import EventTimes

PAIRS_MAX: Final = 10_000
"""Of one page: what is written together in four minutes, at least."""
PAGE = (
    Parameter(
        name="starting_after",
        schema={"type": "integer", "minimum": -1, "maximum": NUMBER_MAX},
        description="Only pairs behind the event of this number. What was written with it has its pair's time.",
    ),
    Parameter(
        name="limit",
        schema={"type": "integer", "minimum": 1, "maximum": PAIRS_MAX, "default": PAIRS_MAX},
        description="How many pairs at most.",
    ),
)


class _Times(Struct, frozen=True):
    engine: Engine

    async def event_times(self, call: Call) -> None:
        query = call.query()
        after = query.integer("starting_after", -1, -1, NUMBER_MAX)
        limit = query.integer("limit", PAIRS_MAX, 1, PAIRS_MAX)
        found = await self.engine.times(call.project, call.path("response_id"), after, limit + 1)
        await send_value(call, EventTimes(data=tuple(found[:limit]), has_more=len(found) > limit))


def routes(engine: Engine) -> list[Served]:
    return [
        Served(
            method="GET",
            path="/antiphon/responses/{response_id}/times",
            endpoint=_Times(engine).event_times,
            summary="When the events of a background response were written",
            gives=EventTimes,
            query=PAGE,
        )
    ]
