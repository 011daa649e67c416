"""Parts: where in items pictures, files and recordings stand, and what each says that it is. Brings nothing. Pure."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from msgspec import UNSET, structs

from antiphon.errors import InvalidValue, MissingParameter
from antiphon.wire.actions import ComputerScreenshot
from antiphon.wire.items import (
    Brought,
    ComputerCallOutput,
    CustomToolCallOutput,
    FunctionCallOutput,
    InputAudio,
    InputFile,
    InputItem,
    InputText,
    Item,
    Message,
    MessagePart,
    OutputText,
)

Part: TypeAlias = Brought | ComputerScreenshot
Field: TypeAlias = Literal["image_url", "file_url", "file_id", "file_data"]
IMAGE_FIELDS: tuple[Field, ...] = ("image_url", "file_id")
FILE_FIELDS: tuple[Field, ...] = ("file_data", "file_url", "file_id")
WORDS = frozenset((InputText, OutputText))
"""Nearly all parts: a look into a set is many times quicker than isinstance of a union."""


class Place(NamedTuple):
    item: int
    part: int | None
    """None: a screenshot, which is its item's output."""
    name: str


def check(items: Sequence[InputItem], param: str) -> None:
    """Raises InvalidRequest for a part that does not name exactly one source. `param` is what the items are called."""
    for place, part in found(items, param):
        if not isinstance(part, InputAudio):
            source(part, place.name)


def found(items: Sequence[InputItem], param: str) -> Iterator[tuple[Place, Part]]:
    for index, item in enumerate(items):
        parts: Sequence[MessagePart] = ()
        name = "output"
        if type(item) is Message:  # by far the most
            name, parts = "content", item.content
        elif isinstance(item, FunctionCallOutput | CustomToolCallOutput) and not isinstance(item.output, str):
            parts = item.output
        elif isinstance(item, ComputerCallOutput):
            yield Place(index, None, f"{param}[{index}].output"), item.output
        for number, part in enumerate(parts):
            if type(part) not in WORDS and isinstance(part, Brought):
                yield Place(index, number, f"{param}[{index}].{name}[{number}]"), part


def replaced(item: Item, number: int | None, part: Part | InputText) -> Item:
    """The item with another part at this place."""
    if number is None:
        return structs.replace(item, output=part)
    name = "content" if isinstance(item, Message) else "output"
    parts = getattr(item, name)
    return structs.replace(item, **{name: (*parts[:number], part, *parts[number + 1 :])})


def source(part: Part, place: str) -> tuple[Field, str]:
    """Where its content is: the field that says so, and what that holds. Raises InvalidRequest unless there is exactly
    one."""
    fields = FILE_FIELDS if isinstance(part, InputFile) else IMAGE_FIELDS
    given = [(field, value) for field in fields if (value := getattr(part, field)) is not UNSET]
    if not given:
        param = f"{place}.{fields[0]}"
        raise MissingParameter(f"Missing required parameter: '{param}' (or {' or '.join(fields[1:])}).", param=param)
    if len(given) > 1:
        told = " and ".join(field for field, _ in given)
        raise InvalidValue(f"Invalid '{place}': {told} are given, and only one may be.", param=place)
    return given[0]
