"""Tools of other packages: the one that docs/plug-ins.md shows, installed and used, and what goes wrong with others."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from antiphon.config import ScriptedModel as Scripted
from antiphon.config import Settings
from antiphon.core.fold import fold
from antiphon.errors import SettingsError
from antiphon.models.scripted import ScriptedModel
from antiphon.origins import load
from antiphon.stores.memory import MemoryStore
from antiphon.tools import plugin
from antiphon.tools.plugin import PluginTools
from antiphon.wire.items import PluginCall
from tests import wirecheck
from tests.conftest import WAIT_S, changed
from tests.rawclient import create, final, serving, streaming
from tests.test_api_state import process

DOCUMENT = (Path(__file__).parent.parent / "docs" / "plug-ins.md").read_text(encoding="utf-8")
STOCK = {"type": "antiphon:tool", "name": "stock"}
CALL = 'call stock {"article": "A-17"}'


def shown(first_line: str) -> str:
    """A block of the document, by its first line."""
    found = re.search(rf"```\w+\n# {re.escape(first_line)}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


def install(folder: Path, project: Mapping[str, Any], module: str) -> Path:
    """The package as an installer leaves it behind."""
    name = project["name"].replace("-", "_")
    (folder / f"{name}.py").write_text(module, encoding="utf-8")
    info = folder / f"{name}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{point} = {place}\n" for point, place in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


# -- the one that the document shows


@pytest.fixture
def stock(tmp_path: Path) -> dict[str, str]:
    """The environment of a server that has it."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, tomllib.loads(shown("pyproject.toml"))["project"], shown("antiphon_stock.py"))
    (tmp_path / "stock.csv").write_text("warehouse,article,count\nmain,A-17,12\nnorth,A-17,3\n", encoding="utf-8")
    settings = shown("antiphon.toml").replace("stock.csv", str(tmp_path / "stock.csv"))
    (tmp_path / "antiphon.toml").write_text(settings, encoding="utf-8")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "ANTIPHON_CONFIG": str(tmp_path / "antiphon.toml")}


async def test_the_tool_of_the_document_works(tmp_path: Path, stock: dict[str, str]) -> None:
    async with process(tmp_path / "test.db", **stock) as (_, url):
        for prefix in ("/v1", "/openresponses/v1"):
            async with openai.AsyncOpenAI(
                base_url=url.removesuffix("/v1") + prefix, api_key="none", max_retries=0, timeout=WAIT_S
            ) as sdk:
                await used(sdk, is_open=prefix != "/v1")
        plain = await create(url, input="call stock {}", tools=[STOCK])
        refused = await create(url, tools=[{**STOCK, "config": {"warehouse": 1}}])

    assert [item["type"] for item in plain.value["output"]] == ["message"]
    assert '"article" is a required property' in plain.value["output"][0]["content"][0]["text"]
    assert refused.refusal == (400, "invalid_value", "tools[0].config")


async def used(sdk: openai.AsyncOpenAI, *, is_open: bool) -> None:
    fields: dict[str, Any] = {"model": "scripted", "input": CALL}
    fields["tools"] = [{**STOCK, "config": {"warehouse": "north"}}]
    waited = await sdk.responses.create(**fields)
    assert waited.output_text == "got: 3 in north"
    check(waited.output[0].to_dict(warnings=False))

    events = [event.to_dict(warnings=False) async for event in await sdk.responses.create(**fields, stream=True)]
    check((events[-1]["response"] if is_open else fold(events))["output"][0])
    name = "antiphon:tool_call" if is_open else "response.antiphon:tool_call"
    assert [event["type"] for event in events if "tool_call." in str(event["type"])] == [
        f"{name}.in_progress",
        f"{name}.completed",
    ]
    made = await sdk.responses.create(**fields, background=True)
    if not is_open:
        async with asyncio.timeout(WAIT_S):
            while made.status in {"queued", "in_progress"}:
                made = await sdk.responses.retrieve(made.id)
        check(made.output[0].to_dict(warnings=False))


def check(item: dict[str, Any]) -> None:
    del item["id"]
    assert item == {
        "type": "antiphon:tool_call",
        "status": "completed",
        "name": "stock",
        "arguments": '{"article": "A-17"}',
        "output": "3 in north",
        "error": None,
    }


def test_the_doctor_says_what_was_loaded(stock: dict[str, str], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "antiphon", "doctor", "--scripted", "--database", str(tmp_path / "test.db")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    done = subprocess.run(
        words, env=environment | stock, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )

    assert "stock (antiphon-stock 0.1)" in done.stdout + done.stderr


# -- others

ODD = """
import asyncio
from antiphon.tools.plugin import Errand, Failed, Plugin

class Odd(Plugin):
    description = "Does as it is told."
    parameters = {"type": "object", "properties": {"do": {"type": "string"}}}
    timeout_s = 0.05
    is_closed = False

    def __init__(self, settings):
        if "needs" in settings:
            settings["needed"]
        if "wrong" in settings:
            raise ValueError("that is wrong")

    async def call(self, arguments, errand):
        match arguments.get("do"):
            case "fail":
                raise Failed("told to")
            case "break":
                raise RuntimeError("secret")
            case "number":
                return 1
            case "wait":
                await asyncio.Event().wait()
            case "time out":
                raise TimeoutError
            case "cancel":
                raise asyncio.CancelledError
            case "exit":
                raise SystemExit(2)
            case "half":
                return "a\\udcffb"
            case "fail half":
                raise Failed("a\\udcffb")
            case "class":
                return Text("text")
        return f"{errand.project} {errand.response_id[:5]} {errand.config}"

class Text(str):
    pass

class Again(Odd):
    is_repeatable = True

class NoSchema(Odd):
    parameters = {"type": "object", "properties": 1}

class Mute(Odd):
    description = 1

class Many(Odd):
    parameters = {"type": "array"}

class Timeless(Odd):
    timeout_s = "5"

class Stays(Odd):
    async def close(self):
        await asyncio.Event().wait()

class Breaks(Odd):
    async def close(self):
        raise RuntimeError("cannot close")

class Cancels(Odd):
    async def close(self):
        raise asyncio.CancelledError

class Exits(Odd):
    async def close(self):
        raise SystemExit(2)

class Closes(Odd):
    async def close(self):
        Odd.is_closed = True

class Silent(Plugin):
    pass

number = 1

class Idle(Plugin):
    description = "Has nothing to call."
    parameters = {"type": "object"}
"""
POINTS = {
    "odd": "odd_tools:Odd",
    "again": "odd_tools:Again",
    "no_schema": "odd_tools:NoSchema",
    "mute": "odd_tools:Mute",
    "many": "odd_tools:Many",
    "timeless": "odd_tools:Timeless",
    "stays": "odd_tools:Stays",
    "breaks": "odd_tools:Breaks",
    "cancels": "odd_tools:Cancels",
    "exits": "odd_tools:Exits",
    "closes": "odd_tools:Closes",
    "silent": "odd_tools:Silent",
    "number": "odd_tools:number",
    "idle": "odd_tools:Idle",
    "gone": "nowhere:Odd",
    "absent": "odd_tools:Absent",
    "no name": "odd_tools:Odd",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    project = {"name": "odd-tools", "version": "2", "entry-points": {"antiphon.tools": POINTS}}
    monkeypatch.syspath_prepend(str(install(folder, project, ODD)))
    monkeypatch.delitem(sys.modules, "odd_tools", raising=False)


@asynccontextmanager
async def odd(scripted: Settings) -> AsyncIterator[str]:
    settings = changed(scripted, tools={"plugins": {"odd": {}, "again": {}}})
    store = MemoryStore(settings.storage, settings.limits)
    async with serving(settings, store, ScriptedModel(Scripted(), settings.limits)) as url:
        yield url


def item(response: Any) -> tuple[str, str | None, str | None]:
    call = response["output"][0]
    return call["status"], call["output"], call["error"]


OUTCOMES = {
    "": ("completed", "default resp_ {}", None),
    "fail": ("failed", None, "told to"),
    "break": ("failed", None, "The tool failed."),
    "number": ("failed", None, "The tool failed."),
    "wait": ("failed", None, "The tool took longer than 0.05 s."),
    "time out": ("failed", None, "The tool failed."),
    "cancel": ("failed", None, "The tool failed."),
    "exit": ("failed", None, "The tool failed."),
    "half": ("completed", "a?b", None),
    "fail half": ("failed", None, "a?b"),
    "class": ("completed", "text", None),
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("do", OUTCOMES)
async def test_however_a_call_ends_the_response_goes_on(scripted: Settings, do: str) -> None:
    async with odd(scripted) as url:
        script = f"call odd {json.dumps({'do': do})} | call odd {{}}"
        answer = await create(url, input=script, tools=[{"type": "antiphon:tool", "name": "odd"}])
        async with streaming(url, input=script, tools=[{"type": "antiphon:tool", "name": "odd"}]) as one:
            await one.head()
            streamed = final(await one.frames())

    wirecheck.openai(answer)
    for response in (answer.value, streamed):
        assert item(response) == OUTCOMES[do]
        assert response["output"][1]["status"] == "completed"
        told = response["output"][2]["content"][0]["text"]
        assert (OUTCOMES[do][1] or f"The call failed: {OUTCOMES[do][2]}") in told


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("tool", "param"),
    [({"name": "stock"}, "tools[0].name"), ({}, "tools[0].name"), ({"name": "odd", "config": {}}, "tools[0].config")],
    ids=["not enabled", "no name", "no config"],
)
async def test_what_cannot_be_offered_is_refused(scripted: Settings, tool: dict[str, Any], param: str) -> None:
    async with odd(scripted) as url:
        answer = await create(url, tools=[{"type": "antiphon:tool", **tool}])

    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.usefixtures("installed")
async def test_it_waits_to_be_found(scripted: Settings) -> None:
    tools = [{"type": "antiphon:tool", "name": name, "defer_loading": True} for name in ("odd", "again")]
    async with odd(scripted) as url:
        script = 'call tool_search {"query": "odd"} => call odd {} => tell tools'
        answer = await create(url, input=script, tools=[*tools, {"type": "tool_search"}])

    kinds = [one["type"] for one in answer.value["output"]]
    assert kinds == ["tool_search_call", "tool_search_output", "antiphon:tool_call", "message"]
    assert answer.value["output"][1]["tools"] == tools[:1]
    told = json.loads(answer.value["output"][3]["content"][0]["text"])
    assert [tool["name"] for tool in told] == ["tool_search", "odd"]


@pytest.mark.usefixtures("installed")
async def test_a_conversation_goes_on_without_it(scripted: Settings) -> None:
    async with odd(scripted) as url:
        first = await create(url, input="call odd {}", tools=[{"type": "antiphon:tool", "name": "odd"}])
    without = changed(scripted, tools={"plugins": {}})
    store = MemoryStore(without.storage, without.limits)
    async with serving(without, store, ScriptedModel(Scripted(), without.limits)) as url:
        again = await create(url, input=[*first.value["output"], {"role": "user", "content": "tell items.1.output"}])

    assert again.value["output"][0]["content"][0]["text"] == json.dumps(first.value["output"][0]["output"])


@pytest.mark.usefixtures("installed")
def test_only_one_that_says_so_is_repeatable() -> None:
    tools = PluginTools({"odd": {}, "again": {}})
    calls = [PluginCall(name=name, arguments="{}") for name in ("odd", "again", "gone")]

    assert [tools.is_repeatable(call) for call in calls] == [False, True, False]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "table", "fault"),
    [
        (
            "stock",
            {},
            "no plug-in of this name is installed; there are: absent, again, breaks, cancels, closes, exits, gone",
        ),
        ("gone", {}, "nowhere:Odd cannot be loaded: No module named 'nowhere'"),
        ("absent", {}, "odd_tools:Absent cannot be loaded"),
        ("number", {}, "is no Plugin with a description and parameters"),
        ("silent", {}, "is no Plugin with a description and parameters"),
        *((name, {}, "is no Plugin with a description and parameters") for name in ("mute", "many", "timeless")),
        ("idle", {}, "abstract method"),
        ("no_schema", {}, "Invalid schema at 'parameters"),
        ("no name", {}, "a model can call no tool of this name"),
        ("odd", {"wrong": True}, "that is wrong"),
        ("odd", {"needs": True}, "missing: 'needed'"),
    ],
)
def test_what_cannot_be_loaded_ends_the_start(name: str, table: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PluginTools({name: table})

    assert caught.value.message.startswith(f"tools.plugins.{name}: ")
    assert fault in caught.value.message


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "told"),
    [("stays", "in time"), ("breaks", "cannot close"), ("cancels", "CancelledError"), ("exits", "wanted to end")],
)
async def test_one_that_cannot_be_closed_keeps_neither_the_others_nor_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    monkeypatch.setattr(plugin, "CLOSE_S", 0.1)
    tools = PluginTools({name: {}, "closes": {}})
    async with asyncio.timeout(WAIT_S):
        await tools.close()

    assert sys.modules["odd_tools"].Odd.is_closed
    logged = capsys.readouterr()
    assert name in logged.out + logged.err
    assert told in logged.out + logged.err


def test_its_table_comes_from_the_file_with_its_key_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "antiphon.toml"
    file.write_text('[tools.plugins.stock]\nkey_env = "STOCK_KEY"\nplaces = ["a"]\n[tools.plugins.more]\n')
    settings = load(str(file), {"STOCK_KEY": "s", "HOME": str(tmp_path)})

    assert settings.tools.plugins == {
        "stock": {"key_env": "STOCK_KEY", "key": "s", "places": ["a"]},
        "more": {},
    }
