"""Inputs: items in the form in which a model may be told of them: pictures and files brought from where they are, files
as text for models that take none. What cannot be told is refused by its place.
"""

import asyncio
import mimetypes
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

from msgspec import UNSET, Struct, structs

from antiphon.core import media, parts
from antiphon.core.parts import Part
from antiphon.core.ports import Sense
from antiphon.engine.copies import Copy
from antiphon.engine.sources import Asker, Source, Sources, coded
from antiphon.errors import InvalidRequest, InvalidValue
from antiphon.wire.items import (
    InputAudio,
    InputFile,
    InputText,
    Item,
)

INPUT = "input"
"""Names the request's own items; any other parameter brings history."""
CANNOT: dict[Sense, str] = {"image": "cannot see images", "audio": "cannot hear audio"}

T = TypeVar("T")


class Mind(Struct, frozen=True):
    """The model that will be told, and what it takes beside text."""

    name: str
    takes: frozenset[Sense]


Find: TypeAlias = Callable[[], Awaitable[Mind]]
"""Who is told; asked only when there is more than text to tell."""


class Shown(NamedTuple):
    """The same items, in the same places, and what they hold beside words. A file that is told as text counts as
    "document"."""

    items: Sequence[Item]
    senses: frozenset[Sense] = frozenset()


class Inputs:
    """Stored items stay as the client sent them; what they became is for the model alone."""

    def __init__(self, sources: Sources, *, bytes_max: int) -> None:
        self._sources = sources
        self._bytes_max = bytes_max

    async def shown(self, project: str, items: Sequence[Item], param: str, find: Find, *, keeps: bool = True) -> Shown:
        """`param` names where they stand in the request: "input", or what brought them as history. `keeps`: what is
        brought may be kept for later turns. Raises InvalidRequest for what cannot be brought, or not be told to this
        model; it names the part's place in the input, or what brought the history."""
        found = list(parts.found(items, INPUT))
        if not found:
            return Shown(items)
        mind = await find()
        asker = Asker(project, self._bytes_max, is_history=param != INPUT, keeps=keeps)
        told = await _together(
            [self._told(part, param if asker.is_history else place.name, mind, asker) for place, part in found]
        )
        changed, senses = list(items), set[Sense]()
        for (place, part), (new, sense) in zip(found, told, strict=True):
            senses.add(sense)
            if new is not part:
                changed[place.item] = parts.replaced(changed[place.item], place.part, new)
        return Shown(changed, frozenset(senses))

    async def fits(self, senses: frozenset[Sense], param: str, find: Find) -> bool:
        """Whether a history that was shown so can be told to the next turn's model as it is: a file may be text, for
        one that takes files. Raises InvalidRequest for what that model cannot be told."""
        if not senses:
            return True
        mind = await find()
        for sense in senses & CANNOT.keys():
            _require(sense, mind, param)
        return ("document" if "file" in mind.takes else "file") not in senses

    async def _told(self, part: Part, param: str, mind: Mind, asker: Asker) -> tuple[Part | InputText, Sense]:
        if isinstance(part, InputAudio):
            _require("audio", mind, param)
            await _check_audio(part, param)
            return part, "audio"
        field, value = parts.source(part, param)
        named = part.filename if isinstance(part, InputFile) and part.filename is not UNSET else ""
        source = Source(field, value, field if asker.is_history else f"{param}.{field}", named)
        try:
            if not isinstance(part, InputFile):
                _require("image", mind, param)
                url = await self._sources.image(asker, source)
                return (part if url == source.value else structs.replace(part, image_url=url, file_id=UNSET)), "image"
            if "file" in mind.takes:
                return await _whole(part, source, await self._sources.file(asker, source)), "file"
            text = await self._sources.text(asker, source)
            return InputText(text=media.fenced(source.filename or text.filename, text.body.decode())), "document"
        except InvalidRequest as error:
            if not asker.is_history or error.param == param:
                raise
            raise InvalidRequest(
                f"The conversation holds {source}, which can no longer be had. {error.message}",
                param=param,
                code=error.code,
            ) from None


def _require(sense: Sense, mind: Mind, param: str) -> None:
    if sense not in mind.takes:
        raise InvalidRequest(f"Invalid '{param}': the model '{mind.name}' {CANNOT[sense]}.", param=param)


async def _check_audio(part: InputAudio, param: str) -> None:
    data = part.input_audio.data
    if not await coded(len(data), partial(media.decoded, data)):
        raise InvalidValue(f"Invalid '{param}.input_audio.data': expected base64.", param=f"{param}.input_audio.data")


async def _whole(part: InputFile, source: Source, copy: Copy) -> InputFile:
    """For a model that takes files: with its content in it, under a name and a media type."""
    guessed = "application/pdf" if copy.body.startswith(b"%PDF-") else mimetypes.guess_type(copy.filename)[0]
    media_type = guessed or copy.media_type or "application/octet-stream"
    url = await coded(len(copy.body), partial(media.as_data_url, media_type, copy.body))
    return InputFile(file_data=url, filename=source.filename or copy.filename or "file", detail=part.detail)


async def _together(tasks: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """The results in order. When one fails, the others are ended before its error rises."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        return await asyncio.gather(*running)
    except BaseException:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise
