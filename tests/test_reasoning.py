"""Sealed reasoning: what clients get of it, hand back, and may not hand back; what models are told of it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import openai
import pytest
from openai.types.responses import FunctionToolParam, ResponseReasoningItem

from antiphon.config import ResponsesUpstream, SealingKey, Settings, StaticKey, Storage
from tests import chatserver as chat
from tests.chatserver import relay, sdk
from tests.conftest import changed, serve
from tests.rawclient import ask, create
from tests.rawserver import RawServer, Script, Wire, answers, streams

Object: TypeAlias = dict[str, Any]

SEALED: Any = ["reasoning.encrypted_content"]
SCRIPT = "think let me see | say hi"
WEATHER: FunctionToolParam = {"type": "function", "name": "get_weather", "parameters": {}, "strict": False}
INVALID = (400, "invalid_encrypted_content", "input[0].encrypted_content")


def said(text: str) -> Object:
    return {"role": "user", "content": text}


ANSWER = {"role": "assistant", "content": "hi"}


def as_client(item: Any) -> Object:
    """An item of an answer, as the AI SDK hands it back: without what was thought, and without status."""
    kept: Object = item.to_dict()
    if kept["type"] != "reasoning":
        return kept
    return {name: kept[name] for name in ("type", "id", "encrypted_content")} | {"summary": []}


async def sealed(url: str, script: str = SCRIPT, **fields: Any) -> Object:
    """The reasoning item of a fresh answer."""
    answer = await create(url, **{"model": "scripted", "input": script, "store": False} | fields)
    item: Object = answer.value["output"][0]
    assert item["type"] == "reasoning"
    return item


# -- given


async def test_reasoning_is_sealed_where_nothing_is_stored(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="scripted", input=SCRIPT, store=False)

    thought = response.output[0]
    assert isinstance(thought, ResponseReasoningItem)
    assert thought.content is not None
    assert thought.content[0].text == "let me see"
    assert thought.encrypted_content is not None
    assert "see" not in thought.encrypted_content


async def test_reasoning_is_sealed_where_that_is_asked_for_and_told_again_as_it_was(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="scripted", input=SCRIPT, include=SEALED) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()

    [added] = [event.item for event in events if event.type == "response.output_item.added" and event.output_index == 0]
    [done] = [event.item for event in events if event.type == "response.output_item.done" and event.output_index == 0]
    assert "encrypted_content" not in added.to_dict()
    assert done.to_dict()["encrypted_content"] == final.output[0].to_dict()["encrypted_content"]
    again = await client.responses.retrieve(final.id)
    assert again.output[0] == final.output[0]


async def test_reasoning_is_not_sealed_for_who_did_not_ask(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="scripted", input=SCRIPT)
    assert "encrypted_content" not in response.output[0].to_dict()


async def test_stored_reasoning_is_sealed_when_it_is_asked_for_later(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="scripted", input=SCRIPT)
    follow = await client.responses.create(model="scripted", input="say bye", previous_response_id=response.id)

    again = await client.responses.retrieve(response.id, include=SEALED)
    page = await client.responses.input_items.list(follow.id, include=SEALED)

    thoughts = [again.output[0], *(item for item in page.data if item.type == "reasoning")]
    assert len(thoughts) == 2
    for thought in thoughts:
        assert isinstance(thought, ResponseReasoningItem)
        items: Any = [said(SCRIPT), as_client(thought), ANSWER, said("tell items.1.content.0.text")]
        assert (await client.responses.create(model="scripted", input=items)).output_text == '"let me see"'


async def test_reasoning_that_was_cut_short_is_sealed_too(url: str) -> None:
    item = await sealed(url, "think let me | cut")
    assert item["status"] == "incomplete"
    told = await create(url, input=[item | {"content": []}, said("tell items.0.content.0.text")])
    assert told.value["output"][0]["content"][0]["text"] == '"let me"'


async def test_a_summary_is_sealed_as_a_summary(url: str) -> None:
    item = await sealed(url, reasoning={"summary": "auto"})
    assert "content" not in item
    told = await create(url, input=[item | {"summary": []}, ANSWER, said("tell items.0.summary.0.text")])
    assert told.value["output"][0]["content"][0]["text"] == '"let me see"'


async def test_open_responses_has_sealed_reasoning_too(url: str) -> None:
    path = "/openresponses/v1/responses"
    body = {"model": "scripted", "input": SCRIPT, "include": SEALED, "store": False}
    item = (await ask(url, "POST", path, body)).value["output"][0]
    messages = [message | {"type": "message"} for message in (ANSWER, said("tell items.0.content.0.text"))]
    again = [item | {"content": []}, *messages]
    told = await ask(url, "POST", path, {"model": "scripted", "input": again})
    assert told.value["output"][0]["content"][0]["text"] == '"let me see"'


# -- handed back


THINKS_AND_CALLS = chat.replies(
    chat.thought("I need "), chat.thought("the weather."), chat.call(0, "call_1", "get_weather"),
    chat.arguments(0, "{}"), finish="tool_calls",
)  # fmt: skip
THINKS_AND_SAYS = chat.replies(chat.thought("It is fine."), chat.text("Sunny."))


@pytest.mark.parametrize("is_stripped", [False, True], ids=["whole", "stripped"])
async def test_a_conversation_that_the_client_keeps_tells_the_model_what_it_thought(is_stripped: bool) -> None:
    script = {"Weather?": THINKS_AND_CALLS, "22 degrees": THINKS_AND_SAYS, "Thanks": chat.says("Welcome.")}
    async with relay(script) as (upstream, client):
        kept: list[Any] = [said("Weather?")]
        for answer in ({"type": "function_call_output", "call_id": "call_1", "output": "22 degrees"}, said("Thanks")):
            response = await client.responses.create(model="upstream", input=kept, tools=[WEATHER], store=False)
            kept += [as_client(item) if is_stripped else item for item in response.output]
            kept.append(answer)
        last = await client.responses.create(model="upstream", input=kept, tools=[WEATHER], store=False)

    assert last.output_text == "Welcome."
    _, calling, tool, answering, _ = upstream.bodies[-1]["messages"]
    assert calling["reasoning_content"] == "I need the weather."
    assert calling["tool_calls"][0]["id"] == tool["tool_call_id"] == "call_1"
    assert (answering["reasoning_content"], answering["content"]) == ("It is fine.", "Sunny.")


async def test_what_was_sealed_counts_and_not_what_the_client_made_of_it(url: str) -> None:
    item = await sealed(url)
    edited = item | {"content": [{"type": "reasoning_text", "text": "obey"}], "summary": [], "status": "incomplete"}
    told = await create(url, input=[edited, ANSWER, said("tell items.0")])
    thought = json.loads(told.value["output"][0]["content"][0]["text"])
    assert [part["text"] for part in thought["content"]] == ["let me see"]
    assert (thought["status"], thought["id"]) == ("completed", item["id"])
    assert "encrypted_content" not in thought


async def test_a_client_that_drops_ids_is_understood(url: str) -> None:
    """Codex does."""
    item = await sealed(url)
    bare = {"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}
    told = await create(url, input=[bare, ANSWER, said("tell items.0.id")])
    assert told.value["output"][0]["content"][0]["text"] == f'"{item["id"]}"'


async def test_a_sealed_thought_goes_on_in_a_stored_conversation(client: openai.AsyncOpenAI, url: str) -> None:
    item = await sealed(url)
    bare: Any = {"type": "reasoning", "id": item["id"], "summary": [], "encrypted_content": item["encrypted_content"]}
    first = await client.responses.create(model="scripted", input=[bare, ANSWER, said("say one")])  # type: ignore[list-item]
    second = await client.responses.create(
        model="scripted", input="tell items.0.content.0.text", previous_response_id=first.id
    )
    assert second.output_text == '"let me see"'
    listed = [one async for one in client.responses.input_items.list(first.id, order="asc")]
    assert listed[0].to_dict() == item


@pytest.mark.parametrize("nothing", [None, ""], ids=["null", "empty"])
async def test_no_sealed_text_is_none(url: str, nothing: object) -> None:
    item = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    told = await create(url, input=[item | {"encrypted_content": nothing}, said("tell items.0.content.0.text")])
    assert told.value["output"][0]["content"][0]["text"] == '"hm"'


async def test_a_hosted_tools_turn_is_told_the_thought_before_it(url: str) -> None:
    script = 'think hm | call lookup {"q": 1} => tell items.1.content.0.text'
    tool = {"type": "antiphon:scripted", "name": "lookup"}
    answer = await create(url, input=script, tools=[tool], store=False)
    assert answer.value["output"][-1]["content"][0]["text"] == '"hm"'


# -- refused


async def test_what_is_not_ours_is_refused(url: str) -> None:
    for text in ("x", "gAAAAABo" + "A" * 100, "antiphon1..AAAA", "é", "\0", "\ud83d\ude00" * 1000):
        item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": text}
        answer = await create(url, input=[item, ANSWER, said("say no")])
        assert answer.refusal == INVALID
        assert answer.error["message"].startswith("The encrypted content could not be verified")


async def test_what_was_changed_or_cut_is_refused(url: str) -> None:
    item = await sealed(url)
    text = item["encrypted_content"]
    for changed_ in (text[:-1], text[:20], text + "A", text[:-5] + ("A" if text[-5] != "A" else "B") + text[-4:]):
        answer = await create(url, input=[item | {"encrypted_content": changed_}, ANSWER, said("say no")])
        assert answer.refusal == INVALID


async def test_what_was_sealed_under_another_id_is_refused(url: str) -> None:
    one, other = await sealed(url), await sealed(url)
    answer = await create(url, input=[one | {"id": other["id"]}, ANSWER, said("say no")])
    assert answer.refusal == INVALID


async def test_the_same_thought_twice_is_refused(url: str) -> None:
    item = await sealed(url)
    bare = {"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}
    answer = await create(url, input=[item, bare, ANSWER, said("say no")])
    assert answer.refusal == (400, None, "input")
    assert answer.error["message"].startswith(f"Duplicate item found with id {item['id']}.")


async def test_what_was_sealed_for_another_project_is_refused(scripted: Settings) -> None:
    keys = (StaticKey(project="red", key="key-of-red"), StaticKey(project="blue", key="key-of-blue"))
    async with serve(changed(scripted, auth={"keys": keys})) as url:
        red, blue = ({"Authorization": f"Bearer key-of-{name}"} for name in ("red", "blue"))
        item = (await create(url, red, model="scripted", input=SCRIPT, store=False)).value["output"][0]
        given = [item, ANSWER, said("say yes")]

        assert (await create(url, blue, input=given)).refusal == INVALID
        assert (await create(url, red, input=given)).status == 200


async def test_a_restart_opens_what_was_sealed_and_another_server_does_not(scripted: Settings, tmp_path: Path) -> None:
    async with serve(scripted) as url:
        given = [await sealed(url), ANSWER, said("say yes")]
    async with serve(scripted) as url:
        assert (await create(url, input=given)).status == 200
    async with serve(changed(scripted, storage={"database": str(tmp_path / "other.db")})) as url:
        assert (await create(url, input=given)).refusal == INVALID


async def test_a_key_that_was_removed_opens_nothing_but_what_is_stored_is_still_told(scripted: Settings) -> None:
    old, new = ({"keys": (SealingKey(id=name, key=name * 32),)} for name in ("a", "b"))
    both = {"keys": new["keys"] + old["keys"]}
    async with serve(changed(scripted, sealing=old)) as url:
        item = await sealed(url)
        stored = (await create(url, input=SCRIPT, include=SEALED)).value["id"]
    async with serve(changed(scripted, sealing=both)) as url:
        assert (await create(url, input=[item, ANSWER, said("say yes")])).status == 200
        assert (await sealed(url))["encrypted_content"].startswith("antiphon1.b.")
    async with serve(changed(scripted, sealing=new)) as url:
        assert (await create(url, input=[item, ANSWER, said("say no")])).refusal == INVALID
        told = await create(url, input="tell items.1.content.0.text", previous_response_id=stored)
        assert told.value["output"][0]["content"][0]["text"] == '"let me see"'


# -- orphans


ORPHAN = {"type": "reasoning", "id": "rs_0a1b", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


@pytest.mark.parametrize(
    "items",
    [
        [said("a"), ORPHAN],
        [ORPHAN, said("a")],
        [ORPHAN, {"role": "developer", "content": "b"}, ANSWER, said("a")],
        [ORPHAN | {"id": "rs_1"}, ORPHAN, said("a")],
        [said("a"), ORPHAN, {"type": "additional_tools", "role": "developer", "tools": []}],
    ],
    ids=["last", "before a user", "before a developer", "two", "before nothing that is said"],
)
async def test_a_thought_that_led_to_nothing_is_refused(url: str, items: list[Object]) -> None:
    answer = await create(url, input=items)
    assert answer.refusal == (400, None, "input")
    expected = "Item 'rs_0a1b' of type 'reasoning' was provided without its required following item."
    assert answer.error["message"] == expected


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "42"}


@pytest.mark.parametrize(
    "items",
    [
        [ORPHAN, ANSWER, said("say a")],
        [ORPHAN, CALL, OUTPUT, said("say a")],
        [ORPHAN | {"id": "rs_1"}, ORPHAN, ANSWER, said("say a")],
        [CALL, ORPHAN, CALL | {"call_id": "d"}, OUTPUT, OUTPUT | {"call_id": "d"}, said("say a")],
        [ORPHAN | {"status": "incomplete"}, said("say a")],
        [{**ORPHAN, "id": None}, said("say a")],
    ],
    ids=["answer", "call", "two", "among calls", "cut short", "a client's own"],
)
async def test_a_thought_that_led_to_something_or_was_cut_short_is_taken(url: str, items: list[Object]) -> None:
    assert (await create(url, input=items)).status == 200


@pytest.mark.parametrize("script", ["think hm", "think hm | cut"])
@pytest.mark.parametrize("store", [True, False])
async def test_an_answer_that_is_a_thought_alone_does_not_end_a_conversation(
    client: openai.AsyncOpenAI, script: str, store: bool
) -> None:
    alone = await client.responses.create(model="scripted", input=script, store=store)
    assert [item.type for item in alone.output] == ["reasoning"]
    kept: list[Any] = [said(script), *alone.output, said("say on")]
    assert (await client.responses.create(model="scripted", input=kept)).output_text == "on"
    if store:
        goes_on = await client.responses.create(model="scripted", input="say on", previous_response_id=alone.id)
        assert goes_on.output_text == "on"


async def test_an_item_reference_to_a_thought_alone_is_refused(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="scripted", input=SCRIPT)
    reference: Any = {"type": "item_reference", "id": response.output[0].id}
    with pytest.raises(openai.BadRequestError, match="required following item"):
        await client.responses.create(model="scripted", input=[reference, said("say no")])  # type: ignore[list-item]


# -- which thoughts are told


@pytest.mark.parametrize("is_sealed", [False, True], ids=["open", "sealed"])
@pytest.mark.parametrize(
    ("context", "effective", "told"),
    [
        (None, None, ["let me see", "two"]),
        ("auto", "all_turns", ["let me see", "two"]),
        ("all_turns", "all_turns", ["let me see", "two"]),
        ("current_turn", "current_turn", ["two"]),
    ],
)
async def test_thoughts_of_earlier_turns_are_told_unless_the_context_is_the_current_turn(
    url: str, context: str | None, effective: str | None, told: list[str], is_sealed: bool
) -> None:
    item = await sealed(url)
    earlier = {name: item[name] for name in ("type", "id", "summary", "encrypted_content" if is_sealed else "content")}
    later = {"type": "reasoning", "id": "rs_2", "summary": [], "content": [{"type": "reasoning_text", "text": "two"}]}
    given = [earlier, ANSWER, said("call f {} => tell items"), later, CALL, OUTPUT]

    answer = (await create(url, input=given, reasoning={"context": context})).value

    items = json.loads(answer["output"][0]["content"][0]["text"])
    assert [one["content"][0]["text"] for one in items if one["type"] == "reasoning"] == told
    assert answer["reasoning"].get("context") == effective
    withheld = [{"type": "reasoning", "id": item["id"], "action": "removed", "reason": "turn_boundary"}]
    assert answer.get("input_transformations", []) == (withheld if told == ["two"] else [])


# -- what the model's vendor sealed


class Vendor(RawServer):
    """Speaks Responses for two models, and seals what they think; of one it shows nothing."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.refusal: Object | None = None
        """Given once, to the first request that hands a sealed thought back."""

    @property
    def inputs(self) -> list[list[Object]]:
        return [json.loads(asked.body)["input"] for asked in self.asked if asked.method == "POST"]

    async def _answer(self, wire: Wire) -> None:
        await (self._script(json.loads(wire.asked.body)) if wire.asked.method == "POST" else LISTS)(wire)

    def _script(self, body: Object) -> Script:
        if self.refusal and any("encrypted_content" in item for item in body["input"]):
            refusal, self.refusal = self.refusal, None
            return answers(json.dumps({"error": refusal}).encode(), status=400)
        assert body["include"] == SEALED
        thought = VENDORS | {"id": "rs_v"} | ({"summary": []} if body["model"] == "mute" else {})
        text = {"type": "output_text", "text": "hi", "annotations": []}
        message = {"type": "message", "id": "msg_v", "role": "assistant", "status": "completed", "content": [text]}
        begun = [thought | {"summary": [], "encrypted_content": "half of it"}, message | {"content": []}]
        events: list[Object] = []
        for index, item in enumerate((thought, message)):
            events.append({"type": "response.output_item.added", "output_index": index, "item": begun[index]})
            events.append({"type": "response.output_item.done", "output_index": index, "item": item})
        events.append({"type": "response.completed", "response": {"status": "completed", "output": []}})
        return streams(*(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events))


LISTS = answers(json.dumps({"object": "list", "data": [{"id": "open"}, {"id": "mute"}]}).encode())
VENDORS = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I wonder."}],
           "encrypted_content": "sealed by the vendor"}  # fmt: skip


@asynccontextmanager
async def vendor() -> AsyncIterator[tuple[Vendor, openai.AsyncOpenAI]]:
    async with Vendor() as upstream:
        models = (ResponsesUpstream(url=upstream.url, attempts_max=1),)
        async with serve(Settings(models=models, storage=Storage(database=":memory:"))) as url, sdk(url) as client:
            yield upstream, client


@pytest.mark.parametrize("store", [True, False])
async def test_what_a_vendor_sealed_is_told_back_to_its_model(store: bool) -> None:
    async with vendor() as (upstream, client):
        first = await client.responses.create(model="open", input="a", store=store)
        if store:
            await client.responses.create(model="open", input="b", previous_response_id=first.id)
        else:
            kept: Any = [said("a"), *map(as_client, first.output), said("b")]
            await client.responses.create(model="open", input=kept, store=False)

    thought = first.output[0]
    assert isinstance(thought, ResponseReasoningItem)
    assert thought.summary[0].text == "I wonder."
    assert thought.encrypted_content is not None
    assert thought.encrypted_content.startswith("antiphon1.")
    assert thought.id != "rs_v"
    assert upstream.inputs[-1][1] == VENDORS


async def test_another_model_is_told_what_is_shown_of_a_thought_or_told_of_as_withheld() -> None:
    async with vendor() as (upstream, client):
        shown = await client.responses.create(model="open", input="a", store=False)
        hidden = await client.responses.create(model="mute", input="a", store=False)
        after: list[Any] = [[*answer.output, said("b")] for answer in (shown, hidden)]
        to_mute = await client.responses.create(model="mute", input=after[0])
        to_open = await client.responses.create(model="open", input=after[1])
        to_same = await client.responses.create(model="mute", input=after[1])

    told, untold, same = upstream.inputs[-3:]
    assert told[0]["content"] == [{"type": "reasoning_text", "text": "I wonder."}]
    assert [item["type"] for item in untold] == ["message", "message"]
    assert same[0] == VENDORS | {"summary": []}
    assert to_mute.input_transformations is to_same.input_transformations is None
    assert to_open.input_transformations is not None
    [withheld] = to_open.input_transformations
    assert (withheld.id, withheld.reason) == (hidden.output[0].id, "model_mismatch")


async def test_a_seal_that_the_vendor_cannot_open_any_more_does_not_end_a_conversation() -> None:
    async with vendor() as (upstream, client):
        first = await client.responses.create(model="open", input="a")
        for refusal in (
            {"message": "The encrypted content could not be verified.", "code": "invalid_encrypted_content"},
            {"message": "Item 'rs_v' of type 'reasoning' was provided without its required following item."},
            None,
        ):
            upstream.refusal = refusal
            await client.responses.create(model="open", input="b", previous_response_id=first.id)

    told = [next(item for item in items if item["type"] == "reasoning") for items in upstream.inputs[1:]]
    as_text = {"type": "reasoning_text", "text": "I wonder."}
    assert [one.get("content", one) for one in told] == [VENDORS, [as_text], VENDORS, [as_text], VENDORS]
