"""A form with one file in it (multipart/form-data), read as it comes: of the file, no more than one piece is in memory.

The fields may stand before the file or behind it. Knows no file of the API and no store.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers

from antiphon.api.http import Call, ClientLeft
from antiphon.errors import (
    BodyTooLarge,
    InvalidRequest,
    InvalidType,
    InvalidValue,
    MissingParameter,
    RequestTimeout,
    UnsupportedMediaType,
)

FIELDS_MAX: Final = 32
FIELD_BYTES_MAX: Final = 4_096
AROUND_BYTES_MAX: Final = 256 * 1024
"""What may come beside the file's own bytes: fields, headers, boundaries."""

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what is wrong with a form is said to its sender


class Form:
    """One request's form. `begin`, then all of `content`; then `fields` and `filename` are whole."""

    def __init__(self, call: Call, file_field: str, *, bytes_max: int, limit: str, silence_timeout_s: float) -> None:
        """Raises UnsupportedMediaType, and BodyTooLarge for what says so itself. `limit` names that of `bytes_max`."""
        self.fields: dict[str, str] = {}
        self.filename = ""
        self._receive = call.receive
        self._file_field = file_field
        self._bytes_max = bytes_max
        self._limit = limit
        self._silence_timeout_s = silence_timeout_s
        headers = Headers(scope=call.scope)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > bytes_max + AROUND_BYTES_MAX:
            raise self._too_large()
        self._parser = _parser(headers.get("content-type", ""), self)
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._is_file = self._has_file = self._is_over = False
        self._is_more = True
        self._value = bytearray()
        self._pieces: list[bytes] = []
        self._file_bytes = self._all_bytes = 0

    async def begin(self) -> None:
        """Reads up to the file. Raises MissingParameter when there is none."""
        while self._is_more and not self._has_file:
            await self._read()
        if not self._has_file:
            raise MissingParameter(f"Missing required parameter: '{self._file_field}'.", param=self._file_field)

    async def content(self) -> AsyncGenerator[bytes, None]:
        """The file's bytes. When they are over, so is the form."""
        while self._is_more or self._pieces:
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                yield piece
            if self._is_more:
                await self._read()

    async def _read(self) -> None:
        """One message of the body."""
        try:
            async with asyncio.timeout(self._silence_timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout(
                f"No byte of the request body came for {self._silence_timeout_s:g} s (limits.file_silence_timeout_s)."
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body = message.get("body", b"")
        self._all_bytes += len(body)
        try:
            self._parser.write(body)
        except FormParserError as error:
            raise InvalidRequest(f"We could not parse the form of your request: {error}.") from None
        if self._file_bytes > self._bytes_max or self._all_bytes > self._bytes_max + AROUND_BYTES_MAX:
            raise self._too_large()
        self._is_more = message.get("more_body", False)
        if not self._is_more and not self._is_over:
            raise InvalidRequest("We could not parse the form of your request: it ends before its last boundary.")

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The file is larger than {self._bytes_max} bytes (limits.{self._limit}).")

    # -- what the parser calls

    def on_part_begin(self) -> None:
        self._disposition, self._value = b"", bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = (bytes(one) for one in self._header)
        self._header = (bytearray(), bytearray())
        if name.lower() == b"content-disposition":
            self._disposition = value
        elif name.lower() == b"content-transfer-encoding" and value.strip().lower() not in _PLAIN:
            raise InvalidRequest("The parts of a form must be sent as they are, in no Content-Transfer-Encoding.")

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise InvalidRequest("We could not parse the form of your request: a part of it has no name.")
        self._name = name = _text(options[b"name"], "name")[:FIELD_BYTES_MAX]
        if name in self.fields or (name == self._file_field and self._has_file):
            raise InvalidValue(f"Invalid '{name[:64]}': it is given more than once.", param=name)
        self._is_file = b"filename" in options
        if self._is_file != (name == self._file_field):
            what = "a file, with its name" if name == self._file_field else "no file"
            raise InvalidType(f"Invalid type for '{name[:64]}': expected {what}.", param=name)
        if self._is_file:
            self._has_file = True
            self.filename = _text(options[b"filename"], name)
        elif len(self.fields) >= FIELDS_MAX:
            raise InvalidRequest(f"The form has more than {FIELDS_MAX} fields.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pieces.append(data[start:end])
            self._file_bytes += end - start
            return
        self._value.extend(data[start:end])
        if len(self._value) > FIELD_BYTES_MAX:
            name = self._name
            raise InvalidValue(f"Invalid '{name[:64]}': it is longer than {FIELD_BYTES_MAX} bytes.", param=name)

    def on_part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = _text(bytes(self._value), self._name)

    def on_end(self) -> None:
        self._is_over = True


_PLAIN: Final = frozenset({b"binary", b"8bit", b"7bit"})


def _parser(content_type: str, form: Form) -> MultipartParser:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        shown = kind.decode("latin-1")[:100]
        raise UnsupportedMediaType(
            f"Unsupported content type '{shown}'. The request body must be a form (multipart/form-data)."
        )
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= BOUNDARY_BYTES_MAX:
        raise InvalidRequest("The content type of a form must name its boundary, of 1 to 70 characters.")
    names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end")
    calls = {f"on_{name}": getattr(form, f"on_{name}") for name in (*names, "end")}
    return MultipartParser(boundary, calls)  # type: ignore[arg-type] # a dict of just these names


BOUNDARY_BYTES_MAX: Final = 70
"""RFC 2046, 5.1.1."""


def _text(data: bytes, param: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidValue(f"Invalid '{param[:64]}': this is not UTF-8.", param=param) from None
