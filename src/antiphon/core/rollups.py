"""The port Rollups: what was asked for and what came of it, added up by the minute. Pure values; knows no response."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct, field

BOUNDS_MS: Final = (
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
)
"""Upper ends of the classes of a duration; the last class has none. A quantile is told to within one class."""
Ending: TypeAlias = Literal["completed", "incomplete", "failed", "cancelled", "refused"]
"""Refused: it ended before it had begun, with an error."""


class Tally(Struct, kw_only=True):
    """What is added up. Durations are numbers of responses by class."""

    endings: dict[Ending, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    """By code."""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    first_tokens: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    """Until the model said something."""
    running_max: int = 0
    """Responses being made at once, by one process. Added up over processes, it is what they made at most."""
    waiting_max: int = 0
    """Background responses that waited."""

    def add(self, other: "Tally") -> None:
        for mine, theirs in ((self.endings, other.endings), (self.errors, other.errors)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count  # type: ignore[index, call-overload] # of one kind each
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        for at, count in enumerate(other.durations):
            self.durations[at] += count
        for at, count in enumerate(other.first_tokens):
            self.first_tokens[at] += count


def class_of(seconds: float) -> int:
    return bisect_left(BOUNDS_MS, seconds * 1000)


def quantile(classes: Sequence[int], share: float) -> float | None:
    """In milliseconds, read off the class in which it lies; None where nothing was counted."""
    total = sum(classes)
    if not total:
        return None
    rest = share * total
    for at, count in enumerate(classes):
        if count and rest <= count:
            low = BOUNDS_MS[at - 1] if at else 0
            high = BOUNDS_MS[at] if at < len(BOUNDS_MS) else BOUNDS_MS[-1]
            return low + (high - low) * rest / count
        rest -= count
    return float(BOUNDS_MS[-1])


class Rollup(Struct, frozen=True, kw_only=True):
    """One minute of one process. Without a project: what is the server's, and no project's alone."""

    minute: int
    """In Unix seconds, when it begins."""
    process: str
    project: str
    model: str
    """Empty where it is not known: a refusal's."""
    tally: Tally


class Rollups(Protocol):
    async def write(self, rollups: Sequence[Rollup]) -> None:
        """Each in the place of what its process wrote of that minute before."""
        ...

    async def read(self, projects: Sequence[str], since: int, until: int, limit: int) -> Sequence[Rollup]:
        """Of these projects, oldest first, from `since` up to `until`."""
        ...

    async def drop(self, before: int, limit: int) -> int:
        """Erases old ones, at most so many, and gives how many."""
        ...
