"""Codex, the command line agent, against the scripted model: it works in a repository, by tools of every kind."""

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest

from antiphon.config import ScriptedModel, Settings, Storage, Tools, WebSearch
from antiphon.core.citations import mark
from antiphon.core.compaction import HEAD
from tests.clients.conftest import KNOWN_MODEL, MODEL
from tests.clients.programs import IN_CI, MODULES, needs_modules, ran
from tests.conftest import serve

Object: TypeAlias = dict[str, Any]

SETTINGS = """
model = "{model}"
model_provider = "antiphon"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
plugins = false # else it asks for a list of them

[model_providers.antiphon]
name = "antiphon"
base_url = "{url}"
env_key = "ANTIPHON_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""
NOWHERE = "http://127.0.0.1:9"
"""What it would ask of others, beside the server of this test, goes here."""
PATCH = "*** Begin Patch\n*** Add File: patched.txt\n+by a patch\n*** End Patch\n"
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
"""One dot, as PNG."""
LOOK = 'call exec_command {"cmd": "echo by a shell > shelled.txt; cat shelled.txt"}'

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    needs_modules,
    pytest.mark.skipif(not (IN_CI or shutil.which("git")), reason="Codex works in a git repository"),
]


class Told(NamedTuple):
    """What Codex tells of its work, one event a line."""

    code: int
    events: list[Object]

    def items(self, kind: str) -> list[Object]:
        done = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item for item in done if item["type"] == kind]

    @property
    def messages(self) -> list[str]:
        return [item["text"] for item in self.items("agent_message")]


class Codex:
    """Codex with a home and a repository of its own."""

    def __init__(self, url: str, place: Path) -> None:
        self.repository = place / "repository"
        self._home = place / "home"
        self._url = url
        self.repository.mkdir()
        self._home.mkdir()
        subprocess.run([str(shutil.which("git")), "init", "--quiet", self.repository], check=True, timeout=20)

    async def work(self, *arguments: str, model: str = MODEL) -> Told:
        settings = self._home / "config.toml"
        settings.write_text(SETTINGS.format(model=model, url=self._url), encoding="utf-8")
        git = str(Path(str(shutil.which("git"))).parent)
        environment = {"PATH": f"{git}:/usr/bin:/bin", "HOME": str(self._home), "CODEX_HOME": str(self._home)}
        environment |= {"ANTIPHON_KEY": "none", "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1"}
        program = MODULES / "@openai/codex/bin/codex.js"
        ended = await ran(program, "exec", "--json", *arguments, cwd=self.repository, environment=environment)
        return Told(ended.code, [json.loads(line) for line in ended.said.splitlines()])


@pytest.fixture
def codex(url: str, tmp_path: Path) -> Codex:
    return Codex(url, tmp_path)


def shelled_and_patched(codex: Codex, told: Told) -> None:
    """Both files are there, and both steps were told."""
    assert (codex.repository / "shelled.txt").read_text() == "by a shell\n"
    assert (codex.repository / "patched.txt").read_text() == "by a patch\n"
    [command] = told.items("command_execution")
    assert (command["exit_code"], command["aggregated_output"]) == (0, "by a shell\n")
    [patched] = told.items("file_change")
    assert patched["status"] == "completed"
    assert [(change["kind"], Path(change["path"]).name) for change in patched["changes"]] == [("add", "patched.txt")]
    assert told.messages == ["let me look", "all done"]


async def test_a_task_is_done_by_functions(codex: Codex) -> None:
    patch = json.dumps({"cmd": f"apply_patch <<'END'\n{PATCH}END\n"})

    told = await codex.work("--", f"say let me look | {LOOK} => call exec_command {patch} => say all done")

    assert told.code == 0
    shelled_and_patched(codex, told)
    assert told.events[-1]["type"] == "turn.completed"
    assert told.events[-1]["usage"]["output_tokens"] > 0


async def test_a_task_is_done_by_a_custom_tool_with_a_grammar(codex: Codex) -> None:
    script = f"think hm | say let me look | {LOOK} => call apply_patch {json.dumps({'input': PATCH})} => say all done"

    told = await codex.work("--", script, model=KNOWN_MODEL)

    assert told.code == 0
    shelled_and_patched(codex, told)


async def test_a_tool_search_is_answered(codex: Codex) -> None:
    told = await codex.work("--", f'call tool_search {{"query": "calendar"}} => {LOOK} => say found', model=KNOWN_MODEL)

    assert (told.code, told.messages) == (0, ["found"])
    assert len(told.items("command_execution")) == 1


async def test_a_tool_in_a_namespace_is_found_by_its_names(codex: Codex) -> None:
    told = await codex.work("--", 'call multi_agent_v1__spawn_agent {"message": "say I am another"}')

    assert told.code == 0
    [spawned] = told.items("collab_tool_call")
    assert (spawned["tool"], spawned["prompt"], spawned["status"]) == ("spawn_agent", "say I am another", "completed")
    assert told.messages[0].startswith('got: {"agent_id":')  # a notification may follow: the other may be done by then


async def test_a_picture_comes_back_from_a_call(codex: Codex) -> None:
    (codex.repository / "dot.png").write_bytes(base64.b64decode(PICTURE))

    told = await codex.work("--", 'call view_image {"path": "dot.png"}')

    assert (told.code, told.messages) == (0, ["got: [image]"])


async def test_a_thought_is_shown(codex: Codex) -> None:
    told = await codex.work("--", "think let me see | say hi")

    assert [item["text"] for item in told.items("reasoning")] == ["let me see"]
    assert told.messages == ["hi"]


async def test_a_session_is_taken_up_again(codex: Codex) -> None:
    first = await codex.work("--", f"think hm | say one | {LOOK} => say two")
    second = await codex.work("resume", "--last", "--", f"{LOOK} => say three")

    assert (first.code, second.code) == (0, 0)
    assert first.events[0]["thread_id"] == second.events[0]["thread_id"]
    assert second.messages == ["three"]
    assert second.events[-1]["usage"]["input_tokens"] > first.events[-1]["usage"]["input_tokens"]


async def test_the_usage_tells_it_when_to_compact(codex: Codex) -> None:
    """The scripted model echoes the request for a summary, which is then the summary, and the user's last word."""
    told = await codex.work("-c", "model_auto_compact_token_limit=3000", "--", f"say one | {LOOK} => say two")

    assert told.code == 0
    assert told.messages[0] == "one"
    assert "CONTEXT CHECKPOINT COMPACTION" in told.messages[-1]


async def test_it_compacts_by_the_api_where_it_takes_the_server_for_the_original(codex: Codex) -> None:
    """It sends a compaction_trigger then, and the compaction back. The scripted model's summary begins with "Summary:",
    and is the last thing that it is told."""
    told = await codex.work(
        *("-c", "model_auto_compact_token_limit=3000", "-c", 'model_providers.antiphon.name="OpenAI"'),
        *("--", f"say one | {LOOK} => say two"),
    )

    assert told.code == 0
    assert told.messages[0] == "one"
    assert HEAD in told.messages[-1]
    assert "Summary:" in told.messages[-1]


async def test_it_searches_the_web(tmp_path: Path) -> None:
    """Codex offers it by itself."""
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "rate.md").write_text("# The Rate\nThe rate is 3.5 %.", "utf-8")
    index = WebSearch(backend="local", folder=str(folder), url="https://bank.example")
    settings = Settings(
        models=(ScriptedModel(name=MODEL),),
        storage=Storage(database=":memory:"),
        tools=Tools(web_search=index),
    )
    found = mark(hashlib.sha256(b"https://bank.example/rate.md").digest())
    async with serve(settings) as url:
        script = f'call web_search {{"query": "rate"}} => say it is 3.5 %【{found}】 | {LOOK} => say all done'
        told = await Codex(url, tmp_path).work("--", script)

    assert told.code == 0
    [search] = told.items("web_search")
    assert search["query"] == "rate"
    assert told.messages == ["it is 3.5 % ([bank.example](https://bank.example/rate.md))", "all done"]
    assert len(told.items("command_execution")) == 1


async def test_an_unknown_model_is_an_error(codex: Codex) -> None:
    told = await codex.work("--", "hello", model="gpt-99")

    assert told.code == 1
    assert told.events[-1]["type"] == "turn.failed"
    assert "gpt-99" in told.events[-1]["error"]["message"]


async def test_a_model_that_fails_under_way_is_an_error(codex: Codex) -> None:
    told = await codex.work("--", "say half, | fail on purpose")

    assert told.code == 1
    assert "on purpose" in told.events[-1]["error"]["message"]
