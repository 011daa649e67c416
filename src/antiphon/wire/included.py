"""Included: what of items is left out on the way to a client, unless its `include` asks for it. Data decides: the
`asked_for` of their types. What is stored, and what a model is told, is whole.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, TypeVar, cast, get_args

from msgspec import UNSET, Struct, structs

from antiphon.wire import events as ev
from antiphon.wire.items import HostedCall, Item
from antiphon.wire.resources import ItemList, ResponseList
from antiphon.wire.response import Response

T = TypeVar("T")

ASKED_FOR: Final[dict[type, dict[str, tuple[str, ...]]]] = {
    kind: kind.asked_for for kind in get_args(HostedCall) if hasattr(kind, "asked_for")
}
"""Type of item -> value of `include` -> the fields that it shows."""
CARRIERS: Final = frozenset({ev.OutputItemDone, *ev.TERMINAL})
"""Events that show such fields: they come with the end of a call."""


def shown(value: T, wanted: Collection[str]) -> T:
    """What one reader is shown of an item, a response, a list of either, or an event. What hides nothing is given back
    as it is."""
    made = _SHOWN.get(type(value))
    if made is not None:
        return cast("T", made(value, wanted))
    return cast("T", _item(value, wanted)) if type(value) in ASKED_FOR else value


def framing(frame: Callable[[ev.Event], bytes], wanted: Collection[str]) -> Callable[[ev.Event], bytes]:
    """Writes events as they are shown to one reader."""
    return lambda event: frame(shown(event, wanted) if type(event) in CARRIERS else event)


def _item(item: Any, wanted: Collection[str]) -> Any:
    hidden = ASKED_FOR.get(type(item))
    for value, paths in hidden.items() if hidden is not None else ():
        if value not in wanted:
            for path in paths:
                item = _without(item, *path.split("."))
    return item


def _without(value: Any, name: str, *rest: str) -> Any:
    field = getattr(value, name, UNSET)
    if field is UNSET:
        return value
    return structs.replace(value, **{name: _without(field, *rest) if rest else UNSET})


def _items(items: Iterable[Item], wanted: Collection[str]) -> tuple[Any, ...]:
    return tuple(_item(item, wanted) if type(item) in ASKED_FOR else item for item in items)


def _in(name: str, make: Callable[[Any, Collection[str]], Any]) -> Callable[[Struct, Collection[str]], Struct]:
    """The same with the field of that name shown."""

    def made(holder: Struct, wanted: Collection[str]) -> Struct:
        field = getattr(holder, name)
        value = make(field, wanted)
        return holder if value == field else structs.replace(holder, **{name: value})

    return made


_response = _in("output", _items)
_SHOWN: Final[dict[type, Callable[[Any, Collection[str]], Any]]] = {
    Response: _response,
    ItemList: _in("data", _items),
    ResponseList: _in("data", lambda responses, wanted: tuple(_response(one, wanted) for one in responses)),
    ev.OutputItemDone: _in("item", _item),
    **dict.fromkeys(ev.TERMINAL, _in("response", _response)),
}
