"""Pictures, files and recordings of requests: what the model is told of them, what is kept of them, what is refused."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import openai
import pytest

from antiphon.config import ChatUpstream, Fetch, Limits, ResponsesUpstream, ScriptedModel, Settings, Storage
from tests import papers
from tests.chatserver import ChatServer, says, sdk
from tests.conftest import serve
from tests.rawserver import RawServer, Script, answers

PNG = b"\x89PNG\r\n\x1a\n and more"
GIF = b"GIF89a and more"
PDF = papers.pdf(["Tea at five", "Cake at six"])
TOLD = "[Page 1 of 2]\nTea at five\n\n[Page 2 of 2]\nCake at six"
DOCX = papers.word("Dear Ada")

SHOWS = answers(PNG, kind="image/png")


def base64(data: bytes) -> str:
    return b64encode(data).decode()


def url_of(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64(data)}"


class Party(NamedTuple):
    """The server under test, the upstream behind it, and what holds pictures and files elsewhere."""

    upstream: ChatServer
    elsewhere: RawServer
    client: openai.AsyncOpenAI
    url: str

    @property
    def there(self) -> str:
        return f"http://127.0.0.1:{self.elsewhere.port}/pictures/red%20one.png"

    @property
    def told(self) -> list[Any]:
        """The messages of the last request that the upstream got."""
        messages: list[Any] = self.upstream.bodies[-1]["messages"]
        return messages

    async def uploaded(self, data: bytes, name: str = "red.png") -> str:
        return (await self.client.files.create(file=(name, data), purpose="user_data")).id

    async def ask(self, *parts: Any, **more: Any) -> Any:
        asked = [{"role": "user", "content": [{"type": "input_text", "text": "Look."}, *parts]}]
        return await self.client.responses.create(**{"model": "upstream", "input": asked} | more)


@asynccontextmanager
async def parties(
    folder: Path,
    content: Script = SHOWS,
    limits: Limits = Limits(),  # noqa: B008 # frozen
    *,
    audio: bool = False,
) -> AsyncIterator[Party]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ChatServer({}))
        upstream.otherwise = says("ok")
        elsewhere = await stack.enter_async_context(RawServer(content))
        settings = Settings(
            models=(
                ChatUpstream(url=upstream.url, models=("upstream",), attempts_max=1, audio=audio),
                ChatUpstream(url=upstream.url, models=("blind",), attempts_max=1, images=False),
                ChatUpstream(url=upstream.url, models=("reader",), attempts_max=1, files=True),
            ),
            storage=Storage(database=str(folder / "t.db")),
            fetch=Fetch(allow=(f"127.0.0.1:{elsewhere.port}",)),
            limits=limits,
        )
        url = await stack.enter_async_context(serve(settings))
        client = await stack.enter_async_context(sdk(url))
        yield Party(upstream, elsewhere, client, url)


@pytest.fixture
async def party(tmp_path: Path) -> AsyncIterator[Party]:
    async with parties(tmp_path) as party:
        yield party


async def refusal(party: Party, *parts: Any, **more: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        await party.ask(*parts, **more)
    return caught.value


def image(url: str | None = None, **more: Any) -> Any:
    return {"type": "input_image"} | ({} if url is None else {"image_url": url}) | more


def file(**more: Any) -> Any:
    return {"type": "input_file"} | more


async def ways(party: Party, data: bytes, name: str, fields: Sequence[str]) -> dict[str, str]:
    """How a part may say where its content is."""
    found = {
        "image_url": party.there,
        "file_url": party.there,
        "file_id": await party.uploaded(data, name),
        "file_data": base64(data),
    }
    return {field: found[field] for field in fields}


# -- pictures


async def test_a_picture_is_shown_as_what_it_is_wherever_it_comes_from(party: Party) -> None:
    seen = {"type": "image_url", "image_url": {"url": url_of(PNG), "detail": "low"}}
    for where in ({"image_url": party.there}, {"file_id": await party.uploaded(PNG)}, {"image_url": url_of(PNG)}):
        await party.ask(image(detail="low", **where))
        assert party.told[-1]["content"] == [{"type": "text", "text": "Look."}, seen]


async def test_a_picture_is_fetched_for_a_stream_too(party: Party) -> None:
    events = [event async for event in await party.ask(image(party.there), stream=True)]

    assert events[-1].type == "response.completed"
    assert party.told[-1]["content"][1]["image_url"]["url"] == url_of(PNG)
    assert party.elsewhere.asked[0].path == "/pictures/red%20one.png"


async def test_the_type_of_a_picture_is_not_what_it_is_said_to_be_but_what_it_is(party: Party) -> None:
    await party.ask(image(url_of(GIF, "image/png")), image(file_id=await party.uploaded(GIF, "red.png")))

    assert [part["image_url"]["url"] for part in party.told[-1]["content"][1:]] == [url_of(GIF, "image/gif")] * 2


async def test_pictures_of_tool_outputs_and_screens_are_brought_too(party: Party) -> None:
    file_id = await party.uploaded(PNG)
    calls = [
        {"type": "function_call", "call_id": "f", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c", "name": "c", "input": ""},
        {"type": "computer_call", "call_id": "s", "actions": [{"type": "screenshot"}]},
    ]
    outputs = [
        {"type": "function_call_output", "call_id": "f", "output": [image(party.there)]},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [image(file_id=file_id)]},
        {"type": "computer_call_output", "call_id": "s", "output": {"type": "computer_screenshot", "file_id": file_id}},
    ]
    await party.ask(input=[*calls, *outputs])

    shown = [part for message in party.told for part in message["content"] or () if isinstance(part, dict)]
    assert [part["image_url"]["url"] for part in shown if part["type"] == "image_url"] == [url_of(PNG)] * 3


async def test_what_is_stored_is_what_the_client_sent(party: Party) -> None:
    file_id = await party.uploaded(PNG)
    response = await party.ask(image(party.there), image(file_id=file_id))
    [message] = (await party.client.responses.input_items.list(response.id)).data

    parts: list[Any] = message.to_dict()["content"]  # type: ignore[assignment] # as it came
    assert [(part.get("image_url"), part.get("file_id")) for part in parts[1:]] == [
        (party.there, None),
        (None, file_id),
    ]


HTML = answers(b"<p>no picture</p>", kind="text/html")
MISSING = answers(b"", status=404)


@pytest.mark.parametrize(
    ("where", "content", "code", "field"),
    [
        ({"image_url": "data:image/png;base64,%%%"}, MISSING, "invalid_base64_image", "image_url"),
        ({"image_url": "data:image/svg+xml,<svg/>"}, MISSING, "invalid_base64_image", "image_url"),
        ({"image_url": url_of(b"red")}, MISSING, "invalid_image_format", "image_url"),
        ({"image_url": url_of(b"")}, MISSING, "empty_image_file", "image_url"),
        ({"image_url": url_of(PNG + bytes(100))}, MISSING, "image_file_too_large", "image_url"),
        ({"image_url": "http://10.0.0.1/a.png"}, MISSING, "invalid_image_url", "image_url"),
        ({"image_url": "file:///etc/passwd"}, MISSING, "invalid_image_url", "image_url"),
        ({"image_url": ""}, MISSING, "invalid_image_url", "image_url"),
        ({"image_url": "there"}, MISSING, "failed_to_download_image", "image_url"),
        ({"image_url": "there"}, HTML, "unsupported_image_media_type", "image_url"),
        ({"image_url": "there"}, answers(b"red", kind="image/png"), "invalid_image_format", "image_url"),
        ({"image_url": "there"}, answers(PNG * 9, kind="image/png"), "image_file_too_large", "image_url"),
        ({"file_id": "file-none"}, MISSING, "image_file_not_found", "file_id"),
        ({"file_id": "a text"}, MISSING, "invalid_image_format", "file_id"),
        ({}, MISSING, "missing_required_parameter", "image_url"),
        ({"image_url": url_of(PNG), "file_id": "file-1"}, MISSING, "invalid_value", ""),
    ],
)
async def test_a_picture_that_cannot_be_shown_is_refused_by_its_place_in_the_references_codes(
    tmp_path: Path, where: dict[str, str], content: Script, code: str | None, field: str
) -> None:
    async with parties(tmp_path, content, Limits(image_bytes_max=100)) as party:
        if where.get("file_id") == "a text":
            where = {"file_id": await party.uploaded(b"words")}
        if where.get("image_url") == "there":
            where = {"image_url": party.there}
        error = await refusal(party, image(**where))

    assert (error.code, error.param) == (code, f"input[0].content[1]{field and '.'}{field}")
    assert party.upstream.bodies == []


async def test_what_one_request_brings_is_bounded_as_a_whole(tmp_path: Path) -> None:
    async with parties(tmp_path, limits=Limits(input_bytes_max=60)) as party:
        await party.ask(*[image(party.there)] * 3)
        error = await refusal(party, *[image(party.there)] * 4)

    assert "too large together (limits.input_bytes_max)" in error.message


# -- who can be told


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ([{"role": "user", "content": [image(url_of(PNG))]}], "input[0].content[0]"),
        (
            [
                {"type": "function_call", "call_id": "f", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "f", "output": [image(file_id="file-1")]},
            ],
            "input[1].output[0]",
        ),
    ],
)
async def test_a_model_that_cannot_see_refuses_a_picture_by_its_place(party: Party, item: Any, param: str) -> None:
    error = await refusal(party, model="blind", input=item)

    assert error.param == param
    assert "the model 'blind' cannot see images" in error.message


async def test_a_model_that_cannot_see_refuses_a_conversation_with_pictures(party: Party) -> None:
    response = await party.ask(image(url_of(PNG)))
    error = await refusal(party, model="blind", previous_response_id=response.id)

    assert error.param == "previous_response_id"
    assert "cannot see images" in error.message


async def test_the_embedded_model_reads_a_file_and_sees_no_picture(tmp_path: Path) -> None:
    async with serve(Settings(storage=Storage(database=str(tmp_path / "t.db")))) as url, sdk(url) as client:
        party = Party(ChatServer({}), RawServer(says("")), client, url)
        words = file(filename="a.txt", file_data=base64(b"word " * 300))
        read = await party.ask(words, model="antiphon-tiny", max_output_tokens=16)
        error = await refusal(party, image(url_of(PNG)), model="antiphon-tiny")

    assert read.usage.input_tokens > 300
    assert read.output_text
    assert error.param == "input[0].content[1]"
    assert "cannot see images" in error.message


async def test_a_recording_is_passed_on_to_a_model_that_hears(tmp_path: Path) -> None:
    recording = {"type": "input_audio", "input_audio": {"data": base64(b"la la"), "format": "wav"}}
    async with parties(tmp_path, audio=True) as party:
        await party.ask(recording)
        broken = await refusal(party, {"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}})
        deaf = await refusal(party, recording, model="blind")

    assert party.told[-1]["content"][1] == recording
    assert broken.param == "input[0].content[1].input_audio.data"
    assert deaf.param == "input[0].content[1]"
    assert "cannot hear audio" in deaf.message


# -- files


@pytest.mark.parametrize("field", ["file_data", "file_url", "file_id"])
@pytest.mark.parametrize(
    ("name", "data", "text"), [("menu.pdf", PDF, TOLD), ("a.docx", DOCX, "Dear Ada")], ids=["pdf", "docx"]
)
async def test_a_document_is_told_as_its_text_under_its_name(
    tmp_path: Path, field: str, name: str, data: bytes, text: str
) -> None:
    async with parties(tmp_path, answers(data, kind="application/octet-stream")) as party:
        where = await ways(party, data, name, [field])
        await party.ask(file(filename=name, **where))

    assert party.told[-1]["content"] == f"Look.\nFile: {name}\n```\n{text}\n```"


async def test_a_file_is_named_by_where_it_comes_from(tmp_path: Path) -> None:
    async with parties(tmp_path, answers(b"red, says he", kind="text/plain")) as party:
        there = party.there.replace(".png", ".txt")
        await party.ask(file(file_url=there), file(file_id=await party.uploaded(b"blue", "blue.md")))

    assert party.told[-1]["content"].split("\n")[1::4] == ["File: red one.txt", "File: blue.md"]


async def test_no_text_of_a_file_ends_its_fence(party: Party) -> None:
    await party.ask(file(filename="a\n`b`.md", file_data=url_of(b"```\ncode\n````\n", "text/markdown")))

    assert party.told[-1]["content"] == "Look.\nFile: a 'b'.md\n`````\n```\ncode\n````\n`````"


async def test_a_document_is_passed_on_to_a_model_that_takes_files(party: Party) -> None:
    await party.ask(file(filename="menu.pdf", file_data=base64(PDF)), model="reader")

    seen = {"filename": "menu.pdf", "file_data": url_of(PDF, "application/pdf")}
    assert party.told[-1]["content"][1] == {"type": "file", "file": seen}


async def test_a_document_is_passed_on_to_a_responses_upstream_that_takes_files(tmp_path: Path) -> None:
    async with RawServer(answers(b"{}", status=400)) as upstream:
        model = ResponsesUpstream(url=upstream.url, models=("upstream",), attempts_max=1, files=True)
        settings = Settings(models=(model,), storage=Storage(database=":memory:"))
        async with serve(settings) as url, sdk(url) as client:
            party = Party(ChatServer({}), RawServer(says("")), client, url)
            await refusal(party, file(filename="menu.pdf", file_data=base64(PDF), detail="low"))

    sent = json.loads(upstream.asked[-1].body)["input"][0]["content"][1]
    assert sent == {
        "type": "input_file",
        "filename": "menu.pdf",
        "file_data": url_of(PDF, "application/pdf"),
        "detail": "low",
    }


async def test_a_file_of_a_tool_output_follows_the_outputs_of_its_turn(party: Party) -> None:
    call = {"type": "function_call", "call_id": "f", "name": "f", "arguments": "{}"}
    output = [file(filename="menu.pdf", file_data=base64(PDF)), image(url_of(PNG))]
    items = [call, {"type": "function_call_output", "call_id": "f", "output": output}]
    await party.ask(input=items)
    text = party.told[1]["content"]
    await party.ask(model="reader", input=items)

    assert text == f"File: menu.pdf\n```\n{TOLD}\n```"
    assert party.told[1]["content"] == "See the file and the image below."
    assert [part["type"] for part in party.told[2]["content"]] == ["text", "file", "image_url"]
    assert party.told[2]["content"][0]["text"] == "Files and images from the call f of f:"


@pytest.mark.parametrize(
    ("where", "code", "field"),
    [
        ({"file_data": "?"}, "invalid_value", "file_data"),
        ({"file_data": "data:application/pdf,plain"}, "invalid_value", "file_data"),
        ({"file_data": base64(PDF), "filename": "a.docx"}, "invalid_file", "file_data"),
        ({"file_data": base64(papers.pdf(["x"], encrypted=True))}, "invalid_file", "file_data"),
        ({"file_data": base64(PNG + b"\0")}, "unsupported_file", "file_data"),
        ({"file_id": "file-none"}, "file_not_found", "file_id"),
        ({"file_url": "http://10.0.0.1/a.pdf"}, "invalid_value", "file_url"),
        ({}, "missing_required_parameter", "file_data"),
        ({"file_id": "a", "file_url": "b"}, "invalid_value", ""),
    ],
)
async def test_a_file_that_cannot_be_told_is_refused_by_its_place(
    party: Party, where: dict[str, str], code: str | None, field: str
) -> None:
    error = await refusal(party, file(**where))

    assert (error.code, error.param) == (code, f"input[0].content[1]{field and '.'}{field}")


# -- later turns


async def test_a_next_turn_fetches_nothing_again_and_the_same_input_does(party: Party) -> None:
    first = await party.ask(image(party.there))
    await party.ask(previous_response_id=first.id)
    fetched = len(party.elsewhere.asked)
    await party.ask(image(party.there))

    assert (fetched, len(party.elsewhere.asked)) == (1, 2)
    assert len(party.told) == 1


async def test_a_conversation_goes_on_after_a_restart_though_its_sources_are_gone(tmp_path: Path) -> None:
    async with parties(tmp_path) as party:
        file_id = await party.uploaded(PDF, "menu.pdf")
        first = await party.ask(image(party.there), file(file_id=file_id))
        told = party.told[0]["content"]
        await party.client.files.delete(file_id)
    async with parties(tmp_path, MISSING) as party:
        await party.ask(previous_response_id=first.id)

        assert party.told[0]["content"] == told
        assert party.elsewhere.asked == []


@pytest.mark.parametrize("source", ["address", "file"])
async def test_a_conversation_whose_source_is_gone_and_not_kept_is_refused_by_its_name(
    tmp_path: Path, source: str
) -> None:
    async with parties(tmp_path, limits=Limits(copies_max=1)) as party:
        file_id = await party.uploaded(PNG)
        first = await party.ask(image(party.there) if source == "address" else image(file_id=file_id))
        await party.ask(image(party.there + "?2"))  # whose copy takes the only place
        await party.client.files.delete(file_id)
        there = party.there
    async with parties(tmp_path, MISSING) as party:
        error = await refusal(party, previous_response_id=first.id)

    assert error.param == "previous_response_id"
    assert (there if source == "address" else file_id) in error.message
    assert "can no longer be had" in error.message


async def test_a_file_is_told_anew_to_a_model_that_takes_it_otherwise(party: Party) -> None:
    first = await party.ask(file(filename="menu.pdf", file_data=base64(PDF)))
    second = await party.ask(model="reader", previous_response_id=first.id)
    passed = party.told[0]["content"][1]
    await party.ask(previous_response_id=second.id)

    assert passed["type"] == "file"
    assert TOLD in party.told[0]["content"]


async def test_nothing_is_kept_of_what_is_not_stored_or_was_never_elsewhere(tmp_path: Path) -> None:
    async with parties(tmp_path) as party:
        await party.ask(image(party.there), file(filename="a.pdf", file_data=base64(PDF)), store=False)
        kept = [path for path in (tmp_path / "t.db.files").rglob("*") if path.is_file()]
        await party.ask(image(party.there), file(filename="a.pdf", file_data=base64(PDF)))
        more = [path for path in (tmp_path / "t.db.files").rglob("*") if path.is_file()]

        await party.ask(file(filename="a.txt", file_data=base64(b"words that the item itself holds")))
        most = [path for path in (tmp_path / "t.db.files").rglob("*") if path.is_file()]

    assert (len(kept), len(more), len(most)) == (0, 2, 2)


async def test_a_conversation_holds_pictures_and_files_as_they_were_sent_and_tells_them(tmp_path: Path) -> None:
    async with parties(tmp_path) as party:
        seen = image(party.there)
        items: Any = [{"type": "message", "role": "user", "content": [seen, file(file_data=base64(b"hello"))]}]
        conversation = await party.client.conversations.create(items=items)
        await party.ask(conversation=conversation.id)
        told = party.told[0]["content"]
        blind = await refusal(party, model="blind", conversation=conversation.id)
        listed = [item async for item in party.client.conversations.items.list(conversation.id, order="asc")]
    async with parties(tmp_path, MISSING) as party:
        await party.ask(conversation=conversation.id)

        assert party.told[0]["content"] == told
    assert [part["type"] for part in told] == ["image_url", "text"]
    assert blind.param == "conversation"
    stored: Any = listed[0].to_dict()["content"]
    assert stored[0]["image_url"] == seen["image_url"]


# -- Open Responses


async def test_open_responses_takes_files_and_shows_a_picture_of_a_file_without_an_address(tmp_path: Path) -> None:
    settings = Settings(models=(ScriptedModel(),), storage=Storage(database=str(tmp_path / "t.db")))
    async with serve(settings) as url, sdk(url) as client, sdk(url.replace("/v1", "/openresponses/v1")) as open_client:
        uploaded = await client.files.create(file=("a.png", PNG), purpose="vision")
        content = [image(file_id=uploaded.id), file(filename="a.txt", file_data=base64(b"hello"))]
        text = {"type": "input_text", "text": "tell items.0.content.1.text"}
        item: Any = {"type": "message", "role": "user", "content": [*content, text]}
        response = await client.responses.create(model="scripted", input=[item])
        raw = await open_client.responses.input_items.with_raw_response.list(response.id)
        item["content"] = [content[1], text]
        told = await open_client.responses.create(model="scripted", input=[item])

    shown = msgspec.json.decode(raw.content)["data"][0]["content"][0]
    assert (shown["image_url"], shown["file_id"]) == (None, uploaded.id)
    assert told.status == "completed"
