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
PAGING: Final = (
    Parameter(
        name="limit",
        schema={"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
        description="How many items at most.",
    ),
    Parameter(
        name="order",
        schema={"type": "string", "enum": sorted(ORDERS), "default": "desc"},
        description="`desc`: the last first.",
    ),
    Parameter(
        name="after",
        schema={"type": "string"},
        description="The id of an item: the page begins behind it.",
    ),
    INCLUDE,
)


class Asked(TypedDict):
    limit: int
    order: Order
    after: str | None


def asked(query: Query) -> Asked:
    """Which page. Raises InvalidRequest, naming the parameter."""
    order: Any = query.choice("order", "desc", ORDERS)
    return Asked(limit=query.integer("limit", PAGE_DEFAULT, 1, PAGE_MAX), order=order, after=query.one("after"))


def included(query: Query) -> list[str]:
    """What is asked for by `include`. Raises InvalidValue for what there is not."""
    values = query.every("include")
    for value in values:
        if value not in INCLUDABLE:
            known = ", ".join(f"'{one}'" for one in sorted(INCLUDABLE))
            raise InvalidValue(f"Invalid value: '{value[:64]}'. Supported values are: {known}.", param="include")
    return values
