"""/v1/files and /v1/uploads."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from antiphon.api.http import Call, ClientLeft, Parameter, Served, read_json, send_value
from antiphon.api.multipart import Form
from antiphon.api.paging import asked, paging
from antiphon.config import Limits
from antiphon.core.ports import FileQuery
from antiphon.engine.files import Files, NewFile, safe_filename
from antiphon.errors import InvalidType
from antiphon.wire import codec
from antiphon.wire.dialect import OPENAI
from antiphon.wire.files import (
    PURPOSES,
    CompleteUpload,
    CreatePart,
    CreateUpload,
    DeletedFile,
    FileList,
    FileObject,
    StoreFile,
    Upload,
    UploadPart,
)

PAGE_MAX: Final = 10_000
EXPIRY: Final = "expires_after"

PARAMETERS: Final = (
    Parameter(name="purpose", schema={"type": "string", "enum": PURPOSES}, description="Only files of this purpose."),
    *paging("files", "a file", default=PAGE_MAX, most=PAGE_MAX),
)


class _Files(Struct, frozen=True):
    files: Files
    limits: Limits
    strict: bool

    async def create_file(self, call: Call) -> None:
        form = self._form(call, "file", self.limits.file_bytes_max, "file_bytes_max")
        await form.begin()
        safe_filename(form.filename, "file")
        if "purpose" in form.fields:  # before the file comes, if it can be said by now
            codec.convert({"purpose": form.fields["purpose"]}, StoreFile)
        ignored: tuple[str, ...] = ()

        def about() -> NewFile:
            nonlocal ignored
            asked, ignored = codec.taken(_described(form.fields), StoreFile, strict=self.strict)
            return NewFile(safe_filename(form.filename, "file"), asked)

        file = await self.files.create(call.project, form.content(), about)
        await send_value(call, file, ignored)

    async def list_files(self, call: Call) -> None:
        query = call.query()
        query.refuse_empty([one.name for one in PARAMETERS])
        purpose: Any = query.choice("purpose", None, frozenset(PURPOSES))
        wanted = FileQuery(purpose=purpose, **asked(query, default=PAGE_MAX, most=PAGE_MAX))
        page = await self.files.page(call.project, wanted)
        await send_value(call, FileList.of(page.files, has_more=page.has_more))

    async def retrieve_file(self, call: Call) -> None:
        await send_value(call, await self.files.retrieve(call.project, call.path("file_id")))

    async def delete_file(self, call: Call) -> None:
        file_id = call.path("file_id")
        await self.files.delete(call.project, file_id)
        await send_value(call, DeletedFile(id=file_id))

    async def file_content(self, call: Call) -> None:
        file, pieces = await self.files.content(call.project, call.path("file_id"))
        async with aclosing(pieces):
            await _send_content(call, file, pieces)

    async def create_upload(self, call: Call) -> None:
        asked, ignored = await self._decoded(call, CreateUpload)
        await send_value(call, await self.files.create_upload(call.project, asked), ignored)

    async def add_part(self, call: Call) -> None:
        form = self._form(call, "data", self.limits.upload_part_bytes_max, "upload_part_bytes_max")
        await form.begin()
        ignored: tuple[str, ...] = ()

        async def content() -> AsyncGenerator[bytes, None]:
            nonlocal ignored
            async for piece in form.content():
                yield piece
            _, ignored = codec.taken({**form.fields}, CreatePart, strict=self.strict)

        part = await self.files.add_part(call.project, call.path("upload_id"), content())
        await send_value(call, part, ignored)

    async def complete_upload(self, call: Call) -> None:
        asked, ignored = await self._decoded(call, CompleteUpload)
        await send_value(call, await self.files.complete(call.project, call.path("upload_id"), asked), ignored)

    async def cancel_upload(self, call: Call) -> None:
        await send_value(call, await self.files.cancel(call.project, call.path("upload_id")))

    def _form(self, call: Call, field: str, bytes_max: int, limit: str) -> Form:
        silence_timeout_s = self.limits.file_silence_timeout_s
        return Form(call, field, bytes_max=bytes_max, limit=limit, silence_timeout_s=silence_timeout_s)

    async def _decoded(self, call: Call, kind: type[codec.T]) -> tuple[codec.T, tuple[str, ...]]:
        body = await read_json(call.scope, call.receive, self.limits.body_bytes_max)
        return codec.decode(body, kind, strict=self.strict)


def _described(fields: dict[str, str]) -> dict[str, object]:
    """The fields of a form as JSON would have them. The expiry comes as `expires_after[seconds]=3600`, or as JSON."""
    raw: dict[str, object] = {}
    expiry: dict[str, object] = {}
    for name, value in fields.items():
        if match := re.fullmatch(rf"{EXPIRY}\[(\w+)\]", name):
            expiry[match[1]] = int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value
        elif name == EXPIRY:
            raw[EXPIRY] = _json(value)
        else:
            raw[name] = value
    return raw | {EXPIRY: expiry} if expiry else raw


def _json(value: str) -> object:
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidType(f"Invalid type for '{EXPIRY}': expected an object.", param=EXPIRY) from None


async def _send_content(call: Call, file: FileObject, pieces: AsyncGenerator[bytes, None]) -> None:
    """Stops reading when the client leaves. Nothing that a client named decides how a browser takes it."""
    leaving = asyncio.create_task(_leaving(call))
    try:
        piece = await anext(pieces, b"")  # before the head, so that a failure has a status
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % file.bytes),
            (b"content-disposition", disposition(file.filename)),
            (b"x-content-type-options", b"nosniff"),
        ]
        await call.send(call.scope["antiphon"].head(200, headers))
        while piece and call.scope["method"] != "HEAD":
            if leaving.done():
                raise ClientLeft
            await call.send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = await anext(pieces, b"")
        await call.send({"type": "http.response.body", "body": b""})
    finally:
        leaving.cancel()


async def _leaving(call: Call) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass


def disposition(filename: str) -> bytes:
    """As RFC 6266 has it: plain ASCII for old readers, and the true name, percent-encoded."""
    plain = re.sub(r"[^A-Za-z0-9 ._-]", "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}".encode("ascii")


def routes(files: Files, limits: Limits, *, strict: bool) -> list[Served]:
    it = _Files(files, limits, strict)
    all_files, all_uploads = f"{OPENAI.prefix}/files", f"{OPENAI.prefix}/uploads"
    file, upload = all_files + "/{file_id}", all_uploads + "/{upload_id}"
    return [
        Served(
            method="POST",
            path=all_files,
            endpoint=it.create_file,
            summary="Store a file",
            takes=StoreFile,
            takes_file="file",
            gives=FileObject,
        ),
        Served(
            method="GET",
            path=all_files,
            endpoint=it.list_files,
            summary="List files",
            gives=FileList,
            query=PARAMETERS,
        ),
        Served(method="GET", path=file, endpoint=it.retrieve_file, summary="Retrieve a file", gives=FileObject),
        Served(method="DELETE", path=file, endpoint=it.delete_file, summary="Delete a file", gives=DeletedFile),
        Served(
            method="GET", path=file + "/content", endpoint=it.file_content, summary="The bytes of a file", gives=bytes
        ),
        Served(
            method="POST",
            path=all_uploads,
            endpoint=it.create_upload,
            summary="Begin a file that is sent in parts",
            takes=CreateUpload,
            gives=Upload,
        ),
        Served(
            method="POST",
            path=upload + "/parts",
            endpoint=it.add_part,
            summary="Send a part of such a file",
            takes=CreatePart,
            takes_file="data",
            gives=UploadPart,
        ),
        Served(
            method="POST",
            path=upload + "/complete",
            endpoint=it.complete_upload,
            summary="Put the parts together",
            takes=CompleteUpload,
            gives=Upload,
        ),
        Served(
            method="POST",
            path=upload + "/cancel",
            endpoint=it.cancel_upload,
            summary="Give such a file up",
            gives=Upload,
        ),
    ]
