"""Text out of docx, xlsx and pptx: archives of XML, judged before a library sees them.

Their rules (ECMA-376 part 2) forbid document types, entities and encodings other than UTF-8 and UTF-16, so all of that
is refused before it is parsed. Nothing is ever written to a disk, nor is an archive inside an archive opened.
"""

import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any

from antiphon.documents.reading import Bounds, Reading, Refused

KINDS = {
    b"wordprocessingml.document.main+xml": "docx",
    b"spreadsheetml.sheet.main+xml": "xlsx",
    b"presentationml.presentation.main+xml": "pptx",
}
"""By the content type of the main part."""
CONTENT_TYPES = "[Content_Types].xml"
NOT_PARSED = (".svg", ".html", ".htm")
"""Members that no reader here parses, and that may have a document type."""
ENCODING = re.compile(rb"""^\s*<\?xml[^>]*\sencoding\s*=\s*["']([^"']*)["']""")
ENCODINGS = frozenset({b"utf-8", b"utf8", b"utf-16", b"us-ascii", b"ascii"})
UTF_16 = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}

BEHIND = {"p": "\n", "br": "\n", "cr": "\n", "tab": "\t", "tc": " | ", "tr": "\n"}
"""What stands behind an element, by its local name, in WordprocessingML and DrawingML alike."""
ENDS = {"tc": ("\n",), "tr": (" | ",)}
"""What the last one inside has put there, and is not wanted: a cell ends no line, and a row ends without a bar."""
SKIPPED = frozenset({"pPr", "rPr", "tblPr", "sectPr", "Fallback"})
"""Properties, where `tab` is a tab stop; and what repeats its neighbour for older programs."""


def kind(data: bytes, bounds: Bounds) -> str:
    """The kind of a sound archive; else raises Refused."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            _check_members(archive.infolist(), bounds)
            for member in archive.infolist():
                if not member.filename.lower().endswith(NOT_PARSED):
                    _check_xml(archive.read(member))  # never more than the size that was checked: zipfile stops there
            types = archive.read(CONTENT_TYPES) if CONTENT_TYPES in archive.namelist() else b""
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise Refused(f"it is damaged, or no archive that can be read ({type(error).__name__})") from None
    found = next((kind for mark, kind in KINDS.items() if mark in types), None)
    if found is None:
        raise Refused("it is an archive, but none that is known: docx, xlsx and pptx are")
    return found


def _check_members(members: list[zipfile.ZipInfo], bounds: Bounds) -> None:
    if len(members) > bounds.members_max:
        raise Refused(f"it has more than {bounds.members_max} members (documents.members_max)")
    if sum(member.file_size for member in members) > bounds.unpacked_bytes_max:
        raise Refused(f"it unpacks to more than {bounds.unpacked_bytes_max} bytes (documents.unpacked_bytes_max)")
    names = {member.filename for member in members}
    if len(names) < len(members):
        raise Refused("two members of its archive have the same name")
    if any(_leaves(name) for name in names):
        raise Refused("a member of its archive has a name that leads out of it")
    if any(member.flag_bits & 1 for member in members):
        raise Refused("it is encrypted: send it without a password")


def _leaves(name: str) -> bool:
    return name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/")


def _check_xml(text: bytes) -> None:
    if codec := UTF_16.get(text[:2]):
        text = text.decode(codec, "replace").encode()
    elif (declared := ENCODING.match(text.removeprefix(b"\xef\xbb\xbf"))) and declared[1].lower() not in ENCODINGS:
        raise Refused("its XML is in an encoding that is not allowed there")
    if text.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and (b"<!DOCTYPE" in text or b"<!ENTITY" in text):
        raise Refused("its XML declares a document type or entities, which is not allowed there")


def reader(kind: str) -> Callable[[bytes, Reading], None]:
    """Imports all that reading this kind needs. Raises ImportError without the library."""
    if kind == "docx":
        import docx

        return lambda data, reading: _read_docx(docx.Document(BytesIO(data)), reading)
    if kind == "xlsx":
        import openpyxl

        return lambda data, reading: _read_xlsx(openpyxl.load_workbook(BytesIO(data), **XLSX), reading)
    import pptx

    return lambda data, reading: _read_pptx(pptx.Presentation(BytesIO(data)), reading)


XLSX = {"read_only": True, "data_only": True, "keep_links": False}
DOCX_PARTS = {"header": "Header", "footer": "Footer", "footnotes": "Footnotes", "endnotes": "Endnotes"}


def _read_docx(document: Any, reading: Reading) -> None:
    reading.add(_words(document.element.body))
    from lxml import etree  # imported by docx before

    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    for part in document.part.package.iter_parts():
        name = re.search(r"wordprocessingml\.(\w+)\+xml$", part.content_type)
        if name and name[1] in DOCX_PARTS and (words := _words(etree.fromstring(part.blob, parser)).strip()):
            reading.page(DOCX_PARTS[name[1]])
            reading.add(words)


def _read_xlsx(book: Any, reading: Reading) -> None:
    reading.count_pages(len(book.worksheets))
    for number, sheet in enumerate(book.worksheets, 1):
        reading.page(f"Sheet {number} of {len(book.worksheets)}: {sheet.title}")
        sheet.reset_dimensions()  # which are a claim: a sheet may say that it is empty, or endless
        for row in sheet.iter_rows(values_only=True):
            reading.count_cells(max(1, len(row)))
            if line := "\t".join(_shown(value) for value in row).rstrip("\t"):
                reading.add(line + "\n")


def _shown(value: object) -> str:
    return "" if value is None else str(value).replace("\t", " ").replace("\n", " ")


def _read_pptx(deck: Any, reading: Reading) -> None:
    slides = list(deck.slides)
    reading.count_pages(len(slides))
    for number, slide in enumerate(slides, 1):
        reading.page(f"Slide {number} of {len(slides)}")
        reading.add(_words(slide.element))
        if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame):
            reading.add(f"Notes: {notes.text}\n")


def _words(root: Any) -> str:
    """The text below an element in its order, whatever stands around it: links, insertions, text boxes, tables."""
    from lxml import etree

    walk = etree.iterwalk(root, events=("start", "end"))
    pieces: list[str] = []
    for event, element in walk:
        name = etree.QName(element).localname if isinstance(element.tag, str) else ""
        if event == "start":
            if name in SKIPPED:
                walk.skip_subtree()
        elif name == "t":
            pieces.append(element.text or "")
        elif name in BEHIND:
            while name in ENDS and pieces and pieces[-1] in ENDS[name]:
                pieces.pop()
            pieces.append(BEHIND[name])
    return "".join(pieces)
