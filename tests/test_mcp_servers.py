"""How MCP servers are reached: transports, connections that are kept, addresses that are refused, secrets that stay."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest
from mcp.server.subscriptions import ToolsListChanged
from msgspec import structs

from antiphon import app
from antiphon.config import Fetch, McpServer, McpSettings, Settings, Tools
from antiphon.errors import DependencyFailed, SettingsError
from antiphon.net.fetch import Fetcher
from antiphon.tools import mcp_pool
from antiphon.tools.mcp import INSTALL, McpTool
from antiphon.tools.mcp_place import Place, Places
from antiphon.tools.mcp_pool import Key
from antiphon.tools.mcp_speech import Speech
from antiphon.wire.items import McpHttpError
from antiphon.wire.tools import McpTool as Declaration
from tests.conftest import WAIT_S, changed, serve
from tests.mcpserver import Remote
from tests.ports import free_port
from tests.rawclient import ask, create

ADD = 'call docs__add {"a": 1, "b": 2}'
SECRET = "s3cret-that-nobody-stores"
HERE = Path(__file__).parent


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    async with Remote().serving() as served:
        yield served


@pytest.fixture
def scripted(scripted: Settings) -> Settings:
    return changed(scripted, fetch={"allow": ("127.0.0.1",)})


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    made = Fetcher(Fetch(allow=("127.0.0.1",)), 3)
    yield made
    await made.close()


@pytest.fixture
async def speech(fetcher: Fetcher) -> AsyncIterator[Speech]:
    made = Speech(McpSettings(), fetcher, unheeded)
    yield made
    await made.close()


def unheeded(_key: Any) -> None:
    """Of a server's tools, which are others now: a Speech keeps no list."""


def with_servers(settings: Settings, *servers: McpServer, **fields: Any) -> Settings:
    return structs.replace(settings, tools=Tools(mcp=McpSettings(servers=servers, **fields)))


async def added(speech: Speech, place: Place, project: str = "p") -> Any:
    async with asyncio.timeout(WAIT_S):
        return await speech.call(project, place, "add", {"a": 1, "b": 2})


# -- transports


@pytest.mark.parametrize("era", ["modern", "legacy", "sse"])
async def test_a_server_is_reached_in_the_way_it_speaks(client: openai.AsyncOpenAI, era: str) -> None:
    async with Remote(era).serving() as remote:
        response = await client.responses.create(model="scripted", input=ADD, tools=[remote.tool()])  # type: ignore[list-item]

    assert response.output_text == "got: 3"
    assert ("initialize" in remote.methods) is (era != "modern")


async def test_servers_of_the_settings_are_used_by_their_label(scripted: Settings, remote: Remote) -> None:
    command = (sys.executable, str(HERE / "mcpserver.py"))
    settings = with_servers(
        scripted,
        McpServer(label="local", command=command, env=("PATH",)),
        McpServer(label="docs", url=remote.url, key=SECRET),
    )
    settings = changed(settings, fetch={"allow": ()})
    tool = {"type": "mcp", "require_approval": "never"}
    async with serve(settings) as url:
        answer = await create(
            url,
            input=" | ".join(
                [ADD, *(f'call local__variable {{"name": "{name}"}}' for name in ("PATH", "PYTEST_VERSION"))]
            ),
            tools=[tool | {"server_label": label} for label in ("local", "docs")],
        )
        kinds = [item["type"] for item in answer.value["output"]]
        assert kinds == ["mcp_list_tools"] * 2 + ["mcp_call"] * 3 + ["message"]
        _, _, added, path, hidden, _ = answer.value["output"]
        assert (added["output"], hidden["output"]) == ("3", "not set")
        assert path["output"] != "not set"
        assert "server_url" not in answer.value["tools"][0]
        refused = await create(url, input="hi", tools=[tool | {"server_label": "docs", "server_url": remote.url}])
        assert refused.error["param"] == "tools[0].server_url"
    assert remote.headers[-1]["authorization"] == f"Bearer {SECRET}"


async def test_a_process_that_ended_is_started_again(speech: Speech) -> None:
    place = Place(command=(sys.executable, str(HERE / "mcpserver.py")), is_trusted=True)
    assert (await added(speech, place))[0] == "3"
    async with asyncio.timeout(WAIT_S):
        _, error = await speech.call("p", place, "crash", {})
    assert isinstance(error, McpHttpError)
    assert (await added(speech, place))[0] == "3"


async def test_a_process_that_hangs_after_a_call_was_given_up_is_replaced_and_no_other(
    speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(command=(sys.executable, str(HERE / "mcpserver.py")), is_trusted=True)
    first, _ = await speech.call("p", place, "process", {})
    begun = asyncio.Event()

    def called(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.close()
        begun.set()

    async with asyncio.timeout(WAIT_S), await asyncio.start_server(called, "127.0.0.1") as listener:
        port = {"port": listener.sockets[0].getsockname()[1]}
        await given_up(speech.call("p", place, "wait", port), begun)
        second, _ = await speech.call("p", place, "process", {})
        monkeypatch.setattr(mcp_pool, "PROOF_S", 0.1)
        begun.clear()
        await given_up(speech.call("p", place, "block", port), begun)
        third, _ = await speech.call("p", place, "process", {})

    assert first == second
    assert first != third


async def given_up(call: Coroutine[Any, Any, object], begun: asyncio.Event) -> None:
    task = asyncio.create_task(call)
    async with asyncio.timeout(WAIT_S):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_command_that_is_none_fails_its_list(speech: Speech) -> None:
    with pytest.raises(DependencyFailed, match="could not be started"):
        await speech.list("p", Place(command=("/nowhere/at-all",), is_trusted=True))


# -- connections


async def test_a_connection_is_kept_for_its_project_and_login(speech: Speech, remote: Remote) -> None:
    place = Place(url=remote.url)
    for _ in range(3):
        await added(speech, place)
    assert remote.methods.count("server/discover") == 1

    await added(speech, place, project="q")
    await added(speech, structs.replace(place, headers=(("Authorization", "Bearer x"),)))
    assert remote.methods.count("server/discover") == 3


async def test_connections_are_bounded_and_idle_ones_end(fetcher: Fetcher, remote: Remote) -> None:
    speech = Speech(McpSettings(connections_max=1, idle_s=0.01), fetcher, unheeded)
    await added(speech, Place(url=remote.url))
    await added(speech, Place(url=remote.url), project="q")
    pool = speech._pool
    assert [key.project for key in pool._connections] in (["q"], [])
    async with asyncio.timeout(WAIT_S):
        while pool._tasks:
            await asyncio.wait(pool._tasks)
    await added(speech, Place(url=remote.url), project="q")
    assert remote.methods.count("server/discover") == 3
    await speech.close()


@pytest.mark.parametrize("era", ["legacy", "modern", "sse"])
async def test_a_server_that_restarted_is_connected_to_again(speech: Speech, era: str) -> None:
    remote = Remote(era, free_port())
    async with remote.serving():
        place = Place(url=remote.url)
        assert (await added(speech, place))[0] == "3"
        [connection] = speech._pool._connections.values()
    if era == "sse":
        async with asyncio.timeout(WAIT_S):
            await connection.ended.wait()  # else the call might be on its way when the stream is found to have ended
    async with remote.serving():
        assert (await added(speech, place))[0] == "3"

    assert remote.calls == ["add 1 2"] * 2


@pytest.mark.parametrize("era", ["modern", "legacy", "sse", "stdio"])
async def test_a_list_is_asked_for_again_when_its_server_says_that_it_changed(scripted: Settings, era: str) -> None:
    command = (sys.executable, str(HERE / "mcpserver.py")) if era == "stdio" else ()
    async with Remote("modern" if command else era).serving() as remote:
        server = McpServer(label="docs", command=command, url="" if command else remote.url)
        async with serve(with_servers(scripted, server)) as url, asyncio.timeout(WAIT_S):
            first = await offered(url)
            # what changes before the server has heard that we listen, it does not tell
            while "grown" not in (now := await offered(url)):
                await create(url, input="call docs__grow {}", tools=[DOCS])

    assert set(now) - set(first) == {"grown"}
    if not command:
        assert remote.listings() == 2


DOCS = {"type": "mcp", "server_label": "docs", "require_approval": "never"}


async def offered(url: str) -> list[str]:
    """The names of the tools as a new conversation gets them."""
    listing = (await create(url, input="say hi", tools=[DOCS])).value["output"][0]
    return [tool["name"] for tool in listing["tools"]]


async def test_a_list_that_was_asked_for_before_a_change_is_not_kept(fetcher: Fetcher, remote: Remote) -> None:
    tool, place = McpTool(McpSettings(), fetcher), Place(url=remote.url)
    speech = tool._speaking()

    class Changing(Speech):
        async def list(self, project: str, place: Place) -> Any:
            listed = await speech.list(project, place)
            speech._pool._changed(Key(project, place.digest))
            return listed

    tool._speech = Changing(McpSettings(), fetcher, unheeded)
    for count in (1, 2):
        assert await tool._list("p", "docs", place)
        assert remote.listings() == count
    tool._speech = speech
    for _ in range(2):
        assert await tool._list("p", "docs", place)
        assert remote.listings() == 3
    await tool.close()


@pytest.mark.parametrize("is_agreed", [False, True])
async def test_where_no_change_would_be_told_any_more_a_new_connection_gets_a_new_list(
    fetcher: Fetcher, is_agreed: bool
) -> None:
    remote, tool = Remote(port=free_port()), McpTool(McpSettings(), fetcher)
    place = Place(url=remote.url)
    async with asyncio.timeout(WAIT_S):
        async with remote.serving():
            await tool._list("p", "docs", place)
            while not remote.listening._streams:
                await added(tool._speaking(), place)
            await remote.listening._bus.publish(ToolsListChanged())
            while tool._listings:
                await added(tool._speaking(), place)
            for _ in range(2):
                await tool._list("p", "docs", place)
                assert remote.listings() == 2
            [connection] = tool._speaking()._pool._connections.values()
            if is_agreed:
                remote.listening.close()
                await connection.deaf.wait()
        await connection.deaf.wait()
        async with remote.serving():
            await tool._list("p", "docs", place)
        await tool.close()

    assert remote.listings() == 3
    assert remote.methods.count("server/discover") == 2


async def test_a_server_that_lets_nobody_listen_keeps_its_connection(speech: Speech, remote: Remote) -> None:
    remote.answers = {"subscriptions/listen": '"result": {}'}
    place = Place(url=remote.url)
    while "subscriptions/listen" not in remote.methods:
        await added(speech, place)
    for _ in range(5):
        await added(speech, place)

    assert remote.methods.count("server/discover") == 1


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_nothing_is_kept_of_a_list_that_did_not_come(fetcher: Fetcher, remote: Remote, is_given_up: bool) -> None:
    tool = McpTool(McpSettings(listing_s=0.0), fetcher)
    place = Place(url=remote.url)
    await tool._list("p", "docs", place)
    if is_given_up:
        remote.answers = {"tools/list": ""}
        await given_up(tool._list("p", "docs", place), remote.begun)
    else:
        remote.refuses = 503
        with pytest.raises(DependencyFailed):
            await tool._list("p", "docs", place)

    assert not tool._listings
    await tool.close()


async def test_a_call_that_may_have_arrived_is_not_made_again(speech: Speech, remote: Remote) -> None:
    place = Place(url=remote.url)
    await added(speech, place)
    remote.breaks = True
    output, error = await added(speech, place)

    assert output is None
    assert error.code == 502
    assert remote.methods.count("tools/call") == 2


@pytest.mark.parametrize("is_command", [False, True])
@pytest.mark.parametrize("name", ["long", "refuse"])
async def test_an_answer_that_is_too_large_fails_the_call(
    fetcher: Fetcher, remote: Remote, name: str, is_command: bool
) -> None:
    command = (sys.executable, str(HERE / "mcpserver.py"))
    place = Place(command=command, is_trusted=True) if is_command else Place(url=remote.url)
    speech = Speech(McpSettings(answer_bytes_max=50_000), fetcher, unheeded)
    output, error = await speech.call("p", place, name, {"chars": 100_000})
    assert output is None
    assert error == McpHttpError(code=502, message="The answer is larger than 50,000 bytes.")
    assert (await added(speech, place))[0] == "3"
    await speech.close()


# -- addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/mcp",
        "http://localhost/mcp",
        "http://169.254.169.254/mcp",
        "http://[::1]/mcp",
        "http://10.0.0.1/mcp",
    ],
)
async def test_addresses_inside_are_not_reached(scripted: Settings, url: str) -> None:
    async with serve(changed(scripted, fetch={"allow": ()})) as base:
        answer = await create(base, input=ADD, tools=[{"type": "mcp", "server_label": "docs", "server_url": url}])

    assert answer.status == 424
    assert "may not be reached" in answer.error["message"]


async def test_a_name_that_changes_its_address_leads_nowhere_new(remote: Remote) -> None:
    answers = iter([["127.0.0.2"], ["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]])  # two tries to connect, each time
    fetcher = Fetcher(Fetch(allow=(f"127.0.0.2:{remote.port}",)), 3, resolve=lambda _: next(answers))
    speech = Speech(McpSettings(), fetcher, unheeded)
    place = Place(url=f"http://rebind.example:{remote.port}/mcp")
    with pytest.raises(DependencyFailed, match="No connection"):  # allowed, but nobody listens there
        await speech.list("p", place)
    with pytest.raises(DependencyFailed, match="may not be reached"):
        await speech.list("p", place)
    await speech.close()
    await fetcher.close()
    assert not remote.methods


async def test_what_was_judged_is_what_is_connected_to(remote: Remote) -> None:
    answers = iter([["127.0.0.1"]])
    fetcher = Fetcher(Fetch(allow=(f"127.0.0.1:{remote.port}",)), 3, resolve=lambda _: next(answers))
    speech = Speech(McpSettings(), fetcher, unheeded)
    for _ in range(3):
        assert (await added(speech, Place(url=f"http://docs.example:{remote.port}/mcp")))[0] == "3"
    await speech.close()
    await fetcher.close()
    assert {headers["host"] for headers in remote.headers} == {f"docs.example:{remote.port}"}


async def test_a_redirect_to_another_host_is_not_followed(client: openai.AsyncOpenAI, remote: Remote) -> None:
    async with Remote().serving() as other:
        remote.redirects = other.url
        with pytest.raises(openai.APIStatusError) as failed:
            await client.responses.create(model="scripted", input=ADD, tools=[remote.tool(authorization=SECRET)])  # type: ignore[list-item]

    assert failed.value.status_code == 424
    assert not other.methods


# -- secrets


async def test_secrets_are_neither_stored_nor_shown(
    scripted: Settings, remote: Remote, capfd: pytest.CaptureFixture[str]
) -> None:
    path = f"{remote.url}?key={SECRET}"
    tool = remote.tool(authorization=SECRET, headers={"x-key": SECRET}, server_url=path)
    async with serve(scripted) as url:
        answers = [
            await create(url, input=ADD, tools=[tool], **more) for more in ({}, {"store": False}, {"stream": True})
        ]
        queued = await create(url, input=ADD, tools=[tool], background=True)
        response = queued.value
        waiting = await create(url, input="call docs__wait {}", tools=[tool], background=True)
        async with asyncio.timeout(WAIT_S):
            await remote.begun.wait()
            while response["status"] != "completed":
                answers.append(await ask(url, "GET", f"/v1/responses/{response['id']}"))
                response = answers[-1].value
        stored = b"".join(
            path.read_bytes() for path in Path(scripted.storage.database).parent.iterdir() if path.is_file()
        )
        assert (await ask(url, "POST", f"/v1/responses/{waiting.value['id']}/cancel")).status == 200

    assert len(remote.headers) > 5
    assert all(SECRET.encode() not in answer.body for answer in [*answers, queued, waiting])
    assert b'/<redacted>"' in answers[0].body
    assert b"antiphon1." in stored
    assert SECRET.encode() not in stored
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("secret", [{"authorization": SECRET}, {"headers": {"x": SECRET}}])
async def test_items_bring_no_secrets(url: str, remote: Remote, secret: dict[str, Any]) -> None:
    item = {"type": "additional_tools", "role": "developer", "tools": [remote.tool(**secret)]}
    answer = await create(url, input=[item, {"role": "user", "content": ADD}])
    assert answer.error["param"] == f"input[0].tools[0].{next(iter(secret))}"
    answer = await ask(url, "POST", "/v1/conversations", {"items": [item]})
    assert answer.error["param"] == f"items[0].tools[0].{next(iter(secret))}"

    item["tools"] = [remote.tool()]
    answer = await create(url, input=[item, {"role": "user", "content": ADD}])
    assert [one["type"] for one in answer.value["output"]] == ["mcp_list_tools", "mcp_call", "message"]


# -- settings


@pytest.mark.parametrize(
    "servers",
    [
        [McpServer(label="a", url="http://x"), McpServer(label="a", url="http://y")],
        [McpServer(label="a")],
        [McpServer(label="a", url="http://x", command=("y",))],
    ],
)
def test_servers_that_cannot_be_end_the_start(servers: list[McpServer]) -> None:
    with pytest.raises(SettingsError, match=r"tools\.mcp\.servers"):
        Places(McpSettings(servers=tuple(servers)))


@pytest.mark.parametrize("fields", [{"enabled": False}, {"addresses": False}])
async def test_what_is_switched_off_is_refused(scripted: Settings, remote: Remote, fields: dict[str, Any]) -> None:
    async with serve(with_servers(scripted, **fields)) as url:
        answer = await create(url, input="hi", tools=[remote.tool()])

    assert answer.status == 400
    assert "tools.mcp" in answer.error["message"]


def test_a_missing_package_is_named(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    tool = McpTool(McpSettings(), fetcher)

    assert INSTALL in tool.missing(Declaration(server_label="a", server_url="http://x/"))


async def test_the_doctor_lists_what_each_server_offers(scripted: Settings, remote: Remote) -> None:
    servers = McpServer(label="docs", url=remote.url), McpServer(label="own", url=f"{remote.url}?own")
    settings = with_servers(scripted, *servers, connections_max=1)
    [check] = [check for check in await app.doctor(settings) if check.name == "tool mcp"]
    assert (check.ok, check.detail) == (True, "docs: 13 tools, own: 13 tools")
    remote.refuses = 500
    [check] = [check for check in await app.doctor(settings) if check.name == "tool mcp"]
    assert not check.ok
    assert "docs" in check.detail


def test_the_sdk_is_loaded_only_when_a_server_is_used() -> None:
    program = (
        "import sys, antiphon.app, antiphon.tools.mcp; assert not {'mcp', 'pydantic', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=WAIT_S)
