"""What a model is told from turn to turn of one response, played by hand over HTTP."""

from antiphon.config import Settings
from antiphon.core.deltas import Finish, Text, Thought, ToolCall
from antiphon.stores import build
from antiphon.wire.items import FunctionCall, FunctionCallOutput, Message, OutputText, Reasoning
from tests.rawclient import Played, create, serving

LOOKUP = {"type": "antiphon:scripted", "name": "lookup"}
CALLED, STOP = Finish("tool_calls"), Finish("stop")


async def test_the_next_turn_is_told_all_that_the_last_one_said(scripted: Settings) -> None:
    model, store = Played(), build(scripted.storage, scripted.limits)
    model.say(
        Thought("hm"), Text("Let me look."), ToolCall("0", '{"text": "abc"}', name="lookup"), Finish("tool_calls")
    )
    model.say(Text("It is ABC."), STOP)
    async with serving(scripted, store, model) as url:
        answer = await create(url, model="played", tools=[LOOKUP], tool_choice="required")
    await store.close()

    asked, reasoning, said, call, output = model.prompts[1].items
    assert isinstance(asked, Message)
    assert isinstance(reasoning, Reasoning)
    assert isinstance(said, Message)
    assert said.content == (OutputText(text="Let me look."),)
    assert isinstance(call, FunctionCall)
    assert isinstance(output, FunctionCallOutput)
    assert (call.name, output.output, output.call_id) == ("lookup", "ABC", call.call_id)
    assert model.prompts[1].tool_choice == "auto"
    kinds = [item["type"] for item in answer.value["output"]]
    assert kinds == ["reasoning", "message", "antiphon:scripted_call", "message"]


async def test_a_continued_response_is_told_of_the_hosted_calls_before_it(scripted: Settings) -> None:
    model, store = Played(), build(scripted.storage, scripted.limits)
    model.say(ToolCall("0", '{"text": "a"}', name="lookup"), CALLED)
    for _ in range(2):
        model.say(Text("Done."), STOP)
    async with serving(scripted, store, model) as url:
        first = (await create(url, model="played", tools=[LOOKUP])).value
        await create(url, model="played", input="And now?", previous_response_id=first["id"])
    await store.close()

    kinds = [type(item).__name__ for item in model.prompts[2].items]
    assert kinds == ["Message", "FunctionCall", "FunctionCallOutput", "Message", "Message"]
