"""Sources: what parts of a request point to, as bytes or as text. Knows no item and no model.

What a request itself holds is brought anew. What stands in its history was kept where it was fetched or extracted, so
that a conversation goes on when an address no longer answers.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from antiphon.config import Limits
from antiphon.core import media
from antiphon.core.parts import Field
from antiphon.core.ports import FILE_CODES, IMAGE_CODES, Documents, Fetch, FetchCodes
from antiphon.engine.copies import Copies, Copy
from antiphon.engine.files import Files
from antiphon.errors import InvalidRequest, InvalidValue, NotFound

HERE_BYTES_MAX = 64 * 1024
"""What is larger is coded in a thread: a megabyte of base64 takes a millisecond."""
SHOWN_CHARS_MAX = 128
"""Of an address or an id, in a message."""
IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
FILE_TYPES = ("text/", "application/", "binary/octet-stream")
"""What a server may say that it gives. What it is, its bytes say."""

Kind: TypeAlias = Literal["image", "file", "text"]
T = TypeVar("T")


class Source(NamedTuple):
    """Where a part says its content is. `param` is what an error names."""

    field: Field
    value: str
    param: str
    filename: str = ""

    def __str__(self) -> str:
        shown = self.filename if self.field == "file_data" else self.value
        return f"{self.field} '{shown[:SHOWN_CHARS_MAX]}'"


class Asker:
    """Who asks: one request, all of whose bytes together are bounded. `keeps`: what is brought may be kept."""

    def __init__(self, project: str, bytes_max: int, *, is_history: bool, keeps: bool) -> None:
        self.project = project
        self.is_history = is_history
        self.keeps = keeps
        self.left_bytes = bytes_max

    def spend(self, size: int, source: Source) -> None:
        self.left_bytes -= size
        if self.left_bytes < 0:
            raise InvalidRequest(
                f"Invalid '{source.param}': the pictures and files of this request are too large together "
                "(limits.input_bytes_max).",
                param=source.param,
            )


class Sources:
    """Every method raises InvalidRequest, naming the source's param, for what cannot be had or is not what it should
    be."""

    def __init__(
        self, fetch: Fetch, files: Files, documents: Documents, copies: Copies, limits: Limits, *, file_bytes_max: int
    ) -> None:
        self._fetch = fetch
        self._files = files
        self._documents = documents
        self._copies = copies
        self._image_bytes_max = limits.image_bytes_max
        self._file_bytes_max = file_bytes_max

    async def image(self, asker: Asker, source: Source) -> str:
        """A data URL of a picture, named for what it is."""
        if media.is_data_url(source.value):
            code = partial(media.image_url, source.value, bytes_max=self._image_bytes_max, param=source.param)
            return await coded(len(source.value), code)
        copy = await self._kept(asker, "image", source, self._image)
        return await coded(len(copy.body), partial(media.as_data_url, copy.media_type, copy.body))

    async def file(self, asker: Asker, source: Source) -> Copy:
        """A document as it is."""
        return await self._kept(asker, "file", source, self._file)

    async def text(self, asker: Asker, source: Source) -> Copy:
        """A document's text, in UTF-8."""
        return await self._kept(asker, "text", source, self._text)

    async def _kept(
        self,
        asker: Asker,
        kind: Kind,
        source: Source,
        bring: Callable[[Asker, Source], Coroutine[Any, Any, Copy]],
    ) -> Copy:
        is_here = source.field in ("file_id", "file_data")
        if is_here and kind != "text":
            return await bring(asker, source)
        inline = source.field == "file_data"
        name = await coded(len(source.value), partial(_digest, source.value)) if inline else source.value
        if asker.is_history or (inline and asker.keeps):  # what is in the request itself cannot have changed
            copy = await self._copies.get(asker.project, kind, f"{source.field}:{name}")
            if copy is not None:
                asker.spend(len(copy.body), source)
                return copy
        copy = await bring(asker, source)
        if asker.keeps and not (inline and copy.is_trivial):
            await self._copies.put(asker.project, kind, f"{source.field}:{name}", copy)
        return copy

    async def _image(self, asker: Asker, source: Source) -> Copy:
        copy = await self._brought(asker, source, self._image_bytes_max, IMAGE_TYPES, IMAGE_CODES)
        kind = media.require_image(copy.body, bytes_max=self._image_bytes_max, param=source.param)
        return Copy(filename=copy.filename, media_type=kind, body=copy.body)

    async def _file(self, asker: Asker, source: Source) -> Copy:
        return await self._brought(asker, source, self._file_bytes_max, FILE_TYPES, FILE_CODES)

    async def _text(self, asker: Asker, source: Source) -> Copy:
        copy = await self._file(asker, source)
        text = await self._documents.text(
            copy.body, filename=copy.filename, media_type=copy.media_type, param=source.param
        )
        is_trivial = media.family(copy.body) == "text"
        return Copy(
            filename=copy.filename, media_type="text/plain", body=text.encode(errors="replace"), is_trivial=is_trivial
        )

    async def _brought(
        self, asker: Asker, source: Source, bytes_max: int, types: tuple[str, ...], codes: FetchCodes
    ) -> Copy:
        most = min(bytes_max, max(asker.left_bytes, 0))
        match source.field:
            case "file_id":
                copy = await self._read(asker.project, source, most, codes)
            case "file_data":
                copy = await _decoded(source)
            case _:
                fetched = await self._fetch.get(
                    source.value, param=source.param, bytes_max=most, accept=types, codes=codes
                )
                name = source.filename or unquote(PurePosixPath(urlsplit(fetched.url).path).name)
                copy = Copy(filename=name, media_type=fetched.media_type, body=fetched.body)
        asker.spend(len(copy.body), source)
        return copy

    async def _read(self, project: str, source: Source, bytes_max: int, codes: FetchCodes) -> Copy:
        is_image = codes is IMAGE_CODES
        try:
            file, body = await self._files.read(project, source.value, bytes_max=bytes_max, param=source.param)
        except NotFound:
            raise InvalidRequest(
                f"Invalid '{source.param}': there is no file '{source.value[:SHOWN_CHARS_MAX]}'.",
                param=source.param,
                code="image_file_not_found" if is_image else "file_not_found",
            ) from None
        except InvalidRequest as error:  # it is too large
            raise InvalidRequest(error.message, param=source.param, code=codes.size) from None
        return Copy(filename=source.filename or file.filename, body=body)


async def _decoded(source: Source) -> Copy:
    media_type, body = await coded(len(source.value), partial(_read_here, source.value))
    if body is None:
        raise InvalidValue(
            f"Invalid '{source.param}': expected a data URL that holds base64, or base64 alone.", param=source.param
        )
    return Copy(filename=source.filename, media_type=media_type, body=body)


def _read_here(text: str) -> tuple[str, bytes | None]:
    """The media type and the content of a data URL, or of bare base64."""
    found = media.data_url(text) if media.is_data_url(text) else media.DataUrl("", text)
    return ("", None) if found is None else (found.media_type, media.decoded(found.base64))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def coded(size: int, code: Callable[[], T]) -> T:
    """What `code` gives, from a thread where it has much to do."""
    return code() if size <= HERE_BYTES_MAX else await asyncio.to_thread(code)
