"""Tools that the client runs, of every kind: what a model is shown of them, what its calls become, what it hears again.

The model is played by hand, so that each test sees both sides: the prompt, and the answer over HTTP.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from antiphon.config import Settings
from antiphon.core.deltas import Finish, Phase, Text, ToolCall
from antiphon.core.prompt import Named
from antiphon.stores.memory import MemoryStore
from antiphon.wire.items import FunctionCall, FunctionCallOutput, InputImage, InputText, Message
from tests import wirecheck
from tests.conftest import changed, serve
from tests.rawclient import Answer, Played, ask, create, events_of, final, serving, streaming

CALLED, STOP = Finish("tool_calls"), Finish("stop")
NOTE = {"type": "custom", "name": "note", "description": "Takes a note."}
DIGITS = {"type": "custom", "name": "digits", "format": {"type": "grammar", "syntax": "regex", "definition": "[0-9]+"}}
SUM_GRAMMAR = 'start: INT ("+" INT)*\nINT: /[0-9]+/'
SUM = {"type": "custom", "name": "sum", "format": {"type": "grammar", "syntax": "lark", "definition": SUM_GRAMMAR}}
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, **fields}


class Stage:
    """A server of the played model."""

    def __init__(self, url: str, model: Played) -> None:
        self.url = url
        self.model = model

    def call(self, name: str, arguments: object = "{}", *, key: str = "0", call_id: str | None = "call_1") -> ToolCall:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return ToolCall(key, text, name=name, call_id=call_id)

    async def ask(self, *turns: tuple[Any, ...], **fields: Any) -> Answer:
        for turn in turns:
            self.model.say(*turn)
        answer = await create(self.url, model="played", **fields)
        wirecheck.openai(answer)
        return answer

    @property
    def told(self) -> list[Any]:
        """The items of the last prompt."""
        return list(self.model.prompts[-1].items)

    @property
    def shown(self) -> list[str]:
        return [offer.name for offer in self.model.prompts[-1].tools]


@pytest.fixture
async def stage(scripted: Settings) -> AsyncIterator[Stage]:
    model = Played()
    async with serving(scripted, MemoryStore(scripted.storage, scripted.limits), model) as url:
        yield Stage(url, model)


def kinds(answer: Answer) -> list[str]:
    return [item["type"] for item in answer.value["output"]]


# -- every kind of call keeps its wire

CLIENT_TOOLS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "function": (function("f", strict=True), "f", {"a": 1}),
    "asynchronous function": (function("f", **{"async": True}), "f", {}),
    "custom tool": (NOTE, "note", {"input": "a note"}),
    "custom tool with a grammar": (DIGITS, "digits", {"input": "12"}),
    "tool in a namespace": ({"type": "namespace", "name": "n", "tools": [function("f")]}, "n__f", {}),
    "tool search": ({"type": "tool_search", "execution": "client"}, "tool_search", {"query": "x"}),
    "shell": ({"type": "shell"}, "shell", {"commands": ["ls"]}),
    "local shell": ({"type": "local_shell"}, "local_shell", {"command": ["ls"]}),
    "new file": (
        {"type": "apply_patch"},
        "apply_patch",
        {"operation": {"type": "create_file", "path": "a", "diff": "+a"}},
    ),
    "file that goes": ({"type": "apply_patch"}, "apply_patch", {"operation": {"type": "delete_file", "path": "a"}}),
    "computer": ({"type": "computer"}, "computer", {"actions": [{"type": "screenshot"}]}),
}


@pytest.mark.parametrize("name", CLIENT_TOOLS)
async def test_a_call_of_every_kind_is_lawful_whole_and_streamed_and_read_in_the_other_wire(
    stage: Stage, name: str
) -> None:
    tool, called, arguments = CLIENT_TOOLS[name]
    goes_on = (Text("It runs."), STOP) if tool.get("async") else ()
    for stream in (False, True):
        for said in filter(None, ((Text("Let me."), stage.call(called, arguments), CALLED), goes_on)):
            stage.model.say(*said)
        answer = await create(stage.url, model="played", tools=[tool], stream=stream)
        response = wirecheck.openai(answer)

        kinds = [item["type"] for item in response["output"]]
        assert kinds[0] == "message"
        assert kinds[1].endswith("_call")
        assert response["output"][1]["status"] == "completed"
        for wire, check in (("/v1", wirecheck.openai), ("/openresponses/v1", wirecheck.openresponses)):
            for path in ("", "/input_items"):
                check(await ask(stage.url, "GET", f"{wire}/responses/{response['id']}{path}"))


# -- custom tools


async def test_the_input_of_a_custom_tool_streams_unwrapped(stage: Stage) -> None:
    for piece in ('{"inp', 'ut": "two\\', "nlines \\ud83d", "\\ude00", '"}'):
        stage.model.say(ToolCall("0", piece, name="note", call_id="call_1"))
    stage.model.say(CALLED)
    async with streaming(stage.url, model="played", tools=[NOTE]) as stream:
        await stream.head()
        frames = await stream.frames()

    deltas = [e["delta"] for e in events_of(frames) if e["type"] == "response.custom_tool_call_input.delta"]
    (call,) = final(frames)["output"]
    assert (call["type"], call["name"], call["call_id"]) == ("custom_tool_call", "note", "call_1")
    assert call["input"] == "".join(deltas) == "two\nlines \N{GRINNING FACE}"
    assert len(deltas) == 3


async def test_an_input_that_is_not_wrapped_is_taken_as_it_is(stage: Stage) -> None:
    answer = await stage.ask((stage.call("note", "just text"), CALLED), tools=[NOTE])

    assert answer.value["output"][0]["input"] == "just text"


async def test_the_output_of_a_custom_tool_is_told_as_a_functions(stage: Stage) -> None:
    first = await stage.ask((stage.call("note", {"input": "x"}), CALLED), tools=[NOTE])
    output = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "noted"}
    await stage.ask((Text("ok"), STOP), tools=[NOTE], input=[output], previous_response_id=first.value["id"])

    _, call, told = stage.told
    assert (call.name, json.loads(call.arguments)) == ("note", {"input": "x"})
    assert (told.call_id, told.output) == ("call_1", "noted")


@pytest.mark.parametrize(("tool", "bad", "good"), [(DIGITS, "12a", "12"), (SUM, "1+", "1+22")])
async def test_an_input_that_does_not_fit_its_grammar_is_told_to_the_model_which_mends_it(
    stage: Stage, tool: dict[str, Any], bad: str, good: str
) -> None:
    name = tool["name"]
    answer = await stage.ask(
        (Text("Let me try."), stage.call(name, {"input": bad}), CALLED),
        (stage.call(name, {"input": good}, call_id="call_2"), CALLED),
        tools=[tool],
    )

    assert kinds(answer) == ["message", "custom_tool_call"]
    assert answer.value["output"][1]["input"] == good
    *_, call, told = stage.told
    assert isinstance(call, FunctionCall)
    assert json.loads(call.arguments) == {"input": bad}
    assert isinstance(told, FunctionCallOutput)
    assert "does not fit the grammar" in str(told.output)


async def test_a_call_that_is_wrong_again_and_again_fails_the_response(stage: Stage) -> None:
    turns = [(stage.call("digits", {"input": "no"}), CALLED)] * 4
    answer = await stage.ask(*turns, tools=[DIGITS])

    assert answer.status == 502
    assert "'digits' could not be made: its input does not fit the grammar" in answer.error["message"]


@pytest.mark.parametrize(
    ("syntax", "definition"), [("lark", "start: nothing_of_that_name"), ("lark", "%%"), ("regex", "(")]
)
async def test_a_grammar_that_is_none_is_refused_by_its_place(stage: Stage, syntax: str, definition: str) -> None:
    tool = {**NOTE, "format": {"type": "grammar", "syntax": syntax, "definition": definition}}
    answer = await create(stage.url, model="played", tools=[function("f"), tool])

    assert answer.refusal == (400, "invalid_grammar", "tools[1].format.definition")


async def test_a_grammar_is_shown_to_the_model(stage: Stage) -> None:
    await stage.ask((Text("ok"), STOP), tools=[SUM, {**NOTE, "format": {"type": "text"}}])

    first, second = stage.model.prompts[0].tools
    assert SUM_GRAMMAR in (first.description or "")
    assert first.grammar is not None
    assert (second.grammar, second.description) == (None, "Takes a note.")


# -- namespaces and deferred tools

CRM = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers.",
    "tools": [function("find", description="Finds."), {**NOTE, "defer_loading": True}],
}
SEARCH = {"type": "tool_search", "execution": "client", "description": "Search!", "parameters": {"type": "object"}}


async def test_a_tool_in_a_namespace_has_one_name_for_the_model_and_two_for_the_client(stage: Stage) -> None:
    answer = await stage.ask((stage.call("crm__find"), CALLED), tools=[CRM])
    (call,) = answer.value["output"]
    assert (call["name"], call["namespace"]) == ("find", "crm")
    assert stage.shown == ["crm__find", "crm__note"]
    assert "Customers." in (stage.model.prompts[0].tools[0].description or "")

    output = {"type": "function_call_output", "call_id": "call_1", "output": "found"}
    await stage.ask((Text("ok"), STOP), tools=[CRM], input=[output], previous_response_id=answer.value["id"])
    assert stage.told[1].name == "crm__find"


async def test_deferred_tools_wait_for_the_clients_search_to_find_them(stage: Stage) -> None:
    answer = await stage.ask((stage.call("tool_search", {"query": "notes"}), CALLED), tools=[CRM, SEARCH])
    assert stage.shown == ["crm__find", "tool_search"]
    (call,) = answer.value["output"]
    assert (call["type"], call["execution"]) == ("tool_search_call", "client")
    assert call["arguments"] == {"query": "notes"}

    found = {"type": "tool_search_output", "call_id": "call_1", "execution": "client",
             "tools": [{**CRM, "tools": [{**NOTE, "defer_loading": True}]}]}  # fmt: skip
    second = await stage.ask(
        (stage.call("crm__note", {"input": "x"}, call_id="call_2"), CALLED),
        tools=[CRM, SEARCH],
        input=[found],
        previous_response_id=answer.value["id"],
    )
    assert stage.shown == ["crm__find", "tool_search", "crm__note"]
    assert second.value["output"][0]["namespace"] == "crm"
    assert "crm" in stage.told[-1].output


async def test_deferred_tools_are_shown_at_once_where_nobody_searches(stage: Stage) -> None:
    await stage.ask((Text("ok"), STOP), tools=[function("f", defer_loading=True)])

    assert stage.shown == ["f"]


async def test_additional_tools_are_offered_from_where_they_stand(stage: Stage) -> None:
    more = {"type": "additional_tools", "role": "developer", "tools": [function("g"), NOTE]}
    first = await stage.ask((Text("ok"), STOP), tools=[function("f")], input=[more, {"role": "user", "content": "hi"}])
    assert stage.shown == ["f", "g", "note"]

    await stage.ask((Text("ok"), STOP), previous_response_id=first.value["id"])
    assert stage.shown == ["g", "note"]


async def test_a_wrong_tool_among_additional_ones_is_refused_by_its_place(stage: Stage) -> None:
    more = {"type": "additional_tools", "tools": [function("g"), {"type": "function"}]}
    answer = await create(stage.url, model="played", input=[more, {"role": "user", "content": "hi"}])

    assert answer.refusal == (400, "missing_required_parameter", "input[0].tools[1].name")


# -- the choice among tools


async def test_a_tool_that_is_not_allowed_is_shown_but_its_call_is_not_made(stage: Stage) -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    answer = await stage.ask(
        (stage.call("f"), CALLED),
        (stage.call("g", call_id="call_2"), CALLED),
        tools=[function("f"), function("g")],
        tool_choice=allowed,
    )

    assert stage.shown == ["f", "g"]
    assert [call["name"] for call in answer.value["output"]] == ["g"]
    assert "only these tools may be called now: g" in stage.told[-1].output
    assert answer.value["tool_choice"] == allowed


async def test_allowed_tools_of_every_kind_can_be_named(stage: Stage) -> None:
    tools = [function("f"), NOTE, CRM, {"type": "shell"}, {"type": "apply_patch"}]
    named = [
        {"type": "custom", "name": "note"},
        {"type": "namespace", "name": "crm"},
        {"type": "shell"},
    ]
    choice = {"type": "allowed_tools", "mode": "required", "tools": named}
    await stage.ask((stage.call("shell", {"commands": []}), CALLED), tools=tools, tool_choice=choice)

    assert stage.model.prompts[0].allowed == frozenset({"note", "crm__find", "crm__note", "shell"})
    assert stage.model.prompts[0].tool_choice == "required"


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "function": {"name": "f"}}, "f"),
        ({"type": "custom", "name": "note"}, "note"),
        ({"type": "apply_patch"}, "apply_patch"),
        ({"type": "shell"}, "shell"),
        ({"type": "computer"}, "computer"),
        ({"type": "computer_use"}, "computer"),
    ],
)
async def test_one_tool_of_any_kind_can_be_asked_for(stage: Stage, choice: dict[str, Any], name: str) -> None:
    plain = [{"type": kind} for kind in ("apply_patch", "shell", "computer")]
    await stage.ask((Text("ok"), STOP), tools=[function("f"), NOTE, *plain], tool_choice=choice)

    assert stage.model.prompts[0].tool_choice == Named(name)


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "nobody"},
        {"type": "custom", "name": "f"},
        {"type": "shell"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "nobody"}]},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
        {"type": "allowed_tools", "mode": "auto", "tools": []},
    ],
)
async def test_a_choice_of_a_tool_that_is_not_there_is_refused(stage: Stage, choice: dict[str, Any]) -> None:
    answer = await create(stage.url, model="played", tools=[function("f"), {"type": "web_search"}], tool_choice=choice)

    assert answer.status == 400
    assert answer.error["param"] == "tool_choice"


# -- hosted tools that this server cannot run


async def test_a_hosted_tool_that_is_merely_offered_is_left_out_and_named(stage: Stage) -> None:
    tools = [{"type": "web_search", "filters": {"allowed_domains": ["a.example"]}}, function("f"),
             {"type": "file_search", "vector_store_ids": ["vs_1"]}]  # fmt: skip
    answer = await stage.ask((Text("ok"), STOP), tools=tools)

    assert answer.headers["antiphon-omitted-tools"] == "web_search, file_search"
    assert stage.shown == ["f"]
    assert [tool["type"] for tool in answer.value["tools"]] == ["function"]


async def test_a_hosted_tool_that_is_asked_for_is_refused(stage: Stage) -> None:
    answer = await create(
        stage.url, model="played", tools=[{"type": "file_search"}], tool_choice={"type": "file_search"}
    )

    assert answer.refusal == (400, "unsupported_parameter", "tool_choice.type")


# -- the client's shell, patches and computer


@pytest.mark.parametrize(
    ("tool", "name", "arguments", "kind", "seen", "output", "heard"),
    [
        (
            {"type": "shell", "environment": {"type": "local", "skills": []}},
            "shell",
            {"commands": ["ls", "pwd"], "timeout_ms": 5},
            "shell_call",
            {"action": {"commands": ["ls", "pwd"], "max_output_length": None, "timeout_ms": 5}},
            {"output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
            '"stdout":"a"',
        ),
        (
            {"type": "local_shell"},
            "local_shell",
            {"command": ["ls", "-l"], "working_directory": "/srv"},
            "local_shell_call",
            {"action": {"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": None, "user": None,
                        "working_directory": "/srv"}},
            {"output": "a file"},
            "a file",
        ),
        (
            {"type": "apply_patch"},
            "apply_patch",
            {"operation": {"type": "create_file", "path": "a.txt", "diff": "+a"}},
            "apply_patch_call",
            {"operation": {"type": "create_file", "path": "a.txt", "diff": "+a"}},
            {"status": "failed", "output": "no such place"},
            "failed: no such place",
        ),
        (
            {"type": "computer"},
            "computer",
            {"actions": [{"type": "click", "button": "left", "x": 1, "y": 2}, {"type": "wait"}]},
            "computer_call",
            {"actions": [{"type": "click", "button": "left", "x": 1, "y": 2}, {"type": "wait"}]},
            {"output": {"type": "computer_screenshot", "image_url": PICTURE}},
            (InputImage(image_url=PICTURE),),
        ),
        (
            {"type": "computer_use_preview", "display_width": 800, "display_height": 600, "environment": "browser"},
            "computer_use_preview",
            {"action": {"type": "type", "text": "hi"}},
            "computer_call",
            {"action": {"type": "type", "text": "hi"}},
            {"output": {"type": "computer_screenshot", "image_url": PICTURE}},
            (InputImage(image_url=PICTURE),),
        ),
    ],
)  # fmt: skip
async def test_a_call_of_the_clients_own_tool_goes_out_and_its_output_comes_back(
    stage: Stage, tool: Any, name: str, arguments: Any, kind: str, seen: Any, output: Any, heard: Any
) -> None:
    answer = await stage.ask((stage.call(name, arguments), CALLED), tools=[tool])
    (item,) = answer.value["output"]
    assert (item["type"], item["call_id"], item["status"]) == (kind, "call_1", "completed")
    assert seen.items() <= item.items()

    result = {"type": f"{kind}_output", "call_id": "call_1", **output}
    again = [{"role": "user", "content": "do it"}, item, result]  # by value, as clients without state send it
    await stage.ask((Text("ok"), STOP), tools=[tool], input=again)
    _, call, told = stage.told
    assert (call.name, json.loads(call.arguments)) == (name, arguments)
    assert told.call_id == call.call_id
    assert heard in told.output if isinstance(heard, str) else told.output == heard


async def test_a_local_shells_output_may_name_the_item_as_the_reference_has_it(stage: Stage) -> None:
    first = await stage.ask((stage.call("local_shell", {"command": ["ls"]}), CALLED), tools=[{"type": "local_shell"}])
    (item,) = first.value["output"]
    result = {"type": "local_shell_call_output", "id": item["id"], "output": "a file"}
    answer = await stage.ask((Text("ok"), STOP), input=[result], previous_response_id=first.value["id"])

    assert answer.status == 200
    assert (stage.told[-1].call_id, stage.told[-1].output) == ("call_1", "a file")


async def test_a_variable_without_a_value_is_refused_and_not_dropped(stage: Stage) -> None:
    action = {"type": "exec", "command": ["ls"], "env": {"HOME": None}, "user": None}
    call = {"type": "local_shell_call", "id": "lsh_1", "call_id": "c", "status": "completed", "action": action}
    answer = await create(stage.url, model="played", input=[{"role": "user", "content": "hi"}, call])

    assert answer.refusal == (400, "invalid_type", "input[1].action.env")


async def test_arguments_that_are_no_action_are_told_to_the_model_which_mends_them(stage: Stage) -> None:
    answer = await stage.ask(
        (stage.call("shell", {"commands": "ls"}), CALLED),
        (stage.call("shell", {"commands": ["ls"]}, call_id="call_2"), CALLED),
        tools=[{"type": "shell"}],
    )

    assert kinds(answer) == ["shell_call"]
    assert "its arguments are wrong" in stage.told[-1].output


async def test_a_shell_in_a_container_of_the_server_is_left_out_and_named(stage: Stage) -> None:
    tool = {"type": "shell", "environment": {"type": "container_auto"}}
    answer = await stage.ask((Text("ok"), STOP), tools=[tool])

    assert (answer.headers["antiphon-omitted-tools"], stage.shown) == ("shell", [])


# -- asynchronous tools, callers, outputs without an id


async def test_the_model_goes_on_after_an_asynchronous_call_and_hears_of_its_result_later(stage: Stage) -> None:
    slow = function("slow", **{"async": True})
    first = await stage.ask((stage.call("slow"), CALLED), (Text("It runs."), STOP), tools=[slow])
    assert kinds(first) == ["function_call", "message"]
    assert first.value["output"][0]["async"] is True
    assert "will come later" in stage.told[-1].output

    talk = await stage.ask((Text("Hello."), STOP), input="Hi?", tools=[slow], previous_response_id=first.value["id"])
    result = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
    await stage.ask((Text("42!"), STOP), input=[result], tools=[slow], previous_response_id=talk.value["id"])
    last = stage.told[-1]
    assert isinstance(last, Message)
    assert [part.text for part in last.content if isinstance(part, InputText)] == [
        "The result of the earlier call call_1 of slow:",
        "42",
    ]


async def test_a_caller_is_kept_as_it_came(stage: Stage) -> None:
    caller = {"type": "program", "caller_id": "prog_1"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "caller": caller}
    output = {"type": "function_call_output", "call_id": "c", "output": "x", "caller": {"type": "direct"}}
    answer = await stage.ask((Text("ok"), STOP), input=[{"role": "user", "content": "hi"}, call, output])
    path = f"/v1/responses/{answer.value['id']}/input_items?order=asc"
    listed = (await ask(stage.url, "GET", path)).value["data"]
    assert [item.get("caller") for item in listed] == [None, caller, {"type": "direct"}]


async def test_an_output_without_an_id_answers_the_last_call_of_its_name(stage: Stage) -> None:
    calls = [{"type": "function_call", "call_id": f"c_{name}", "name": name, "arguments": "{}"} for name in ("f", "g")]
    outputs = [{"type": "function_call_output", "name": name, "output": name} for name in ("f", "g")]
    await stage.ask((Text("ok"), STOP), input=[{"role": "user", "content": "hi"}, *calls, *outputs])

    assert [told.call_id for told in stage.told[-2:]] == ["c_f", "c_g"]


@pytest.mark.parametrize("callers", [["programmatic"], []])
async def test_a_tool_that_only_programs_may_call_is_refused(stage: Stage, callers: list[str]) -> None:
    answer = await create(stage.url, model="played", tools=[function("f", allowed_callers=callers)])

    assert answer.refusal == (400, "unsupported_parameter", "tools[0].allowed_callers")


# -- limits and phases


async def test_hosted_calls_beyond_the_limit_are_not_made_and_the_model_is_told(stage: Stage) -> None:
    lookup = {"type": "antiphon:scripted", "name": "lookup"}
    both = (stage.call("lookup", {"text": "a"}), stage.call("lookup", {"text": "b"}, key="1"), CALLED)
    answer = await stage.ask(both, (Text("Enough."), STOP), tools=[lookup], max_tool_calls=1)

    assert kinds(answer) == ["antiphon:scripted_call", "message"]
    assert answer.value["max_tool_calls"] == 1
    assert "max_tool_calls" in stage.told[-1].output


async def test_a_model_that_goes_on_calling_beyond_the_limit_ends_with_what_it_said(stage: Stage) -> None:
    lookup = {"type": "antiphon:scripted", "name": "lookup"}
    call = stage.call("lookup", {"text": "a"})
    answer = await stage.ask(
        (call, CALLED), (call, CALLED), (Text("So be it."), call, CALLED), tools=[lookup], max_tool_calls=1
    )

    assert answer.value["status"] == "completed"
    assert kinds(answer) == ["antiphon:scripted_call", "message"]


async def test_a_phase_marks_its_message_and_survives_the_round_trip(stage: Stage) -> None:
    first = await stage.ask((Phase("commentary"), Text("Looking."), Phase("final_answer"), Text("Found."), STOP))
    assert [(m["phase"], m["content"][0]["text"]) for m in first.value["output"]] == [
        ("commentary", "Looking."),
        ("final_answer", "Found."),
    ]

    await stage.ask((Text("ok"), STOP), input=[*first.value["output"], {"role": "user", "content": "hi"}])
    assert [getattr(item, "phase", None) for item in stage.told[:2]] == ["commentary", "final_answer"]


async def test_under_strict_a_hosted_tool_that_cannot_run_is_refused(scripted: Settings) -> None:
    async with serve(changed(scripted, server={"strict": True})) as url:
        answer = await create(url.removesuffix("/v1"), tools=[{"type": "web_search"}])

    assert answer.refusal == (400, "unsupported_parameter", "tools")
