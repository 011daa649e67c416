"""Percentiles of what was timed; knows nothing of what that was."""

from msgspec import Struct


class Spread(Struct, frozen=True):
    p50: float
    p99: float
    max: float


def spread_ms(times_us: list[int]) -> Spread | None:
    if not times_us:
        return None
    ordered = sorted(times_us)
    last = len(ordered) - 1
    return Spread(*(ordered[int(last * share)] / 1000 for share in (0.5, 0.99, 1)))
