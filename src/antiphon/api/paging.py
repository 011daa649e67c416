"""Pages of items, and what `include` may ask for: the query parameters that several resources share."""

from typing import Any, Final, TypedDict, get_args

from antiphon.api.http import Parameter, Query
from antiphon.core.ports import Order
from antiphon.errors import InvalidValue
from antiphon.wire.request import INCLUDABLE

SEALED: Final = "reasoning.encrypted_content"
PAGE_DEFAULT, PAGE_MAX = 20, 100
ORDERS = frozenset(get_args(Order))

INCLUDE: Final = Parameter(
    name="include",
    schema={"type": "array", "items": {"type": "string", "enum": sorted(INCLUDABLE)}},
    description="Parts that are left out unless asked for.",
)
BY_TIME: Final = "By `created_at`, within one second by when they were saved: `desc`, the newest first, or `asc`."


def paging(
    kind: str, one: str, order: str = BY_TIME, *, default: int = PAGE_DEFAULT, most: int = PAGE_MAX, note: str = ""
) -> tuple[Parameter, ...]:
    """Which page of a list of that kind, as `asked` takes it."""
    return (
        Parameter(
            name="limit",
            schema={"type": "integer", "minimum": 1, "maximum": most, "default": default},
            description=f"How many {kind} at most.{note}",
        ),
        Parameter(
            name="order", schema={"type": "string", "enum": sorted(ORDERS), "default": "desc"}, description=order
        ),
        Parameter(
            name="after",
            schema={"type": "string", "minLength": 1},
            description=f"The id of {one}: the page begins behind it. For the next page, the `last_id` of this one.",
        ),
    )


PAGING: Final = (*paging("items", "an item", "`desc`: the last first."), INCLUDE)


class Asked(TypedDict):
    limit: int
    order: Order
    after: str | None


def asked(query: Query, *, default: int = PAGE_DEFAULT, most: int = PAGE_MAX) -> Asked:
    """Which page. Raises InvalidRequest, naming the parameter."""
    order: Any = query.choice("order", "desc", ORDERS)
    return Asked(limit=query.integer("limit", default, 1, most), order=order, after=query.one("after"))


def included(query: Query) -> list[str]:
    """What is asked for by `include`. Raises InvalidValue for what there is not."""
    values = query.every("include")
    for value in values:
        if value not in INCLUDABLE:
            known = ", ".join(f"'{one}'" for one in sorted(INCLUDABLE))
            raise InvalidValue(f"Invalid value: '{value[:64]}'. Supported values are: {known}.", param="include")
    return values
