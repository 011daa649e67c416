"""Text out of documents, by real worker processes: what is read, what is refused, and what attacks come to."""

import ast
import asyncio
import contextlib
import datetime
import signal
import socket
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import msgspec
import pytest

from antiphon.config import Documents
from antiphon.documents.reader import START, DocumentReader, Unreadable, _end
from antiphon.errors import InvalidRequest, TooManyRequests
from tests import papers
from tests.conftest import WAIT_S
from tests.websites import article

PARAM = "input[0].content[1].file_data"
HELLO = papers.word("Hello")


async def read(data: bytes, name: str = "", media_type: str = "", **bounds: Any) -> str:
    reader = DocumentReader(Documents(**bounds))
    async with asyncio.timeout(WAIT_S):
        return await reader.text(data, filename=name, media_type=media_type, param=PARAM)


async def refusal(data: bytes, name: str = "", media_type: str = "", **bounds: Any) -> str:
    """Why it is refused; the error names the parameter."""
    with pytest.raises(InvalidRequest) as caught:
        await read(data, name, media_type, **bounds)
    assert caught.value.param == PARAM
    assert caught.value.message.startswith(f"Invalid '{PARAM}': ")
    return caught.value.message


async def test_a_pdf_is_read_page_by_page_under_their_numbers() -> None:
    text = await read(papers.pdf(["Tea\nand cake", "", "Café"]), "menu.pdf", "application/pdf")
    assert text == "[Page 1 of 3]\nTea\nand cake\n\n[Page 2 of 3]\n\n[Page 3 of 3]\nCafé"


async def test_a_word_file_is_read_with_its_tables_and_its_header() -> None:
    document = papers.word("Hello", "Grüße", table=[["a", "b"], ["c", "d"]], header="Draft")
    assert await read(document, "x.docx") == "Hello\nGrüße\na | b\nc | d\n\n[Header]\nDraft"


async def test_what_was_inserted_in_a_word_file_is_read_and_what_was_deleted_is_not() -> None:
    tracked = (
        b"<w:p><w:pPr><w:tabs><w:tab w:val='left'/></w:tabs></w:pPr><w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
        b"<w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:sdt><w:sdtContent><w:r><w:t> field</w:t></w:r>"
        b"</w:sdtContent></w:sdt></w:p>"
    )
    assert await read(body(tracked)) == "new field\n"


async def test_a_workbook_is_read_sheet_by_sheet() -> None:
    day = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC).replace(tzinfo=None)
    book = papers.sheets(Costs=[["tea", 1.5], [None, day]], Notes=[["a\tb", True, "=1+1"]])
    told = "[Sheet 1 of 2: Costs]\ntea\t1.5\n\t2026-11-25 00:00:00\n\n[Sheet 2 of 2: Notes]\na b\tTrue\n"
    assert await read(book, "costs.xlsx") == told


async def test_slides_are_read_with_their_notes() -> None:
    deck = papers.slides("First", "Second", notes="smile")
    told = "[Slide 1 of 2]\nFirst\nNotes: smile\n\n[Slide 2 of 2]\nSecond\nNotes: smile\n"
    assert await read(deck, "talk.pptx") == told


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("naïve ✓".encode(), "naïve ✓"),
        ("naïve".encode("utf-8-sig"), "naïve"),
        ("naïve ✓".encode("utf-16"), "naïve ✓"),
        ("naïve “so”".encode("cp1252"), "naïve “so”"),
        (b"<!DOCTYPE html><p>raw</p>", "<!DOCTYPE html><p>raw</p>"),
    ],
)
async def test_text_is_read_in_its_encoding_and_stays_as_it_is(data: bytes, told: str) -> None:
    assert await read(data, "notes.md", "text/plain; charset=x") == told


@pytest.mark.parametrize(
    ("data", "name", "media_type", "why"),
    [
        (b"", "a.txt", "", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a.txt", "", "neither text nor a document"),
        (b"a\0b", "", "", "neither text nor a document"),
        (b"\x81 undefined in cp1252", "", "", "neither text nor a document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "a.doc", "", "one of the old kinds"),
        (HELLO, "a.pdf", "", "it is named .pdf, but its content is a docx file"),
        (HELLO, "", "application/pdf", "its media type is application/pdf, but its content is a docx file"),
        (papers.pdf(["x"]), "notes.txt", "", "it is named .txt, but its content is a PDF file"),
        (b"just words", "a.xlsx", "", "it is named .xlsx, but its content is text"),
        (papers.pdf(["x"], encrypted=True), "", "", "it is encrypted"),
        (papers.pdf(["", ""]), "", "", "there is no text in it: if it holds scanned pages, send them as images"),
        (b"%PDF-1.7 and nothing more", "", "", "it is damaged"),
        (HELLO[: len(HELLO) // 2], "", "", "it is damaged"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_the_reason(
    data: bytes, name: str, media_type: str, why: str
) -> None:
    assert why in await refusal(data, name, media_type)


async def test_a_name_and_a_type_that_say_nothing_are_no_lie() -> None:
    assert await read(b"x = 1", "main.py", "application/octet-stream") == "x = 1"


async def test_documents_can_be_switched_off() -> None:
    with pytest.raises(InvalidRequest, match=r"reads no documents \(\[documents\] enabled\)") as caught:
        await read(b"text", enabled=False)
    assert caught.value.param == PARAM


@pytest.mark.parametrize(
    ("data", "bounds"),
    [
        (b"12345", {"bytes_max": 4}),
        (b"12345", {"chars_max": 4}),
        (papers.pdf(["one", "two"]), {"pages_max": 1}),
        (papers.pdf(["one", "two"]), {"chars_max": 20}),
        (papers.sheets(A=[[1]], B=[[1]]), {"pages_max": 1}),
        (papers.sheets(A=[[1, 2]]), {"cells_max": 1}),
        (papers.slides("a", "b"), {"pages_max": 1}),
        (HELLO, {"members_max": 3}),
        (HELLO, {"unpacked_bytes_max": 1000}),
    ],
)
async def test_a_document_beyond_a_bound_is_refused_by_the_name_of_the_bound(
    data: bytes, bounds: dict[str, Any]
) -> None:
    assert f"(documents.{next(iter(bounds))})" in await refusal(data, **bounds)


# -- attacks by documents


def body(xml: bytes) -> bytes:
    head = b"<?xml version='1.0'?><w:document xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'>"
    return papers.with_members(HELLO, {"word/document.xml": head + b"<w:body>" + xml + b"</w:body></w:document>"})


LAUGHS = b"<!DOCTYPE w [<!ENTITY a 'ha'>" + b"".join(
    b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(12)
)


def with_entity(declared: bytes, name: str = "word/document.xml", encoding: str = "utf-8") -> bytes:
    head = b"<w:document xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'><w:body><w:p><w:r><w:t>"
    xml = declared + b"]>" + head + b"kept &m;</w:t></w:r></w:p></w:body></w:document>"
    members = {name: xml.decode().encode(encoding)}
    if name != "word/document.xml":  # the main part, under a name whose content is not looked at
        for member in ("[Content_Types].xml", "_rels/.rels"):
            with zipfile.ZipFile(BytesIO(HELLO)) as archive:
                members[member] = archive.read(member).replace(b"word/document.xml", name.encode())
    return papers.with_members(HELLO, members)


def outside(address: str) -> bytes:
    return b"<!DOCTYPE w [<!ENTITY m SYSTEM '%s'>" % address.encode()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
async def test_entities_are_refused_in_every_encoding(encoding: str) -> None:
    assert "document type or entities" in await refusal(with_entity(LAUGHS, encoding=encoding))


async def test_xml_in_an_encoding_that_could_hide_entities_is_refused() -> None:
    hidden = b"<?xml version='1.0' encoding='UTF-7'?>+ADwAIQ-DOCTYPE"
    assert "encoding" in await refusal(papers.with_members(HELLO, {"word/document.xml": hidden}))


async def test_what_gets_past_the_look_for_entities_grows_nothing() -> None:
    harmless = b"<!DOCTYPE w [<!ENTITY m 'ha'>"
    assert await read(with_entity(harmless, "word/document.svg")) == "kept \n"  # it is not even replaced once
    assert "damaged" in await refusal(with_entity(LAUGHS, "word/document.svg"), timeout_s=5)


@pytest.mark.parametrize("name", ["word/document.xml", "word/document.svg"])
async def test_an_entity_reads_no_file_and_fetches_nothing(name: str, tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for address in (secret.as_uri(), f"http://127.0.0.1:{listener.getsockname()[1]}/"):
            try:
                told = await read(with_entity(outside(address), name))
            except InvalidRequest as refused:
                told = refused.message
            assert "hunter2" not in told
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_xml_that_nests_without_end_is_refused() -> None:
    assert "damaged" in await refusal(body(b"<w:p>" * 100_000))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "word\\..\\x.xml", "C:/x.xml"])
async def test_a_member_whose_name_leads_out_of_the_archive_is_refused(name: str) -> None:
    assert "leads out of it" in await refusal(papers.with_members(HELLO, {name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
async def test_members_of_one_name_are_refused() -> None:
    twice = BytesIO(HELLO)
    with zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("word/document.xml", b"<other/>")
    assert "the same name" in await refusal(twice.getvalue())


async def test_an_archive_that_unpacks_to_much_is_refused_before_it_is_unpacked() -> None:
    bomb = papers.with_members(HELLO, {"word/media/a.bin": bytes(20_000_000)})
    assert len(bomb) < 100_000
    assert "documents.unpacked_bytes_max" in await refusal(bomb, unpacked_bytes_max=10_000_000)


async def test_an_archive_that_lies_about_its_sizes_is_unpacked_no_further_than_it_says() -> None:
    bomb = papers.with_members(HELLO, {"word/media/a.bin": bytes(20_000_000)})
    lie = bomb.replace(struct.pack("<I", 20_000_000), struct.pack("<I", 20))
    assert "damaged" in await refusal(lie, unpacked_bytes_max=10_000_000)


async def test_an_archive_inside_an_archive_is_never_opened() -> None:
    inner = papers.with_members(HELLO, {"zeros": bytes(20_000_000)})
    nested = papers.with_members(HELLO, {"word/embeddings/inner.docx": inner})
    assert await read(nested, unpacked_bytes_max=10_000_000) == "Hello\n"


async def test_an_archive_of_another_kind_is_refused() -> None:
    plain = BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("a.txt", "words")
    assert "docx, xlsx and pptx are" in await refusal(plain.getvalue())


async def test_an_encrypted_archive_is_refused() -> None:
    locked = HELLO
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # bit 0 of the flags, in both headers
        parts = locked.split(mark)
        flagged = [part[: place - 4] + bytes([part[place - 4] | 1]) + part[place - 3 :] for part in parts[1:]]
        locked = mark.join([parts[0], *flagged])
    assert "encrypted" in await refusal(locked)


async def test_one_cell_at_the_end_of_a_sheet_does_not_make_a_million_rows() -> None:
    book = papers.sheets(A=[[1]])
    with zipfile.ZipFile(BytesIO(book)) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml")
    far = sheet.replace(b'<row r="1"', b'<row r="1048576"').replace(b'r="A1"', b'r="XFD1048576"')
    assert far != sheet
    moved = papers.with_members(book, {"xl/worksheets/sheet1.xml": far})
    assert "documents.cells_max" in await refusal(moved, cells_max=100_000)


PAGES = b"<</Type/Pages/Count %d/Kids[%s]>>"
CATALOGUE = b"<</Type/Catalog/Pages 2 0 R>>"
PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Resources<</XObject<</X 4 0 R>>>>/Contents 4 0 R>>"


def stream(data: bytes, times: int = 1, more: bytes = b"") -> bytes:
    for _ in range(times):
        data = zlib.compress(data, 9)
    return b"<</Length %d/Filter[%s]%s>>stream\n%s\nendstream" % (len(data), b"/FlateDecode" * times, more, data)


RECURSIVE_FORM = stream(b"/X Do", more=b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</X 4 0 R>>>>")


@pytest.mark.parametrize(
    "objects",
    [
        [CATALOGUE, PAGES % (1, b"2 0 R")],
        [CATALOGUE, PAGES % (2, b"3 0 R 3 0 R"), PAGES % (2, b"2 0 R 2 0 R")],
        [CATALOGUE, PAGES % (1, b"3 0 R"), b"3 0 R"],
        [CATALOGUE, PAGES % (1, b"3 0 R"), PAGE, RECURSIVE_FORM],
        [CATALOGUE, PAGES % (1_000_000_000, b"3 0 R"), PAGE, stream(b"")],
        [CATALOGUE, PAGES % (1, b"3 0 R"), PAGE, stream(bytes(400_000_000))],
        [CATALOGUE, PAGES % (1, b"3 0 R"), PAGE, stream(bytes(400_000_000), 2)],
        [CATALOGUE, PAGES % (1, b"3 0 R"), PAGE, stream(b"[" * 3_000_000)],
        [CATALOGUE, PAGES % (1, b"3 0 R"), PAGE, stream(b"<<" * 3_000_000)],
    ],
    ids=["own child", "cycle", "own object", "form", "count", "stream", "nested stream", "arrays", "dictionaries"],
)
async def test_a_pdf_that_is_made_to_hurt_is_refused_in_time_and_memory(objects: list[bytes]) -> None:
    await refusal(papers.pdf_of(objects), timeout_s=5, memory_bytes_max=256 * 1024 * 1024)


# -- workers that go wrong, or were taken over


BEGIN = "import sys; sys.path.insert(0, sys.argv[1])\n"
CONFINED = BEGIN + "from antiphon.documents import confine, worker\nsys.excepthook = worker.told\n"
LIMITED = CONFINED + "confine.limit(memory_bytes=2**28, cpu_s=1)\n"


async def outcome(start: str, **bounds: Any) -> str:
    reader = DocumentReader(Documents(**bounds), start)
    async with asyncio.timeout(WAIT_S):
        return await reader.text(papers.pdf(["x"]), filename="", media_type="", param=PARAM)


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (LIMITED + "while True: pass", "longer than"),
        (LIMITED + "bytearray(2**30)", "more memory than"),
        ("import os; os.kill(os.getpid(), 11)", "damaged"),
        ("print('no JSON')", "damaged"),
        ("import sys; sys.stdin.buffer.read()\nwhile True: print('x' * 10**6)", "damaged"),
        ("raise SystemExit", "damaged"),
    ],
    ids=["spins", "eats memory", "is killed", "talks nonsense", "talks on", "leaves"],
)
async def test_a_worker_that_goes_wrong_is_a_clear_error_in_time(start: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await outcome(start, chars_max=1000)


@pytest.mark.parametrize(
    "before", ["", "import sys; sys.stdin.buffer.read(); sys.stdout.close()\n"], ids=["first", "last"]
)
async def test_a_worker_that_hangs_is_ended_in_time(before: str) -> None:
    with pytest.raises(InvalidRequest, match="longer than this server allows"):
        await outcome(before + "import time; time.sleep(60)", timeout_s=0.5)


async def test_a_worker_ends_with_all_that_it_started() -> None:
    """The connection that its child has too is closed only when both are gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        parent = (
            f"import os, socket, sys, time; c = socket.create_connection({listener.getsockname()!r})\n"
            "sys.stdin.buffer.read(); os.fork() or time.sleep(60)\nwhile True: print('x' * 10**6)"
        )
        with pytest.raises(InvalidRequest, match="damaged"):
            await outcome(parent, chars_max=1000)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(WAIT_S)
            assert connection.recv(1) == b""


async def test_a_worker_that_said_more_than_anybody_read_is_ended_too() -> None:
    talks = "while True: print('x' * 10**6)"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", talks), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout
    async with asyncio.timeout(WAIT_S):
        while not process.stdout._paused:  # type: ignore[attr-defined] # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
        await _end(process)

    assert process.returncode == -signal.SIGKILL


async def test_a_client_that_leaves_ends_the_worker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        code = f"import socket, time; c = socket.create_connection({listener.getsockname()!r}); time.sleep(60)"
        reading = asyncio.create_task(outcome(code))
        connection, _ = await asyncio.to_thread(listener.accept)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with connection:
            connection.settimeout(WAIT_S)
            assert connection.recv(1) == b""


ATTEMPTS = """
import ctypes, json, os, socket, subprocess, sys
libc = ctypes.CDLL(None)
tries = {
    "open": lambda: open("/etc/passwd"),
    "write": lambda: open("/tmp/antiphon-test", "w"),
    "list": lambda: os.listdir("/"),
    "unlink": lambda: os.unlink("/nowhere"),
    "socket": lambda: socket.socket(),
    "fork": lambda: os.fork(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "run": lambda: subprocess.run(["/bin/true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "raise": lambda: confine.resource.setrlimit(confine.resource.RLIMIT_AS, (2**40, 2**40)),
}
assert confine.isolate()
did = []
for name, attempt in tries.items():
    try:
        attempt()
        did.append(name)
    except (PermissionError, ValueError):  # the latter is what it is called by setrlimit
        pass
worker.answer({"kind": "pdf"}, json.dumps(did))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
async def test_a_worker_that_was_taken_over_opens_connects_and_starts_nothing() -> None:
    assert await outcome(LIMITED + ATTEMPTS) == "[]"


async def test_a_worker_inherits_no_variable_and_no_file() -> None:
    told = "worker.answer({'kind': 'pdf'}, repr((sorted(os.environ), sorted(os.listdir(fds)))))"
    fds = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    environment, files = ast.literal_eval(await outcome(CONFINED + f"import os; fds = {fds!r}\n" + told))
    assert environment in ([], ["LC_CTYPE"])  # which Python sets itself
    assert files[:3] == ["0", "1", "2"]
    assert len(files) == 4  # and the one that lists them


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
async def test_every_worker_reads_isolated() -> None:
    """The first line of a real answer, which the server does not pass on."""
    head = "import io\ntold = io.BytesIO(); out = sys.stdout; sys.stdout = type('', (), {'buffer': told})\n"
    after = "sys.stdout = out; sys.argv.pop(1); w.answer({'kind': 'pdf'}, told.getvalue().decode())"
    whole = BEGIN + "import antiphon.documents.worker as w\n" + head + "path = sys.argv.pop(1); w.main()\n"
    told = await outcome(whole + after.replace("sys.argv.pop(1); ", ""))
    assert msgspec.json.decode(told.partition("\n")[0])["isolated"] is True


async def test_only_so_many_are_read_at_once_and_only_so_many_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        wait = f"import socket; socket.create_connection({listener.getsockname()!r}).recv(1)\n"
        reader = DocumentReader(Documents(processes_max=1, waiting_max=1), wait + START)
        ask: Callable[[], Any] = lambda: reader.text(papers.pdf(["x"]), filename="", media_type="", param=PARAM)  # noqa: E731
        tasks = [asyncio.create_task(ask()) for _ in range(2)]
        connection, _ = await asyncio.to_thread(listener.accept)
        with pytest.raises(TooManyRequests):
            await ask()
        connection.close()
        second, _ = await asyncio.to_thread(listener.accept)
        second.close()
        assert await asyncio.wait_for(asyncio.gather(*tasks), WAIT_S) == ["[Page 1 of 1]\nx"] * 2


async def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    hidden = START.replace("sys.path.pop(0);", "sys.path.pop(0); sys.modules['pypdfium2'] = None;")
    with pytest.raises(InvalidRequest, match=r"pip install 'antiphon\[documents\]'"):
        await outcome(hidden)


# -- web pages


async def page(data: bytes, **bounds: Any) -> tuple[str, str]:
    async with asyncio.timeout(WAIT_S):
        return await DocumentReader(Documents(**bounds)).page(data, is_html=True)


async def test_a_page_is_read_without_what_stands_around_its_content() -> None:
    title, text = await page(article("Tea", *[f"Paragraph {number} tells of tea and cake." for number in range(20)]))

    assert title == "Tea"
    assert "Paragraph 19 tells of tea and cake." in text
    assert not any(word in text for word in ("Log in", "All rights reserved", "alert"))


@pytest.mark.parametrize("encoding", ["utf-8", "windows-1251", "koi8-r"])
async def test_a_page_is_read_in_the_encoding_that_it_names(encoding: str) -> None:
    data = f"<html><head><meta charset='{encoding}'></head><body><p>Привет, мир</p></body></html>".encode(encoding)

    assert (await page(data))[1] == "Привет, мир"


@pytest.mark.parametrize(
    "data",
    [b"", b"<html></html>", b"<" * 1_000_000, b"<div>" * 100_000 + b"x", b"<!DOCTYPE a [<!ENTITY b 'c'>]><p>&b;"],
    ids=["empty", "nothing", "brackets", "depth", "entities"],
)
async def test_a_page_that_is_none_comes_to_an_end(data: bytes) -> None:
    with contextlib.suppress(Unreadable):
        assert len((await page(data))[1]) < 10


async def test_a_page_is_held_to_the_bounds() -> None:
    long = article("Tea", *[f"Paragraph {number} tells of tea and cake." for number in range(100)])

    for bounds in ({"chars_max": 1_000}, {"bytes_max": 1_000}):
        with pytest.raises(Unreadable):
            await page(long, **bounds)
    assert (await DocumentReader(Documents()).page(b"plain", is_html=False)) == ("", "plain")
