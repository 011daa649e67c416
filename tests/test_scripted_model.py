"""The scripted model's own rule: which turn of a script is due. What its verbs do is seen in every other test."""

from antiphon.config import Limits
from antiphon.config import ScriptedModel as Settings
from antiphon.core.deltas import Text, ToolCall
from antiphon.core.prompt import Prompt, PromptItem
from antiphon.models.scripted import ScriptedModel
from antiphon.wire.items import FunctionCall, FunctionCallOutput, InputText, Message, OutputText


def said(role: str, text: str) -> Message:
    part = OutputText(text=text) if role == "assistant" else InputText(text=text)
    return Message(role=role, content=(part,))  # type: ignore[arg-type] # only roles are given


def called(call_id: str) -> FunctionCall:
    return FunctionCall(call_id=call_id, name="f", arguments="{}")


def answered(call_id: str) -> FunctionCallOutput:
    return FunctionCallOutput(call_id=call_id, output=f"out {call_id}")


SCRIPT = said("user", "say first | call f {} | call g {} => call h {} => say done")


async def turn(*items: PromptItem, parallel_tool_calls: bool = True) -> list[str]:
    """The texts and the names of the calls of the turn that is due."""
    prompt = Prompt(model="scripted", items=items, parallel_tool_calls=parallel_tool_calls)
    deltas = [one async for batch in ScriptedModel(Settings(), Limits()).stream(prompt) for one in batch]
    texts = "".join(delta.text for delta in deltas if isinstance(delta, Text))
    return [*([texts] if texts else []), *[one.name for one in deltas if isinstance(one, ToolCall) and one.name]]


async def test_the_first_turn_is_due_at_first() -> None:
    assert await turn(SCRIPT) == ["first", "f", "g"]


async def test_a_turn_is_due_when_the_calls_before_it_are_answered() -> None:
    calls = [called("1"), called("2")]
    outputs = [answered("2"), answered("1")]

    assert await turn(SCRIPT, *calls, *outputs) == ["h"]
    assert await turn(SCRIPT, calls[0], outputs[1], calls[1], outputs[0]) == ["h"]
    assert await turn(SCRIPT, *calls, *outputs, said("assistant", "hm"), called("3"), answered("3")) == ["done"]


async def test_a_script_counts_only_the_calls_that_the_request_lets_it_make() -> None:
    assert await turn(SCRIPT, called("1"), answered("1"), parallel_tool_calls=False) == ["h"]


async def test_after_the_last_turn_the_outputs_are_said() -> None:
    script = said("user", "call f {} => call g {}")

    assert await turn(script, called("1"), answered("1"), called("2"), answered("2")) == ["got: out 1, out 2"]


async def test_what_the_user_says_next_begins_a_script_anew() -> None:
    assert await turn(SCRIPT, called("1"), answered("1"), said("user", "say bye => say no")) == ["bye"]


async def test_no_two_calls_of_a_conversation_have_one_id() -> None:
    async def call_ids(*items: PromptItem) -> list[str]:
        stream = ScriptedModel(Settings(), Limits()).stream(Prompt(model="scripted", items=items))
        return [one.call_id async for batch in stream for one in batch if isinstance(one, ToolCall) and one.call_id]

    first = await call_ids(SCRIPT)
    second = await call_ids(SCRIPT, called("1"), answered("1"), called("2"), answered("2"))

    assert len({*first, *second}) == 3
