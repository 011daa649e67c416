"""The process that reads one document: bytes in by stdin, one line of JSON and the text out by stdout, then it ends.

Takes part in nothing else of the server, and imports nothing of it but its neighbours here and one library.
Its answer: `{"kind": "pdf", "title": ""}` and the text, or `{"refused": why}` alone, in words for a client. An
exception that nobody foresaw is a document that is damaged, or was made to be: see `told`.
"""

import codecs
import json
import sys
from collections.abc import Callable
from types import TracebackType

from antiphon.documents import confine
from antiphon.documents.reading import Bounds, Reading, Refused

LIBRARIES = {"pdf": "pypdfium2", "docx": "docx", "xlsx": "openpyxl", "pptx": "pptx", "html": "trafilatura"}
EXTRAS = {"html": "web"}
"""Of which extra a kind is, if not of `documents`."""

CODECS = ("ascii", "latin-1", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp437", "cp1252")
"""What a library may ask for when it is too late to load it."""
PAGE_CODECS = (
    *(f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16)),
    *(f"cp{number}" for number in (874, 932, 949, 950, 1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258)),
    *("koi8-r", "koi8-u", "big5", "big5hkscs", "gb2312", "gbk", "gb18030", "euc-jp", "euc-kr", "shift_jis"),
    *("iso2022_jp", "utf-32", "utf-7", "mac-roman", "tis-620"),
)
"""The same of web pages."""


def main() -> None:
    """Arguments: the family of kinds ("pdf", "zip" or "html"), and the bounds as JSON."""
    sys.excepthook = told
    given = json.loads(sys.argv[2])
    confine.limit(memory_bytes=given.pop("memory_bytes"), cpu_s=given.pop("cpu_s"))
    reading = Reading(Bounds(**given))
    data = sys.stdin.buffer.read()
    kind, read = reader(sys.argv[1], data, reading)
    for name in (*CODECS, *PAGE_CODECS) if kind == "html" else CODECS:
        codecs.lookup(name)
    is_isolated = confine.isolate()
    read(data, reading)
    text = reading.text()
    answer({"kind": kind, "title": reading.title, "isolated": is_isolated}, text)


def reader(family: str, data: bytes, reading: Reading) -> tuple[str, Callable[[bytes, Reading], None]]:
    """The kind, and what reads it: with all that it imports, since nothing can be imported once isolated."""
    if family == "zip":
        from antiphon.documents import office

        family = office.kind(data, reading.bounds)
    try:
        if family == "pdf":
            from antiphon.documents import pdf

            return family, pdf.read
        if family == "html":
            from antiphon.documents import html

            html.warm()
            return family, html.read
        return family, office.reader(family)
    except ImportError as missing:
        if missing.name != LIBRARIES[family]:
            raise
        raise Refused(
            f"this server cannot read {family} files: its operator can change that by `pip install "
            f"'antiphon[{EXTRAS.get(family, 'documents')}]'`"
        ) from None


def told(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """Says why there is no text. The exception's own words may quote the document, so only its name is passed on."""
    if isinstance(error, Refused):
        answer({"refused": str(error)})
    elif isinstance(error, MemoryError):
        answer({"refused": "reading it takes more memory than this server allows (documents.memory_bytes_max)"})
    else:
        answer({"refused": f"it is damaged ({kind.__name__})"})


def answer(head: dict[str, object], text: str = "") -> None:
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + text.encode(errors="replace"))
    sys.stdout.buffer.flush()
