"""What this server tells of itself, beyond the API: how it does, over time and now, when it wrote events,
and its keys. Data only."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType


class Quantiles(Struct, frozen=True, kw_only=True):
    """In milliseconds."""

    p50: float | None
    p95: float | None


class OverviewPoint(Struct, frozen=True, kw_only=True):
    """What happened in one step of time: with one model, or, where `model` is null, altogether."""

    start: int
    """In Unix seconds."""
    model: str | None
    requests: int
    endings: dict[str, int]
    """By status; "refused" are those that ended before they had begun, with an error."""
    errors: dict[str, int]
    """By code."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    duration_ms: Quantiles
    first_token_ms: Quantiles
    running_max: int
    waiting_max: int
    """Responses being made at once, and background responses that waited: the most of any minute, of all projects."""


class Overview(Struct, frozen=True, kw_only=True):
    """What was asked for and what came of it, over time. Steps in which nothing happened are left out."""

    object: Literal["antiphon.overview"] = "antiphon.overview"
    since: int
    until: int
    step: int
    points: tuple[OverviewPoint, ...]


class Condition(Struct, frozen=True, kw_only=True):
    """How one part of the server is; `remedy` says what to do about one that is ill."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


class Conditions(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Condition, ...]


class EventTimes(Struct, frozen=True, kw_only=True):
    """When the events of a background response were written."""

    object: Literal["antiphon.event_times"] = "antiphon.event_times"
    data: tuple[tuple[int, int | None], ...]
    """Pairs: the number of an event, and when it was written, in Unix milliseconds; with it all behind it, up to the
    next pair's. null: by a version of the server that kept no times."""
    has_more: bool


class Key(Struct, frozen=True, kw_only=True):
    """An API key; `key` itself only where it was just made."""

    id: str
    object: Literal["antiphon.key"] = "antiphon.key"
    project: str
    name: str
    hint: str
    created_at: int
    key: str | UnsetType = UNSET


class KeyList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Key, ...]


class CreateKey(Struct, frozen=True, kw_only=True):
    name: Annotated[str, Meta(max_length=100)] = ""


class DeletedKey(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["antiphon.key"] = "antiphon.key"
    deleted: Literal[True] = True
