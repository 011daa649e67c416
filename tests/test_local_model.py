"""The embedded engine: the real worker process and the built-in model; a Hugging Face hub on loopback for downloads.

One worker serves the whole module. What a model of this size says is asserted only where it was taught to say it; what
a grammar promises is asserted at a temperature at which the model itself would promise nothing. All tests are
coroutines, in the one loop in which that worker is watched.
"""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Struct, structs

from antiphon.config import Limits
from antiphon.config import LocalModel as Settings
from antiphon.core.deltas import Delta, Finish, ToolCall
from antiphon.core.prompt import Named, Offer, Prompt
from antiphon.errors import ContextLengthExceeded, InvalidRequest, ModelError, SettingsError
from antiphon.models import llama_worker, tiny
from antiphon.models.answer import OneCall
from antiphon.models.hub import chosen, prepared
from antiphon.models.llama_worker import Supervisor, Wanted, WorkerFailed, imported_engine
from antiphon.models.local import LocalModel, request, rooted
from antiphon.models.upstream import Upstream
from antiphon.wire.response import Usage
from antiphon.wire.tools import Grammar
from tests.conftest import WAIT_S
from tests.embedded import TREE, WEATHER, prompt, say
from tests.servers import processes, stat_of, told_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

TINY = tiny.settings()
RAMBLE = "Repeat for ever: " + "ab " * 300


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """The one place that waits for something outside: bounded, and never asserted how long."""
    async with asyncio.timeout(WAIT_S):
        while not await holds():  # noqa: ASYNC110 -- what it waits for is in another process
            await asyncio.sleep(0.005)


async def first_batch(model: LocalModel, asked: Prompt) -> Sequence[Delta]:
    async with aclosing(model.stream(asked)) as batches:
        return await anext(batches)


async def slots(model: LocalModel) -> list[dict[str, Any]]:
    _, upstream = await model._engine()
    listed: list[dict[str, Any]] = json.loads(await upstream.get("/slots"))
    return listed


async def is_idle(model: LocalModel) -> bool:
    return not any(slot["is_processing"] for slot in await slots(model))


async def is_busy(model: LocalModel) -> bool:
    return not await is_idle(model)


async def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return is_zombie(pid)


def is_zombie(pid: int) -> bool:
    """Ended, but whoever inherited it has not waited for it."""
    return stat_of(pid)[:1] == ["Z"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[LocalModel]:
    opened = LocalModel(TINY, Limits())
    await opened.start()
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wild() -> AsyncIterator[LocalModel]:
    """The same weights at a temperature at which they say anything; as any user's file, so with no mercy shown."""
    settings = structs.replace(TINY, name="wild", temperature=1.5)
    opened = LocalModel(settings, Limits())
    yield opened
    await opened.close()


# -- what it says


async def test_it_answers_in_many_pieces_with_one_finish_and_its_usage(model: LocalModel) -> None:
    said = await say(model, "Hello!")
    assert (said.text, said.finish.reason) == ("Hello! How can I help you today?", "stop")
    assert said.pieces > 5
    usage = said.finish.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (12, 13, 25)


async def test_a_prompt_seen_before_is_counted_as_cached(model: LocalModel) -> None:
    await say(model, "Count from 1 to 5.")
    usage = (await say(model, "Count from 1 to 5.")).finish.usage
    assert usage is not None
    assert usage.input_tokens_details.cached_tokens > 10


async def test_it_is_listed_under_its_own_name_and_found_well(model: LocalModel) -> None:
    cards = await model.cards()
    check = await model.check()
    assert [(card.id, card.owned_by) for card in cards] == [("antiphon-tiny", "antiphon")]
    assert cards[0].created > 0
    assert check.ok
    assert "antiphon-tiny" in check.name
    assert "CPU" in check.detail


async def test_nobody_without_its_key_may_ask_the_worker(model: LocalModel) -> None:
    worker, _ = await model._engine()
    stranger = Upstream(
        worker.ready.address, connect_timeout_s=WAIT_S, silence_timeout_s=WAIT_S, attempts_max=1, line_bytes_max=100_000
    )
    with pytest.raises(ModelError, match="refused the key"):
        await stranger.get("/slots")
    await stranger.close()


async def test_the_demonstration_says_that_it_is_one_and_how_to_run_a_real_model() -> None:
    assert "demonstration" in tiny.DEMONSTRATION
    assert "--model PATH_OR_ID" in tiny.DEMONSTRATION
    assert "--upstream URL" in tiny.DEMONSTRATION


@pytest.mark.parametrize(("effort", "thinks"), [(None, False), ("none", False), ("minimal", False), ("high", True)])
async def test_it_thinks_when_an_effort_is_asked_for(model: LocalModel, effort: str | None, thinks: bool) -> None:
    said = await say(model, "Hello!", effort=effort)
    assert bool(said.thought) is thinks
    assert said.text == "Hello! How can I help you today?"


async def test_the_limit_on_tokens_cuts_the_answer(model: LocalModel) -> None:
    said = await say(model, "Count to 10", max_output_tokens=4)
    assert (said.text, said.finish.reason) == ("1, 2", "length")


async def test_a_stop_string_ends_the_answer_and_is_not_said(model: LocalModel) -> None:
    said = await say(model, "Count to 10", stop=("5", "9"))
    assert (said.text, said.finish.reason) == ("1, 2, 3, 4, ", "stop")


async def test_the_built_in_model_stops_by_itself_though_no_limit_is_given(model: LocalModel) -> None:
    said = await say(model, RAMBLE, temperature=2.0)
    assert said.finish.usage is not None
    assert said.finish.usage.output_tokens <= 1024


async def test_a_prompt_beyond_the_context_is_refused_as_such(model: LocalModel) -> None:
    with pytest.raises(ContextLengthExceeded, match="8192"):
        await say(model, "word " * 9000)


async def test_more_requests_than_slots_are_all_answered(model: LocalModel) -> None:
    lasts = [3, 4, 5, 6, 7, 8, 9, 10] * 2
    said = await asyncio.gather(*(say(model, f"Count to {last}") for last in lasts))
    assert [one.text.rpartition(" ")[2] for one in said] == [str(last) for last in lasts]


# -- tools


async def test_it_calls_a_tool_and_streams_the_arguments(model: LocalModel) -> None:
    said = await say(model, "What is the weather in Paris?", tools=(WEATHER,))
    assert said.calls == [("get_weather", {"location": "Paris"})]
    assert said.finish.reason == "tool_calls"
    assert said.pieces > 3


async def test_two_calls_are_made_in_one_turn(model: LocalModel) -> None:
    said = await say(model, "What's the weather in Paris and London?", tools=(WEATHER,))
    assert [arguments["location"] for _, arguments in said.calls] == ["Paris", "London"]


async def test_parallel_calls_that_are_not_wanted_end_after_the_first(model: LocalModel) -> None:
    said = await say(model, "What's the weather in Paris and London?", tools=(WEATHER,), parallel_tool_calls=False)
    assert said.calls == [("get_weather", {"location": "Paris"})]
    assert said.finish.reason == "tool_calls"
    assert said.finish.usage is not None
    assert said.finish.usage.output_tokens > 10
    await eventually(lambda: is_idle(model))


async def test_tools_that_must_not_be_called_are_not(model: LocalModel) -> None:
    said = await say(model, "What is the weather in Paris?", tools=(WEATHER,), tool_choice="none")
    assert said.calls == []
    assert "tool_call" not in said.text


async def test_required_calls_come_streamed_and_may_be_several(model: LocalModel) -> None:
    said = await say(model, "What's the weather in Paris and London?", tools=(WEATHER, TREE), tool_choice="required")
    assert [arguments["location"] for _, arguments in said.calls] == ["Paris", "London"]
    assert said.finish.reason == "tool_calls"
    assert said.pieces > 10


async def test_one_required_call_is_one_though_the_model_would_make_two(model: LocalModel) -> None:
    asked: dict[str, Any] = {"tools": (WEATHER, TREE), "tool_choice": "required", "parallel_tool_calls": False}
    said = await say(model, "What's the weather in Paris and London?", **asked)
    assert said.calls == [("get_weather", {"location": "Paris"})]


async def test_a_required_call_may_be_thought_about_first(model: LocalModel) -> None:
    said = await say(model, "Hello", tools=(WEATHER, TREE), tool_choice=Named("get_weather"), effort="high")
    assert said.thought == "The user greets me. I greet back.\n"
    assert [name for name, _ in said.calls] == ["get_weather"]


@pytest.mark.parametrize("effort", ["none", "high"])
async def test_a_wild_model_calls_the_named_tool_within_its_schema(wild: LocalModel, effort: str) -> None:
    asked: dict[str, Any] = {"tools": (WEATHER, TREE), "tool_choice": Named(TREE.name), "effort": effort}
    rounds = [say(wild, f"Hello {number}", max_output_tokens=600, **asked) for number in range(8)]
    finished = [said for said in await asyncio.gather(*rounds) if said.finish.reason != "length"]
    assert finished  # a wild thought may last until the limit
    assert [name for said in finished for name, _ in said.calls] == [TREE.name] * len(finished)
    for arguments in (said.calls[0][1] for said in finished):
        assert list(arguments) == ["kind", "left", "size"]
        assert arguments["kind"] in ('a "b"', "c{d}", "é[\\]", None, 3)
        assert arguments["left"].keys() == {"leaf", "names"}
        assert 0 <= arguments["size"] <= 99
    assert all(said.text == "" for said in finished)


async def test_a_wild_model_makes_some_call_when_one_is_required(wild: LocalModel) -> None:
    asked: dict[str, Any] = {"tools": (WEATHER, TREE), "tool_choice": "required", "max_output_tokens": 600}
    for said in await asyncio.gather(*(say(wild, f"Hello {number}", **asked) for number in range(8))):
        assert said.calls
        assert {name for name, _ in said.calls} <= {"get_weather", TREE.name}


async def test_a_stop_string_does_not_break_a_required_call(model: LocalModel) -> None:
    asked: dict[str, Any] = {"tools": (WEATHER,), "tool_choice": "required", "stop": ("location", "{")}
    assert (await say(model, "What is the weather in Paris?", **asked)).calls == [
        ("get_weather", {"location": "Paris"})
    ]


async def test_a_call_cut_by_the_limit_says_so(model: LocalModel) -> None:
    asked: dict[str, Any] = {"tools": (WEATHER,), "tool_choice": "required", "max_output_tokens": 16}
    said = await say(model, "What is the weather in Paris?", **asked)
    assert said.finish.reason == "length"
    ((name, arguments),) = said.calls
    assert name == "get_weather"
    assert '{"location": "Paris"}'.startswith(arguments)


BAD_SCHEMAS: dict[str, dict[str, Any]] = {
    "reference": {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
    "type": {"type": "object", "properties": {"a": {"type": "nonsense"}}},
    "no object": {"type": "string"},
    "bounds": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 1}},
        "required": ["a"],
    },
}


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("fault", BAD_SCHEMAS)
async def test_a_bad_schema_is_the_clients_fault_and_named(model: LocalModel, fault: str, choice: str) -> None:
    tools = (Offer(name="g"), Offer(name="f", parameters=BAD_SCHEMAS[fault]))
    with pytest.raises(InvalidRequest, match="Invalid schema for function 'f'") as caught:
        await say(model, "Use f please. call f", tools=tools, tool_choice=choice)
    assert (caught.value.param, caught.value.code) == ("tools[1].parameters", "invalid_function_parameters")


async def test_what_cannot_be_enforced_is_refused_only_when_strict(model: LocalModel) -> None:
    many = {"type": "array", "uniqueItems": True, "maxItems": 2}
    schema: dict[str, Any] = {"type": "object", "properties": {"a": many}}
    loose = Offer(name="f", parameters=schema)
    asked: dict[str, Any] = {"tool_choice": "required", "max_output_tokens": 50}
    assert (await say(model, "Hello", tools=(loose,), **asked)).calls
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        await say(model, "Hello", tools=(structs.replace(loose, strict=True),), **asked)


async def test_a_schema_that_holds_itself_works_under_every_choice(model: LocalModel) -> None:
    schema = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}}}
    tools = (Offer(name="f", parameters=schema),)
    for choice in ("auto", "required"):
        said = await say(model, "Hello", tools=tools, tool_choice=choice, max_output_tokens=60)
        assert said.finish.reason in ("stop", "tool_calls", "length")


async def test_a_choice_of_a_tool_that_is_not_offered_is_refused(model: LocalModel) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await say(model, "Hello", tools=(WEATHER,), tool_choice=Named("other"))
    assert caught.value.param == "tool_choice"


async def test_a_template_that_opens_the_thought_and_tags_no_calls_is_served_too(tmp_path: Path) -> None:
    opened = LocalModel(structs.replace(TINY, path=str(with_other_template(tmp_path)), name="other"), Limits())
    worker, _ = await opened._engine()
    always = llama_worker.Template(by_default="thought", told_to_think="thought", told_not_to="thought")
    assert worker.ready.template == always
    said = await say(opened, "What is the weather in Paris?", tools=(WEATHER, TREE), tool_choice=Named("get_weather"))
    assert said.thought.strip()
    assert [name for name, _ in said.calls] == ["get_weather"]
    grammar = Grammar(syntax="regex", definition="[a-z]{3}")
    said = await say(opened, "Hello!", tools=(Offer(name="word", grammar=grammar),), tool_choice="required")
    assert [name for name, _ in said.calls] == ["word"]
    assert len(said.calls[0][1]["input"]) == 3
    await opened.close()


def with_other_template(folder: Path) -> Path:
    """The built-in weights with another chat template, of the same length, as its place in the file demands."""
    start, key, rest = tiny.path().read_bytes().partition(b"tokenizer.chat_template")
    for old, new in (
        (rb"enable_thinking is defined and enable_thinking is false", b"true"),
        (rb"'<think>\n\n</think>\n\n'", rb"'<think>\n'"),
        (b"<tool_call>", b"<call_tool>"),
        (b"</tool_call>", b"</call_tool>"),
    ):
        assert old in rest
        rest = rest.replace(old, new.ljust(len(old)))
    path = folder / "other.gguf"
    path.write_bytes(start + key + rest)
    return path


# -- tools, without an engine


async def test_the_usage_of_a_turn_that_is_cut_short_comes_from_the_timings() -> None:
    reading = OneCall()
    payload = b'{"choices":[],"timings":{"cache_n":3,"prompt_n":4,"predicted_n":5,"predicted_ms":1.5}}'
    deltas: list[Delta] = [ToolCall("0", "{}", "f"), ToolCall("1", "", "g")]
    assert reading.read(deltas, [payload, b"[DONE]"])[:1] == deltas[:1]
    assert reading.is_over
    finish = OneCall().read(deltas, [payload])[-1]
    assert isinstance(finish, Finish)
    assert isinstance(finish.usage, Usage)
    assert (finish.usage.input_tokens, finish.usage.output_tokens) == (7, 5)
    assert finish.usage.input_tokens_details.cached_tokens == 3


async def test_the_models_own_temperature_counts_when_a_request_has_none() -> None:
    assert request(prompt("x"), 0.0, None)["temperature"] == 0.0
    assert request(prompt("x", temperature=1.0), 0.0, None)["temperature"] == 1.0
    assert "temperature" not in request(prompt("x"), None, None)


@pytest.mark.parametrize(("effort", "level"), [("minimal", "low"), ("medium", "medium"), ("max", "high")])
async def test_templates_are_told_an_effort_that_they_know(effort: str, level: str) -> None:
    body = request(prompt("x", effort=effort), None, True)
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": level}
    assert "reasoning_effort" not in body


async def test_a_schema_that_refers_to_itself_refers_to_a_copy() -> None:
    schema = {"type": "object", "properties": {"kid": {"$ref": "#"}, "n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    changed = rooted(tool)["function"]["parameters"]
    assert changed["properties"]["kid"] == {"$ref": "#/$defs/the_whole"}
    assert changed["$defs"].keys() == {"n", "the_whole"}
    assert rooted({"function": {"parameters": {}}}) == {"function": {"parameters": {}}}


# -- clients that leave, workers that die


async def test_a_client_that_leaves_while_it_is_answered_frees_the_slot(model: LocalModel) -> None:
    assert await first_batch(model, prompt(RAMBLE, temperature=2.0, max_output_tokens=7000))
    await eventually(lambda: is_idle(model))


async def test_a_client_that_leaves_before_the_first_token_frees_the_slot(model: LocalModel) -> None:
    asked = prompt("word apple river " * 450, max_output_tokens=7000)
    waiting = asyncio.create_task(first_batch(model, asked))
    await eventually(lambda: is_busy(model))
    (number,) = [slot["id"] for slot in await slots(model) if slot["is_processing"]]
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await eventually(lambda: is_idle(model))
    assert (await slots(model))[number]["n_prompt_tokens"] < 4000  # of 4500: it was not read to its end


async def test_a_killed_worker_fails_what_it_was_answering_and_the_next_request_works(model: LocalModel) -> None:
    worker, _ = await model._engine()
    async with aclosing(model.stream(prompt(RAMBLE, temperature=2.0, max_output_tokens=7000))) as batches:
        await anext(batches)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match=r"antiphon-tiny failed while it answered .*SIGKILL.* retry"):
            async with asyncio.timeout(WAIT_S):
                [_ async for _ in batches]
    assert (await say(model, "Hello!")).text == "Hello! How can I help you today?"
    assert (await model._engine())[0].pid != worker.pid


async def test_a_worker_that_dies_again_and_again_stays_down_and_says_why() -> None:
    wanted = Wanted(path=str(tiny.path()), name="mortal", context_tokens=512, threads=1)
    supervisor = Supervisor(wanted, start_timeout_s=WAIT_S, restart_first_s=0.001)
    async with asyncio.timeout(WAIT_S):
        for _ in range(llama_worker.CRASHES_MAX + 1):
            worker = await supervisor.worker()
            os.kill(worker.pid, signal.SIGKILL)
            await worker.wait_ended()
        with pytest.raises(WorkerFailed, match="SIGKILL"):
            await supervisor.worker()
    await supervisor.close()


async def test_a_closed_model_has_no_worker_and_starts_none() -> None:
    opened = LocalModel(TINY, Limits())
    assert (await say(opened, "Hello!")).text
    worker, _ = await opened._engine()
    await opened.close()
    assert await worker.ended_within(WAIT_S)
    with pytest.raises(ModelError, match="shutting down"):
        await say(opened, "Hello!")


async def test_a_model_closed_while_it_loads_fails_who_waits_and_leaves_no_process() -> None:
    before = llama_children()
    opened = LocalModel(TINY, Limits())
    waiting = asyncio.create_task(say(opened, "Hello!"))
    await eventually(lambda: asyncio.sleep(0, llama_children() > before))
    await opened.close()
    with pytest.raises(ModelError, match="shutting down"):
        await waiting
    assert llama_children() == before


def llama_children() -> set[int]:
    """Our child processes that run the worker."""
    ours = [pid for pid in processes() if stat_of(pid)[1:2] == [str(os.getpid())]]
    return {pid for pid in ours if "llama_worker" in told_of(pid, "cmdline")}


async def test_the_worker_of_a_killed_server_ends_by_itself() -> None:
    script = (
        "import asyncio; from antiphon.models.llama_worker import *; from antiphon.models import tiny\n"
        "async def main():\n"
        "    worker = await Worker.start(Wanted(path=str(tiny.path()), name='t', threads=1, context_tokens=512), 60)\n"
        "    print(worker.pid, flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=pipe)
    assert server.stdout is not None
    async with asyncio.timeout(WAIT_S):
        pid = int(await server.stdout.readline())
    server.kill()
    await server.wait()
    await eventually(lambda: is_gone(pid))


# -- what cannot be loaded


async def test_a_model_file_that_is_not_there_is_named() -> None:
    for path in ("missing.gguf", "/nowhere/missing.gguf", "some/missing.gguf"):
        with pytest.raises(SettingsError, match=f"no model file {path}"):
            LocalModel(Settings(path=path), Limits())


@pytest.mark.parametrize(("cut", "reason"), [(0, "invalid magic"), (100_000, "corrupted or incomplete")])
async def test_a_file_that_is_no_whole_model_is_refused_with_the_engines_reason(
    tmp_path: Path, cut: int, reason: str
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(tiny.path().read_bytes()[:cut] or b"this is no model")
    opened = LocalModel(Settings(path=str(path)), Limits())
    with pytest.raises(SettingsError, match=f"broken cannot run: llama.cpp cannot load .*{reason}"):
        await opened.start()
    check = await opened.check()
    assert not check.ok
    assert check.remedy
    await opened.close()


async def test_an_engine_that_takes_too_long_is_given_up_and_ended() -> None:
    before = llama_children()
    opened = LocalModel(structs.replace(TINY, start_timeout_s=0.001), Limits())
    with pytest.raises(SettingsError, match=r"not ready after 0\.001 s"):
        await opened.start()
    assert llama_children() == before
    await opened.close()


def answer_with_broken_engine(folder: Path, fault: str) -> tuple[dict[str, str], bytes]:
    """What the worker process answers when `import xllamacpp` fails so, and its log."""
    engine = f"import atexit; atexit.register(print, 'written late'); raise ImportError({fault!r})"
    (folder / "xllamacpp.py").write_text(engine)
    command = [sys.executable, "-P", llama_worker.__file__]
    line = b'{"path":"x.gguf","name":"x","key":"k"}\n'
    environment = os.environ | {"PYTHONPATH": str(folder)}
    ended = subprocess.run(command, input=line, capture_output=True, env=environment, timeout=WAIT_S, check=False)
    assert ended.returncode == 1
    answer: dict[str, str] = json.loads(ended.stdout)
    return answer, ended.stderr


async def test_a_missing_libgomp_is_told_with_the_command_that_helps(tmp_path: Path) -> None:
    answer, _ = answer_with_broken_engine(tmp_path, "libgomp.so.1: cannot open shared object file")
    assert answer["type"] == "failed"
    assert "apt-get install libgomp1" in answer["error"]


async def test_any_other_fault_of_the_import_is_told_as_it_is(tmp_path: Path) -> None:
    answer, _ = answer_with_broken_engine(tmp_path, "no such luck")
    assert answer["error"].endswith("no such luck")


async def test_what_an_engine_writes_as_it_ends_is_not_lost(tmp_path: Path) -> None:
    _, log = answer_with_broken_engine(tmp_path, "no such luck")
    assert b"written late" in log


async def test_a_processor_without_avx2_is_told_so_before_it_crashes() -> None:
    with pytest.raises(WorkerFailed, match="lacks AVX2, F16C; use a model server"):
        imported_engine(frozenset({"bmi2", "fma", "sse2"}))


@pytest.mark.parametrize(("kinds", "margin"), [(["CPU"], 70), (["CPU", "ACCEL"], 170), (["GPU", "CPU"], 7)])
async def test_a_context_of_the_models_own_size_leaves_memory_to_others(kinds: list[str], margin: int) -> None:
    devices = [
        {"type": SimpleNamespace(name=f"GGML_BACKEND_DEVICE_TYPE_{kind}"), "memory_total": 100} for kind in kinds
    ]
    engine = SimpleNamespace(get_device_info=lambda: devices)
    chosen_parameters = SimpleNamespace(fit_params_target=[7, 7])
    llama_worker.leave_memory(engine, chosen_parameters, free_bytes=40)
    assert chosen_parameters.fit_params_target == [margin, margin]


@pytest.mark.parametrize(
    ("code", "words"), [(-4, "lacks instructions"), (-9, "memory ran out"), (-6, "SIGABRT"), (3, "status 3")]
)
async def test_the_end_of_a_worker_is_put_into_words(code: int, words: str) -> None:
    assert words in llama_worker.explained(code, "")
    assert llama_worker.explained(code, "GGML_ASSERT(x) failed").endswith("its last words: GGML_ASSERT(x) failed")


# -- Hugging Face

FILES = {
    "acme/one": ["README.md", "only.gguf", "mmproj-only.gguf"],
    "acme/many": ["m-BF16.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-IQ2_XS.gguf", "q[1]*.gguf"],
    "acme/split": [f"Q8_0/big-Q8_0-0000{part}-of-00003.gguf" for part in (3, 1, 2)],
    "acme/torn": ["big-00001-of-00002.gguf"],
    "acme/safe": ["model.safetensors"],
    "acme/gated": ["m.gguf"],
}
COMMIT = "c0ffee" + "0" * 34


class Hub(BaseHTTPRequestHandler):
    """The routes of a Hugging Face hub that a download asks for, as a plain server without xet."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply(*self.answer())

    do_HEAD = do_GET  # noqa: N815 -- as http.server wants it

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        owner, _, rest = self.path.removeprefix("/api/models").partition("?")[0].lstrip("/").partition("/")
        name, _, rest = rest.partition("/")
        files = FILES.get(f"{owner}/{name}")
        if files is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if not self.path.startswith("/api/"):
            return self.file(name, rest.removeprefix(f"resolve/{COMMIT}/"), files)
        if rest.startswith("tree/"):
            listed = [{"type": "file", "path": path, "size": len(path), "oid": oid(path)} for path in files]
            return 200, {}, json.dumps(listed).encode()
        siblings = [{"rfilename": path} for path in files]
        return 200, {}, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode()

    def file(self, repo: str, quoted: str, files: list[str]) -> tuple[int, dict[str, str], bytes]:
        path = quoted.replace("%5B", "[").replace("%5D", "]").replace("%2A", "*")
        if repo == "gated" and self.headers["Authorization"] != "Bearer hf_admitted":
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if path not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"ETag": f'"{oid(path)}"', "X-Repo-Commit": COMMIT}, path.encode()

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def oid(path: str) -> str:
    return hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()


@contextmanager
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def downloads(home: Path, endpoint: str, *words: str) -> list[str]:
    """What becomes of each path, in order: name and file, or the refusal. A word NAME=VALUE sets the environment for
    those behind it. In a process of its own, since huggingface_hub reads its environment when it is imported."""
    script = (
        "import os, sys; from antiphon.config import LocalModel; from antiphon.errors import SettingsError\n"
        "from antiphon.models.hub import prepared\n"
        "for word in sys.argv[1:]:\n"
        "    if '=' in word: os.environ.update([word.split('=')]); continue\n"
        "    try: made = prepared(LocalModel(path=word)); print(made.name, made.path)\n"
        "    except SettingsError as error: print('refused:', error)\n"
    )
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    command = [sys.executable, "-c", script, *words]
    ended = subprocess.run(command, capture_output=True, text=True, env=inherited | own, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


ONLINE = ["acme/one", "acme/many", "acme/many:m-Q8_0.gguf", "acme/many:q[1]*.gguf", "acme/split"]
ONLINE += ["acme/none", "acme/safe", "acme/many:other.gguf", "acme/torn", "acme/gated"]


class Got(Struct):
    """What became of each id while there was a hub, and where that hub and the downloads were."""

    lines: dict[str, str]
    admitted: str
    endpoint: str
    home: Path


@pytest.fixture(scope="module")
def got(tmp_path_factory: pytest.TempPathFactory) -> Got:
    home = tmp_path_factory.mktemp("hf")
    with hub() as endpoint:
        *lines, admitted = downloads(home, endpoint, *ONLINE, "HF_TOKEN=hf_admitted", "acme/gated")
    return Got(dict(zip(ONLINE, lines, strict=True)), admitted, endpoint, home)


def text_of(line: str) -> str:
    return Path(line.partition(" ")[2]).read_text()


def neighbours_of(line: str) -> list[str]:
    """All files of the snapshot that this one is in, which is where llama.cpp looks for the other shards."""
    return sorted(path.read_text() for path in Path(line.partition(" ")[2]).parent.iterdir())


async def test_a_hub_id_is_downloaded_and_served_under_its_files_name(got: Got) -> None:
    assert got.lines["acme/one"].startswith("only ")
    assert text_of(got.lines["acme/one"]) == "only.gguf"


@pytest.mark.parametrize(
    ("hub_id", "name"),
    [("acme/many", "m-Q4_K_M"), ("acme/many:m-Q8_0.gguf", "m-Q8_0"), ("acme/many:q[1]*.gguf", "q[1]*")],
)
async def test_of_many_files_the_named_one_is_taken_or_the_usual_one(got: Got, hub_id: str, name: str) -> None:
    assert got.lines[hub_id].startswith(f"{name} ")
    assert text_of(got.lines[hub_id]) == f"{name}.gguf"


async def test_all_parts_of_a_split_model_come_and_the_first_is_named(got: Got) -> None:
    line = got.lines["acme/split"]
    assert line.startswith("big-Q8_0 ")
    assert text_of(line) == "Q8_0/big-Q8_0-00001-of-00003.gguf"
    assert neighbours_of(line) == sorted(FILES["acme/split"])


@pytest.mark.parametrize(
    ("hub_id", "words"),
    [
        ("acme/none", "does not exist; if it is private, set HF_TOKEN"),
        ("acme/safe", "holds no .gguf file"),
        ("acme/many:other.gguf", "holds no other.gguf. Its models: m-BF16.gguf, m-IQ2_XS.gguf, m-Q4_K_M.gguf"),
        ("acme/torn", "holds 1 of the 2 parts"),
        ("acme/gated", "gated: accept its terms on its page, and set HF_TOKEN"),
    ],
)
async def test_what_a_hub_does_not_have_is_refused_by_name(got: Got, hub_id: str, words: str) -> None:
    assert got.lines[hub_id].startswith(f"refused: {hub_id.partition(':')[0]}")
    assert words in got.lines[hub_id]


async def test_a_token_opens_a_gated_model(got: Got) -> None:
    assert text_of(got.admitted) == "m.gguf"


async def test_without_a_network_what_was_downloaded_serves_and_the_rest_is_refused(got: Got) -> None:
    after, refused = downloads(got.home, got.endpoint, "acme/many", "acme/none")
    assert after == got.lines["acme/many"]
    assert refused.startswith(f"refused: acme/none at {got.endpoint} cannot be downloaded: ")


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["b-F16.gguf", "b-Q6_K.gguf"], "b-Q6_K.gguf"),
        (["b.Q5_K_M.gguf", "b.q4_k_m.gguf"], "b.q4_k_m.gguf"),
        (["z.gguf", "a.gguf", "imatrix.gguf", "a-mmproj.gguf"], "a.gguf"),
    ],
)
async def test_of_several_files_the_usual_quantisation_is_taken(files: list[str], taken: str) -> None:
    assert chosen("acme/x", files, None) == [taken]


async def test_a_prepared_model_needs_no_more_preparing(tmp_path: Path) -> None:
    path = tmp_path / "my-model.gguf"
    path.write_bytes(b"")
    once = prepared(Settings(path=str(path)))
    assert (once.name, once.path) == ("my-model", str(path))
    assert prepared(once) == once
