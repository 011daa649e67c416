"""Overview: how the server does, and what was asked of it over time. Knows no HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from msgspec import structs

from antiphon.core.hosted import Tool
from antiphon.core.ports import Check, Store
from antiphon.core.rollups import Rollup, Tally, quantile
from antiphon.engine.catalog import Catalog
from antiphon.engine.meter import SERVER, Meter
from antiphon.wire.overview import Condition, Conditions, Overview, OverviewPoint, Quantiles

ROLLUPS_MAX: Final = 200_000
"""Read at once: a week of ten models on two processes."""
CHECKED_S: Final = 5.0
"""How long a look counts: upstreams are not asked at every click."""
TOOL_CHECKED_S: Final = 600.0
"""To ask some tools costs money."""


class Overviews:
    def __init__(self, store: Store, catalog: Catalog, tools: Iterable[Tool], meter: Meter) -> None:
        self._store = store
        self._meter = meter
        self._checking = asyncio.Lock()
        quick = (store.check, *(model.check for model in catalog.models))
        self._parts = [_Part(look, CHECKED_S) for look in quick]
        self._parts += [_Part(tool.check, TOOL_CHECKED_S) for tool in dict.fromkeys(tools)]

    async def over_time(self, project: str, since: int, until: int, step: int) -> Overview:
        """`since`, `until` and `step` in seconds, whole minutes."""
        await self._meter.write()  # what happened a moment ago is to be seen
        rollups = await self._store.rollups.read([project, SERVER], since, until, ROLLUPS_MAX)
        points = await asyncio.to_thread(_points, rollups, since, step)
        return Overview(since=since, until=until, step=step, points=points)

    async def conditions(self) -> Conditions:
        """Of the store, of every model, and of every tool that is set up."""
        async with self._checking:
            found = await asyncio.gather(*(part.checked() for part in self._parts))
        return Conditions(data=tuple(_condition(check) for check in found if check is not None))


class _Part:
    """Something that says how it is, and what it said last."""

    def __init__(self, look: Callable[[], Awaitable[Check | None]], good_s: float) -> None:
        self._look = look
        self._good_s = good_s
        self._looked_at = -good_s
        self._last: Check | None = None

    async def checked(self) -> Check | None:
        if time.monotonic() - self._looked_at >= self._good_s:
            self._last = await self._look()
            self._looked_at = time.monotonic()
        return self._last


def _condition(check: Check) -> Condition:
    return Condition(**structs.asdict(check))


def _points(rollups: Sequence[Rollup], since: int, step: int) -> tuple[OverviewPoint, ...]:
    tallies: dict[tuple[int, str | None], Tally] = {}
    gauges: dict[int, Tally] = {}
    for one in rollups:
        start = one.minute - (one.minute - since) % step
        if one.project == SERVER:
            gauge = gauges.setdefault(one.minute, Tally())
            gauge.running_max += one.tally.running_max
            gauge.waiting_max = max(gauge.waiting_max, one.tally.waiting_max)
            tallies.setdefault((start, None), Tally())
            continue
        for model in (None, one.model):
            tallies.setdefault((start, model), Tally()).add(one.tally)
    for minute, gauge in gauges.items():
        whole = tallies[minute - (minute - since) % step, None]
        whole.running_max = max(whole.running_max, gauge.running_max)
        whole.waiting_max = max(whole.waiting_max, gauge.waiting_max)
    order = sorted(tallies, key=lambda place: (place[0], place[1] or "", place[1] is not None))
    return tuple(_point(start, model, tallies[start, model]) for start, model in order)


def _point(start: int, model: str | None, tally: Tally) -> OverviewPoint:
    return OverviewPoint(
        start=start,
        model=model,
        requests=sum(tally.endings.values()),
        endings={str(name): count for name, count in tally.endings.items()},
        errors=tally.errors,
        input_tokens=tally.input_tokens,
        cached_tokens=tally.cached_tokens,
        output_tokens=tally.output_tokens,
        reasoning_tokens=tally.reasoning_tokens,
        duration_ms=_quantiles(tally.durations),
        first_token_ms=_quantiles(tally.first_tokens),
        running_max=tally.running_max,
        waiting_max=tally.waiting_max,
    )


def _quantiles(classes: Sequence[int]) -> Quantiles:
    return Quantiles(p50=quantile(classes, 0.5), p95=quantile(classes, 0.95))
