"""Images of a request: only those that it holds itself can be shown to a model. Knows nothing of what is in them."""

from collections.abc import Iterator, Sequence

from antiphon.errors import UnsupportedParameter
from antiphon.wire.items import (
    ComputerCallOutput,
    CustomToolCallOutput,
    FunctionCallOutput,
    InputImage,
    InputItem,
    Message,
    MessagePart,
)

DATA_URL = "data:image/"


def check(items: Sequence[InputItem], param: str) -> None:
    """Raises UnsupportedParameter for an image that is elsewhere: nothing is fetched for a request, not even to
    look at it. `param` is what the items are called in it."""
    for index, item in enumerate(items):
        for place, url in _addresses(item):
            if url[: len(DATA_URL)].lower() != DATA_URL:
                where = f"{param}[{index}].{place}"
                raise UnsupportedParameter(
                    f"Unsupported parameter: '{where}' is not supported by this server yet: only data URLs of images "
                    f"({DATA_URL}…) are.",
                    param=where,
                )


def _addresses(item: InputItem) -> Iterator[tuple[str, str]]:
    """Where in an item an image is named, and by what."""
    match item:
        case Message():
            yield from _of_parts("content", item.content)
        case FunctionCallOutput() | CustomToolCallOutput():
            yield from _of_parts("output", () if isinstance(item.output, str) else item.output)
        case ComputerCallOutput():
            yield "output.image_url", item.output.image_url


def _of_parts(name: str, parts: Sequence[MessagePart]) -> Iterator[tuple[str, str]]:
    for number, part in enumerate(parts):
        if isinstance(part, InputImage):
            yield f"{name}[{number}].image_url", part.image_url
