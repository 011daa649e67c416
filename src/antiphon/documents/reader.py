"""Text out of a document: here in the server for text, by a worker process for the rest. Parses nothing itself."""

import asyncio
import contextlib
import math
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import msgspec
from msgspec import Struct

import antiphon
from antiphon import config
from antiphon.core.media import family
from antiphon.documents.kinds import claims, decoded
from antiphon.errors import InvalidRequest, TooManyRequests, UnsupportedParameter

START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import antiphon.documents.worker as w; sys.path.pop(0); w.main()"
)
"""Isolated (-I), so without the working directory and PYTHON* variables; only this package is found where it lies."""
ROOT = str(Path(antiphon.__file__).parent.parent)
IS_POSIX = os.name == "posix"
"""Elsewhere a process cannot be limited."""
PIECE_BYTES = 256 * 1024
HEAD_BYTES_MAX = 4096
UTF8_BYTES_MAX = 4
"""Of one character."""
NAMES = {"pdf": "a PDF file", "docx": "a docx file", "xlsx": "an xlsx file", "pptx": "a pptx file", "text": "text"}
OLD_OFFICE = "it is an encrypted Office file, or one of the old kinds (doc, xls, ppt): save it as docx, xlsx or pptx"
BINARY = "it is neither text nor a document that is known: PDF, docx, xlsx and pptx are"


class Head(Struct, frozen=True):
    """A worker's first line."""

    kind: str = ""
    title: str = ""
    isolated: bool = False
    refused: str = ""


class DocumentReader:
    """The port Documents. Bounded in how many it reads at once, and in how many wait for that."""

    def __init__(self, settings: config.Documents, start: str = START) -> None:
        self._settings = settings
        self._start = start
        self._slots = asyncio.Semaphore(settings.processes_max)
        self._present = 0

    async def text(self, data: bytes, *, filename: str, media_type: str, param: str) -> str:
        if not (self._settings.enabled and IS_POSIX):
            raise UnsupportedParameter(
                f"Unsupported parameter: '{param}': this server reads no documents ([documents] enabled).", param=param
            )
        try:
            return await self._text(data, claims(filename, media_type))
        except Unreadable as reason:
            raise InvalidRequest(f"Invalid '{param}': {reason}.", param=param, code=reason.code) from None

    async def _text(self, data: bytes, claimed: dict[str, str]) -> str:
        if not data:
            raise Unreadable("the file is empty")
        if len(data) > self._settings.bytes_max:
            raise Unreadable(f"the file has more than {self._settings.bytes_max} bytes (documents.bytes_max)")
        found = family(data)
        if found == "ole":
            raise Unreadable(OLD_OFFICE, code="unsupported_file")
        if found == "text":
            kind, text = "text", await self._decoded(data)
        else:
            head, text = await self._extracted(data, found)
            kind = head.kind
        for other, words in claimed.items():
            if other != kind:
                raise Unreadable(f"{words}, but its content is {NAMES[kind]}")
        return text

    async def page(self, data: bytes, *, is_html: bool) -> tuple[str, str]:
        """The title of what a website gave, maybe empty, and its text. Raises Unreadable, and TooManyRequests."""
        if not is_html:
            return "", await self._text(data, {})
        if not IS_POSIX:
            raise Unreadable("this server cannot read web pages: it lacks what confines their reader")
        if len(data) > self._settings.bytes_max:
            raise Unreadable(f"the page has more than {self._settings.bytes_max} bytes")
        head, text = await self._extracted(data, "html")
        return head.title, text

    async def _decoded(self, data: bytes) -> str:
        text = await asyncio.to_thread(decoded, data) if len(data) > PIECE_BYTES else decoded(data)
        if text is None:
            raise Unreadable(BINARY, code="unsupported_file")
        if len(text) > self._settings.chars_max:
            raise Unreadable(f"it has more than {self._settings.chars_max} characters of text (documents.chars_max)")
        return text

    async def _extracted(self, data: bytes, found: str) -> tuple[Head, str]:
        if self._present >= self._settings.processes_max + self._settings.waiting_max:
            raise TooManyRequests("Too many documents are being read at once. Please retry in a few seconds.")
        self._present += 1
        try:
            async with self._slots:
                head, text = await self._worked(data, found)
        finally:
            self._present -= 1
        if head.refused:
            raise Unreadable(head.refused)
        return head, text

    async def _worked(self, data: bytes, found: str) -> tuple[Head, str]:
        """One process from its start to its end, which is here, whatever happens."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", self._start, ROOT, found, self._bounds()),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                answer = await _answer(process, data, HEAD_BYTES_MAX + self._settings.chars_max * UTF8_BYTES_MAX)
        except TimeoutError:
            raise Unreadable(SLOW) from None
        finally:
            await _end(process)
        first, _, text = answer.partition(b"\n")
        try:
            return msgspec.json.decode(first, type=Head), text.decode(errors="replace")
        except msgspec.DecodeError:
            slow = process.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
            raise Unreadable(SLOW if slow else CRASHED) from None

    def _bounds(self) -> str:
        names = ("unpacked_bytes_max", "members_max", "pages_max", "cells_max", "chars_max")
        bounds = {name: getattr(self._settings, name) for name in names}
        own = {"memory_bytes": self._settings.memory_bytes_max, "cpu_s": math.ceil(self._settings.timeout_s)}
        return msgspec.json.encode(own | bounds).decode()


class Unreadable(Exception):
    """Why a document cannot be read, in words that follow a colon."""

    def __init__(self, why: str, code: str = "invalid_file") -> None:
        super().__init__(why)
        self.code = code


SLOW = "reading it took longer than this server allows (documents.timeout_s)"
CRASHED = "it is damaged, or takes more memory than this server allows (documents.memory_bytes_max)"


async def _answer(process: Process, data: bytes, bytes_max: int) -> bytes:
    """All it says, as far as it may. It reads everything before it writes anything, so one after the other will do."""
    assert process.stdin and process.stdout  # noqa: PT018 -- piped
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended early, and says or shows why
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()
    said = bytearray()
    while piece := await process.stdout.read(PIECE_BYTES):
        said += piece
        if len(said) > bytes_max:
            raise Unreadable(CRASHED)
    await process.wait()
    return bytes(said)


async def _end(process: Process) -> None:
    assert process.stdout
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        while await process.stdout.read(PIECE_BYTES):
            pass  # before all is read, asyncio does not see that it ended
        await process.wait()
