"""What is sent to /v1/files and /v1/uploads in wrong or odd forms: refused by name, or made harmless; nothing stays."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
import openai
import pytest
import pytest_asyncio

from antiphon.api.files import disposition
from antiphon.config import Settings
from antiphon.engine.files import safe_filename
from antiphon.errors import InvalidValue
from tests.conftest import serve
from tests.rawclient import Exchange, ask, scripted_in
from tests.test_api_files import BOUNDARY, FILE, FORM, PURPOSE, bytes_of, form, kept, part, send, upload

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Serving(NamedTuple):
    url: str
    settings: Settings
    client: openai.AsyncOpenAI


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    """One server for all: nothing that is refused may leave anything behind."""
    settings = scripted_in(tmp_path_factory.mktemp("forms"))
    async with serve(settings) as url, openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield Serving(url, settings, client)


@pytest.fixture
def url(serving: Serving) -> str:
    return serving.url


@pytest.fixture
def client(serving: Serving) -> openai.AsyncOpenAI:
    return serving.client


@pytest_asyncio.fixture(loop_scope="module")
async def unchanged(serving: Serving) -> AsyncIterator[None]:
    """What is stored before the test is what is stored after it."""
    before, listed = kept(serving.settings), (await ask(serving.url, "GET", "/v1/files")).value
    yield
    assert kept(serving.settings) == before
    assert (await ask(serving.url, "GET", "/v1/files")).value == listed


# -- names


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\\\temp\\\\x.doc", "x.doc"),
        ("..\\\\x", "x"),
        ("été 日本 🎉.pdf", "été 日本 🎉.pdf"),
        ("a;b=c.txt", "a;b=c.txt"),
        ('quoted \\"name\\".txt', 'quoted "name".txt'),
        ("%2e%2e%2fx%00", "%2e%2e%2fx%00"),
        ("a" * 255, "a" * 255),
    ],
)
async def test_a_name_loses_its_path_and_comes_back_safely(url: str, serving: Serving, sent: str, stored: str) -> None:
    answer = await send(url, form(PURPOSE, part("file", b"x", sent)))

    assert answer.value["filename"] == stored
    assert answer.value["id"] in kept(serving.settings)
    content = await ask(url, "GET", f"/v1/files/{answer.value['id']}/content")
    assert (content.status, content.body) == (200, b"x")
    said = content.headers["content-disposition"]
    assert said == disposition(stored).decode()
    assert said.startswith("attachment; ")
    assert said.isascii()
    assert said.count('"') == 2
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["x-content-type-options"] == "nosniff"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/", "a/..", "nul\0", "cr\rlf", "tab\t", "\x7f", "next\x85", "line\u2028", "a" * 256]
)
async def test_what_cannot_be_a_name_is_refused(url: str, name: str) -> None:
    with pytest.raises(InvalidValue):
        safe_filename(name, "file")
    answer = await send(url, form(PURPOSE, part("file", b"x", name)))
    assert answer.status == 400
    upload = {"bytes": 1, "filename": name, "mime_type": "text/plain", "purpose": "batch"}
    assert (await ask(url, "POST", "/v1/uploads", upload)).refusal[::2] == (400, "filename")


@pytest.mark.usefixtures("unchanged")
async def test_a_line_end_in_a_name_begins_no_header(url: str) -> None:
    answer = await send(url, form(PURPOSE, part("file", b"x", "a\r\nContent-Disposition: form-data; name=purpose")))

    assert answer.status == 400


@pytest.mark.usefixtures("unchanged")
async def test_a_name_that_is_no_utf_8_is_refused(url: str) -> None:
    body = form(PURPOSE, FILE).replace(b"a.txt", b"\xff.txt")

    assert (await send(url, body)).refusal == (400, "invalid_value", "file")


# -- forms


async def test_fields_may_stand_behind_the_file(url: str) -> None:
    expiry = (part("expires_after[seconds]", b"3600"), part("expires_after[anchor]", b"created_at"))
    answer = await send(url, form(expiry[0], FILE, expiry[1], PURPOSE))

    assert answer.value["purpose"] == "user_data"
    assert answer.value["expires_at"] == answer.value["created_at"] + 3600


async def test_an_expiry_may_be_sent_as_json(url: str) -> None:
    expiry = part("expires_after", b'{"anchor": "created_at", "seconds": 3600}')
    answer = await send(url, form(PURPOSE, expiry, FILE))

    assert answer.value["expires_at"] == answer.value["created_at"] + 3600
    for wrong in (b"3600", b"{", b"null and void", b"[" * 4000):
        assert (await send(url, form(PURPOSE, part("expires_after", wrong), FILE))).refusal[2] == "expires_after"


async def test_a_content_that_looks_like_a_boundary_is_content(client: openai.AsyncOpenAI, url: str) -> None:
    tricky = f"\r\n--{BOUNDARY}x\r\n--{BOUNDARY[:-1]}\r\n\r--{BOUNDARY}--\n\r\n--".encode() * 10_000
    file_id = (await send(url, form(PURPOSE, part("file", tricky, "a")))).value["id"]

    assert await bytes_of(client, file_id) == tricky


async def test_a_form_may_come_byte_by_byte(url: str, client: openai.AsyncOpenAI) -> None:
    body = form(FILE, PURPOSE)
    async with await Exchange.open(url) as one:
        one.send("POST", "/v1/files", b"", {**FORM, "content-length": str(len(body))})
        for byte in body:
            one.writer.write(bytes([byte]))
            await one.writer.drain()
            await asyncio.sleep(0)
        answer = await one.answer()

    assert await bytes_of(client, answer.value["id"]) == b"hello"


async def test_a_form_may_come_in_chunks_of_no_foretold_length(url: str, client: openai.AsyncOpenAI) -> None:
    body = form(FILE, PURPOSE)
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:50], body[50:])) + b"0\r\n\r\n"
    answer = await send(url, chunked, {**FORM, "content-length": None, "transfer-encoding": "chunked"})

    assert await bytes_of(client, answer.value["id"]) == b"hello"


LONG_FIELD = part("purpose", b"x" * 5000)
BROKEN: dict[str, tuple[bytes, tuple[int, str | None, str | None]]] = {
    "nothing": (b"", (400, None, None)),
    "no form": (b"hello", (400, None, None)),
    "no file": (form(PURPOSE), (400, "missing_required_parameter", "file")),
    "no purpose": (form(FILE), (400, "missing_required_parameter", "purpose")),
    "nothing in it": (form(), (400, "missing_required_parameter", "file")),
    "two files": (form(PURPOSE, FILE, FILE), (400, "invalid_value", "file")),
    "another file": (form(PURPOSE, FILE, part("more", b"x", "b")), (400, "invalid_type", "more")),
    "a purpose that is a file": (form(part("purpose", b"batch", "p"), FILE), (400, "invalid_type", "purpose")),
    "a file that is none": (form(PURPOSE, part("file", b"x")), (400, "invalid_type", "file")),
    "two purposes": (form(PURPOSE, PURPOSE, FILE), (400, "invalid_value", "purpose")),
    "unknown purpose": (form(part("purpose", b"fun"), FILE), (400, "invalid_value", "purpose")),
    "unknown purpose, at the end": (form(FILE, part("purpose", b"fun")), (400, "invalid_value", "purpose")),
    "nearly a purpose": (form(FILE, PURPOSE, part("purposes", b"x")), (400, "unknown_parameter", "purposes")),
    "a purpose that is no text": (form(part("purpose", b"\xff"), FILE), (400, "invalid_value", "purpose")),
    "a long field": (form(LONG_FIELD, FILE), (400, "invalid_value", "purpose")),
    "no last boundary": (PURPOSE + FILE, (400, None, None)),
    "cut in the file": (form(PURPOSE, FILE)[:-20], (400, None, None)),
    "no name": (form(PURPOSE, FILE).replace(b'name="file"; ', b""), (400, None, None)),
    "no disposition": (form(PURPOSE, FILE).replace(b"Content-Disposition", b"Content-Other"), (400, None, None)),
    "another disposition": (form(PURPOSE, FILE).replace(b"form-data", b"attachment"), (400, None, None)),
    "an encoding": (form(PURPOSE, part("file", b"x", "a", "Content-Transfer-Encoding: base64")), (400, None, None)),
    "many headers": (form(PURPOSE, part("file", b"x", "a", *["X: y"] * 50)), (400, None, None)),
    "a long header": (form(PURPOSE, part("file", b"x", "a", "X: " + "y" * 9000)), (400, None, None)),
    "many fields": (form(*(part(f"f{n}", b"") for n in range(50)), FILE), (400, None, None)),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_form_is_refused_and_leaves_nothing(url: str, what: str) -> None:
    body, refusal = BROKEN[what]

    assert (await send(url, body)).refusal == refusal


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 415),
        ("application/octet-stream", 415),
        ("", 415),
        ("multipart/mixed; boundary=xyz", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        (f"multipart/form-data; boundary={'x' * 71}", 400),
        ("multipart/form-data; boundary=other", 400),
    ],
)
async def test_what_says_it_is_no_form_is_refused(url: str, kind: str, status: int) -> None:
    assert (await send(url, form(PURPOSE, FILE), {"content-type": kind})).refusal[0] == status


# -- what is asked for


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("expiry", "param"),
    [
        ({"anchor": "created_at", "seconds": 3599}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": 2_592_001}, "expires_after.seconds"),
        ({"anchor": "created_at", "seconds": "soon"}, "expires_after.seconds"),
        ({"anchor": "created_at"}, "expires_after.seconds"),
        ({"anchor": "last_active_at", "seconds": 3600}, "expires_after.anchor"),
        ({"seconds": 3600}, "expires_after.anchor"),
    ],
)
async def test_a_wrong_expiry_is_refused_by_name(client: openai.AsyncOpenAI, expiry: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.files.create(file=b"x", purpose="batch", expires_after=expiry)

    assert raised.value.param == param


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("order=", "order"),
        ("order=up", "order"),
        ("purpose=x", "purpose"),
    ],
)
async def test_a_wrong_query_is_refused_by_name(url: str, query: str, param: str) -> None:
    assert (await ask(url, "GET", f"/v1/files?{query}")).refusal[::2] == (400, param)


async def test_a_cursor_that_is_not_there_is_not_found(url: str) -> None:
    assert (await ask(url, "GET", "/v1/files?after=file-none")).refusal == (404, None, "after")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"part_ids": ["part_none", "{part}"]}, "part_ids[0]"),
        ({"part_ids": ["{part}", "{part}"]}, "part_ids"),
        ({"part_ids": []}, "part_ids"),
        ({"part_ids": "x"}, "part_ids"),
        ({}, "part_ids"),
        ({"part_ids": ["{part}"], "md5": "0" * 32}, "md5"),
        ({"part_ids": ["{part}"], "md5": "0" * 31}, "md5"),
        ({"part_ids": ["{part}"], "md5": 5}, "md5"),
    ],
)
async def test_a_completion_that_is_wrong_is_refused_and_may_be_mended(
    client: openai.AsyncOpenAI, url: str, asked: Any, param: str
) -> None:
    begun = await upload(client, 5)
    part = await client.uploads.parts.create(begun.id, data=b"hello")
    body = msgspec.json.encode(asked).decode().replace("{part}", part.id)

    assert (await ask(url, "POST", f"/v1/uploads/{begun.id}/complete", body)).refusal[::2] == (400, param)

    done = await client.uploads.complete(begun.id, part_ids=[part.id])
    assert done.status == "completed"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"bytes": -1}, "bytes"),
        ({"bytes": "5"}, "bytes"),
        ({"bytes": 2**40}, "bytes"),
        ({"filename": 5}, "filename"),
        ({"filename": ""}, "filename"),
        ({"mime_type": ""}, "mime_type"),
        ({"purpose": "fun"}, "purpose"),
        ({"purpose": None}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"filenames": "a"}, "filenames"),
    ],
)
async def test_an_upload_that_is_wrong_is_refused_by_name(url: str, change: Any, param: str) -> None:
    right = {"bytes": 5, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"}

    assert (await ask(url, "POST", "/v1/uploads", right | change)).refusal[::2] == (400, param)
