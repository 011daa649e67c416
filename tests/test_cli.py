"""The command line, as its user types it: what it prints, and with which exit code it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from antiphon import __version__, checks, cli, client, origins
from antiphon import welcome as welcome_words
from antiphon.config import Server
from antiphon.core.ports import Check
from antiphon.errors import AntiphonError
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 60
KEY = "sk-live-0123456789abcd12"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Terminal:
    """Runs commands in this process, in a directory and a home of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Ended:
        try:
            code = cli.main(words)
        except SystemExit as exit_:  # argparse's way to end after --help or a wrong word
            code = int(exit_.code or 0)
        return Ended(code, *self._capsys.readouterr())


@pytest.fixture
def antiphon(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for variable in [name for name in os.environ if name.startswith(("ANTIPHON_", "XDG_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Terminal(capsys)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens who never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free() -> int:
    return free_port()


# Words.


def test_version_is_printed(antiphon: Terminal) -> None:
    assert antiphon("--version") == (0, f"antiphon {__version__}\n", "")


@pytest.mark.parametrize(
    "words", [(), ("serve",), ("check",), ("doctor",), ("keys",), ("keys", "create"), ("responses", "create")]
)
def test_every_command_helps(antiphon: Terminal, words: tuple[str, ...]) -> None:
    ended = antiphon(*words, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("usage: antiphon")


@pytest.mark.parametrize("words", [(), ("sreve",), ("serve", "--prot", "1"), ("keys", "create"), ("keys",)])
def test_a_wrong_word_ends_with_2_and_no_traceback(antiphon: Terminal, words: tuple[str, ...]) -> None:
    ended = antiphon(*words)
    assert (ended.code, ended.out) == (2, "")
    assert "usage: antiphon" in ended.err


def test_the_module_is_the_command_and_help_loads_nothing_heavy() -> None:
    code = (
        "import runpy, sys; sys.argv = ['antiphon', '--help']\n"
        "try: runpy.run_module('antiphon', run_name='__main__')\n"
        "finally: print([m for m in ('aiohttp', 'asyncio.base_events', 'starlette', 'rich') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert ended.stdout.startswith("usage: antiphon")
    assert ended.stdout.endswith("[]\n")


def command(*words: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own, in the repository."""
    words = (sys.executable, "-m", "antiphon", *words)
    return subprocess.run(words, cwd=ROOT, timeout=TIMEOUT_S, check=False, stderr=subprocess.PIPE, **streams)


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = command("check", stdout=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_and_1() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = command("check", stdout=full)
    assert (ended.returncode, ended.stderr.decode().count("\n")) == (1, 1)
    assert b"No space left on device" in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_for_which_there_is_no_room_ends_nothing() -> None:
    code = (
        "from antiphon import observe; observe.configure('json')\n"
        "for _ in range(100): observe.log.error('x' * 500)\n"
        "print('on and on')"
    )
    with Path("/dev/full").open("wb") as full:
        words = [sys.executable, "-c", code]
        ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=full, timeout=TIMEOUT_S, check=False)
    assert ended.stdout == b"on and on\n"


# serve, up to the server itself.


def test_flags_become_settings(antiphon: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", KEY)
    monkeypatch.setenv("B", "key-b")
    words = "--host :: --port 0 --open-without-keys --strict --log-level debug --log-format json --database x.db"
    words += " --workers 2 --role api"
    models = "--model m.gguf --upstream http://a/v1 --upstream http://b/v1 --upstream-key-env A --upstream-key-env B"
    shown = json.loads(antiphon("check", "--json", *words.split(), *models.split(), "--scripted").out)
    assert shown["server"] == {
        "host": "::",
        "port": 0,
        "open_without_keys": True,
        "strict": True,
        "secret": "",
        "secret_env": "",
        "workers": 2,
        "role": "api",
        "log_level": "debug",
        "log_format": "json",
    }
    assert shown["storage"]["database"] == "x.db"
    assert [model["kind"] for model in shown["models"]] == ["local", "chat", "chat", "scripted"]
    assert [model.get("url") or model.get("path") for model in shown["models"][:3]] == [
        "m.gguf",
        "http://a/v1",
        "http://b/v1",
    ]
    assert [model["key"] for model in shown["models"][1:3]] == ["sk-…cd12", "***"]
    assert shown["tools"]["scripted"]["enabled"]


def test_one_key_serves_all_upstreams(antiphon: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", KEY)
    words = "check --json --upstream http://a/v1 --upstream http://b/v1 --upstream-key-env A"
    assert [model["key"] for model in json.loads(antiphon(*words.split()).out)["models"]] == ["sk-…cd12"] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--upstream-key-env A", "1 --upstream-key-env for 0 --upstream"),
        (
            "--upstream http://a --upstream http://b --upstream http://c --upstream-key-env A --upstream-key-env B",
            "2 --upstream-key-env for 3 --upstream: give one, or one for each",
        ),
        ("--upstream http://a --upstream-key-env NOT_SET", "the environment variable NOT_SET is not set"),
        ("--upstream localhost:8080", "the command line: models[0].url: expected an address"),
        ("--config nowhere.toml", "nowhere.toml: the settings file cannot be read"),
    ],
)
def test_wrong_settings_are_one_line_and_2(antiphon: Terminal, words: str, message: str) -> None:
    ended = antiphon("serve", *words.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("antiphon: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_an_open_address_without_keys_is_refused_with_2(antiphon: Terminal) -> None:
    ended = antiphon("serve", "--scripted", "--host", "0.0.0.0", "--port", "0")
    assert ended.code == 2
    assert "antiphon keys create" in ended.err.splitlines()[-1]


def test_a_port_in_use_is_one_line_and_1(antiphon: Terminal, taken: int) -> None:
    ended = antiphon("serve", "--port", str(taken))
    assert ended.code == 1
    assert ended.err == (
        f"antiphon: 127.0.0.1:{taken} is in use; stop what listens there, or choose another with --port\n"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])  # RFC 5737 and RFC 6761: never ours
def test_an_address_that_is_not_ours_is_one_line_and_1(antiphon: Terminal, host: str) -> None:
    ended = antiphon("serve", "--host", host, "--port", "8000")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert host in ended.err


def test_the_start_names_address_models_database_and_a_line_to_try() -> None:
    text = welcome(storage__database="a.db")
    parts = (
        "http://127.0.0.1:8000/v1",
        "console   http://127.0.0.1:8000/\n",
        "antiphon-tiny",
        "a.db",
        "demonstration",
        "curl http://127.0.0.1:8000/v1/responses",
    )
    assert [part for part in parts if part not in text] == []


def welcome(*, needs_key: bool = False, **flags: object) -> str:
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return "\n".join(welcome_words.lines(origins.load(None, {}, dotted), needs_key=needs_key))


def test_the_start_shows_no_secret_and_a_line_that_fits_the_models() -> None:
    chat = {"kind": "chat", "url": "https://user:pw@api.example/v1", "key": KEY}
    text = welcome(models=[chat, {"kind": "local", "path": "x.gguf"}])
    assert "all of https://***@api.example/v1, x.gguf" in text
    assert "curl http://127.0.0.1:8000/v1/models" in text
    assert "demonstration" not in text
    assert '"model":"a"' in welcome(models=[chat | {"models": ["a", "b"]}])
    assert '"model":"q"' in welcome(models=[{"kind": "local", "path": "x.gguf", "name": "q"}])
    assert '"model":"scripted"' in welcome(models=[{"kind": "scripted"}])
    assert "ANTIPHON_API_KEY" not in text
    assert "$ANTIPHON_API_KEY" in welcome(needs_key=True)


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:1/v1"), ("::", "http://[::1]:1/v1"), ("10.0.0.1", "http://10.0.0.1:1/v1")],
)
def test_an_address_for_all_is_shown_as_one_that_a_client_can_use(host: str, url: str) -> None:
    assert checks.base_url(Server(host=host, port=1)) == url


# check


def test_check_prints_the_effective_settings_as_a_settings_file_without_secrets(
    antiphon: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("antiphon.toml").write_text("[limits]\nturns_max = 5\n")
    monkeypatch.setenv("UP", KEY)
    ended = antiphon("check", "--upstream", "http://a/v1", "--upstream-key-env", "UP")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("# settings file: antiphon.toml\n")
    assert KEY not in ended.out
    shown = tomllib.loads(ended.out)
    assert (shown["limits"]["turns_max"], shown["models"][0]["key"]) == (5, "sk-…cd12")


def test_check_speaks_json_too(antiphon: Terminal) -> None:
    shown = json.loads(antiphon("check", "--json", "--port", "9").out)
    assert shown["server"]["port"] == 9


def test_check_ends_with_2_on_a_mistake_and_names_the_nearest(antiphon: Terminal) -> None:
    Path("antiphon.toml").write_text("[limits]\nturn_max = 5\n")
    ended = antiphon("check")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == ("antiphon: antiphon.toml: limits.turn_max is not a setting; did you mean limits.turns_max?\n")


# doctor


def test_doctor_ends_with_0_when_all_is_well(antiphon: Terminal, free: int) -> None:
    ended = antiphon("doctor", "--scripted", "--port", str(free))
    assert (ended.code, ended.err) == (0, "")
    assert "FAIL" not in ended.out
    assert f"{free} is free" in ended.out
    assert ended.out.endswith("All is well.\n")


def test_doctor_ends_with_1_and_says_what_to_do(antiphon: Terminal, free: int) -> None:
    ended = antiphon("doctor", "--port", "0", "--upstream", f"http://127.0.0.1:{free}/v1")
    assert ended.code == 1
    fault, remedy = next(pair for pair in pairwise(ended.out.splitlines()) if pair[0].startswith("FAIL"))
    assert f"127.0.0.1:{free}" in fault
    assert remedy.strip().startswith("-> ")
    assert "need attention." in ended.out


def test_doctor_goes_on_when_the_database_cannot_be_opened(antiphon: Terminal) -> None:
    Path("x.db").write_text("This is no database, and long enough to be sure of that. " * 100)
    ended = antiphon("doctor", "--scripted", "--port", "0", "--database", "x.db")
    assert ended.code == 1
    assert "ok    python" in ended.out
    assert "x.db" in next(line for line in ended.out.splitlines() if line.startswith("FAIL"))


def test_doctor_takes_a_server_that_is_up_for_a_good_sign(antiphon: Terminal, canned: "Canned") -> None:
    canned.answers["GET /health"] = b"{}"
    ended = antiphon("doctor", "--scripted", "--port", str(canned.port))
    assert ended.code == 0
    assert f"a server is up at http://127.0.0.1:{canned.port}/v1" in ended.out
    canned.answers["GET /health"] = (404, b"")
    ended = antiphon("doctor", "--scripted", "--port", str(canned.port))
    assert ended.code == 1
    assert f"127.0.0.1:{canned.port} is in use" in ended.out


def test_the_database_may_lie_in_a_directory_yet_to_be_made_but_not_where_one_may_not_write(tmp_path: Path) -> None:
    def found(database: str) -> Check:
        settings = origins.load(None, {}, {"storage.database": database, "models": [{"kind": "scripted"}]})
        return next(check for check in checks.around(settings) if check.name == "disk")

    assert found(str(tmp_path / "a" / "b" / "x.db")).ok
    assert found(":memory:").ok
    names = [check.name for check in checks.around(origins.load(None, {}))]
    assert names == ["python", "disk", "port", "libgomp"]
    if Path("/proc").is_dir():  # of all directories the one that not even root may write to
        assert not found("/proc/x.db").ok


# keys, on a real database.


def test_a_key_is_shown_once_listed_by_its_hint_and_revoked(antiphon: Terminal) -> None:
    created = antiphon("keys", "create", "--project", "shop", "--name", "laptop", "--database", "k.db")
    key = created.out.strip()
    assert created.code == 0
    listed = antiphon("keys", "list", "--database", "k.db")
    key_id = listed.out.splitlines()[1].split()[0]
    assert "shop  " in listed.out
    assert "laptop" in listed.out
    assert key not in listed.out
    assert antiphon("keys", "revoke", key_id, "--database", "k.db") == (0, f"{key_id} is revoked\n", "")
    again = antiphon("keys", "revoke", key_id, "--database", "k.db")
    assert (again.code, again.out) == (1, "")
    assert len(antiphon("keys", "list", "--database", "k.db").out.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--project", "a b"), "'a b' is no name for a project"),
        (("--project", "a", "--database", ":memory:"), "give --database FILE"),
    ],
)
def test_a_key_that_cannot_be_kept_is_refused(antiphon: Terminal, words: tuple[str, ...], message: str) -> None:
    ended = antiphon("keys", "create", *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


# responses create, against canned answers.


class Canned(ThreadingHTTPServer):
    """Answers each "METHOD /path" with what it was given, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CannedAnswer)
        self.answers: dict[str, bytes | tuple[int, bytes]] = {"GET /v1/models": b'{"data":[{"id":"m"}]}'}
        self.asked: list[tuple[str, str | None, bytes]] = []
        self.is_asked, self.hold = threading.Event(), threading.Event()
        self.hold.set()
        self.promised_bytes: int | None = None
        self.port: int = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def handle_error(self, *_: object) -> None:
        """The client left: some tests are about that."""


class CannedAnswer(BaseHTTPRequestHandler):
    server: Canned
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes) -> None:
        self.server.asked.append((f"{self.command} {self.path}", self.headers["authorization"], body))
        self.server.is_asked.set()
        self.server.hold.wait(TIMEOUT_S)
        given = self.server.answers[f"{self.command} {self.path}"]
        status, data = given if isinstance(given, tuple) else (200, given)
        self.send_response(status)
        if self.server.promised_bytes:
            self.send_header("content-length", str(self.server.promised_bytes))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def canned() -> Iterator[Canned]:
    with Canned() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(TIMEOUT_S)


def response(**changes: object) -> dict[str, object]:
    usage = {"input_tokens": 3, "output_tokens": 4}
    return {"id": "resp_1", "status": "completed", "model": "m", "output": [], "usage": usage} | changes


def frames(*events: dict[str, object], end: bytes = b"data: [DONE]\n\n") -> bytes:
    lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    return b": keep-alive\n\n" + b"".join(lines) + end


CALL: dict[str, object] = {"type": "function_call", "name": "get_weather", "arguments": '{"city":"Paris"}'}
ENDED: dict[str, object] = {"type": "response.completed", "response": response()}
STREAM = frames(
    {"type": "response.reasoning_text.delta", "delta": "Hm."},
    {"type": "response.content_part.done"},
    {"type": "response.output_item.done", "item": {"type": "reasoning"}},
    {"type": "response.output_text.delta", "delta": "Hel"},
    {"type": "response.output_text.delta", "delta": "lo\x1b[31m"},
    {"type": "response.output_item.done", "item": {"type": "message"}},
    {"type": "response.output_item.done", "item": CALL},
    {"type": "response.output_item.done", "item": {"type": "antiphon:scripted_call"}},
    ENDED,
)
SHOWN_TEXT = 'Hello[31m\nget_weather({"city":"Paris"})\n'
SHOWN_BESIDE = "Hm.\n[antiphon:scripted_call]\nresp_1 completed, 3 tokens in, 4 out\n"


def test_a_stream_is_shown_as_it_comes_and_cannot_steer_the_terminal(antiphon: Terminal, canned: Canned) -> None:
    canned.answers["POST /v1/responses"] = STREAM
    ended = antiphon("responses", "create", "Hello!", "--url", canned.url)
    assert ended == (0, SHOWN_TEXT, SHOWN_BESIDE)
    assert json.loads(canned.asked[-1][2]) == {"model": "m", "input": "Hello!", "stream": True}


def test_a_whole_response_is_shown_the_same(antiphon: Terminal, canned: Canned) -> None:
    output = [
        {"type": "reasoning", "summary": [], "content": [{"text": "Hm."}]},
        {"type": "message", "content": [{"text": "Hello\x1b[31m"}]},
        CALL,
        {"type": "antiphon:scripted_call"},
    ]
    canned.answers["POST /v1/responses"] = json.dumps(response(output=output)).encode()
    assert antiphon("responses", "create", "Hello!", "--url", canned.url, "--no-stream") == (
        0,
        SHOWN_TEXT,
        SHOWN_BESIDE,
    )
    assert "stream" not in json.loads(canned.asked[-1][2])


def test_flags_of_create_reach_the_server(antiphon: Terminal, canned: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", KEY)
    canned.answers["POST /v1/responses"] = STREAM
    canned.answers["GET /v1/responses/resp_0"] = json.dumps(response(model="parents")).encode()
    words = ["responses", "create", "x", "--url", f"{canned.url}/", "--previous", "resp_0", "--instructions", "Rhyme."]
    assert antiphon(*words, "--key-env", "MINE").code == 0
    asked = {
        "model": "parents",
        "input": "x",
        "instructions": "Rhyme.",
        "previous_response_id": "resp_0",
        "stream": True,
    }
    assert json.loads(canned.asked[-1][2]) == asked
    assert {key for _, key, _ in canned.asked} == {f"Bearer {KEY}"}
    assert antiphon(*words, "--model", "other").code == 0
    assert json.loads(canned.asked[-1][2])["model"] == "other"


def test_input_comes_from_stdin_for_a_dash(canned: Canned) -> None:
    canned.answers["POST /v1/responses"] = STREAM
    words = ("responses", "create", "-", "--url", canned.url)
    ended = command(*words, input=b"from a pipe \xff\n", stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stdout.decode()) == (0, SHOWN_TEXT)
    assert json.loads(canned.asked[-1][2])["input"] == "from a pipe \N{REPLACEMENT CHARACTER}\n"


def test_json_shows_the_events_or_the_response_as_they_came(antiphon: Terminal, canned: Canned) -> None:
    canned.answers["POST /v1/responses"] = STREAM
    lines = antiphon("responses", "create", "x", "--url", canned.url, "--json").out.splitlines()
    assert (len(lines), json.loads(lines[-1])) == (9, ENDED)
    canned.answers["POST /v1/responses"] = json.dumps(response(status="incomplete")).encode()
    ended = antiphon("responses", "create", "x", "--url", canned.url, "--json", "--no-stream")
    assert (ended.code, json.loads(ended.out)) == (1, response(status="incomplete"))


ERROR = json.dumps({"error": {"message": "No such \x1bmodel.", "type": "t", "param": None, "code": None}}).encode()
FAILED = response(status="failed", error={"code": "server_error", "message": "It broke."})
CUT = response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})


@pytest.mark.parametrize(
    ("answer", "last_line"),
    [
        ((404, ERROR), "antiphon: 404: No such model."),
        ((502, b"<html>"), "antiphon: 502: Bad Gateway"),
        (b"<html>", "antiphon: the stream stopped before the response ended"),
        (frames({"type": "response.output_text.delta", "delta": "x"}, end=b""), "antiphon: the stream stopped"),
        (b"data: {]\n\n", "does not speak the Responses API"),
        (frames({"type": "response.failed", "response": FAILED}), "antiphon: resp_1 failed: It broke."),
        (frames({"type": "error", "message": "Too late."}), "antiphon: Too late."),
        (frames({"type": "response.incomplete", "response": CUT}), "resp_1 incomplete (max_output_tokens), 3 tokens"),
    ],
)
def test_a_failure_is_one_clear_line_and_1(
    antiphon: Terminal, canned: Canned, answer: bytes | tuple[int, bytes], last_line: str
) -> None:
    canned.answers["POST /v1/responses"] = answer
    ended = antiphon("responses", "create", "x", "--url", canned.url)
    assert ended.code == 1
    assert last_line in ended.err.splitlines()[-1]


def test_a_server_that_falls_silent_or_breaks_off_is_named(canned: Canned) -> None:
    canned.answers["POST /v1/responses"] = frames(ENDED)
    canned.hold.clear()
    server = client.Server(canned.url, None, silence_timeout_s=0.1)
    with pytest.raises(AntiphonError, match=r"was silent for 0\.1 s"), server.call("GET", "/models"):
        pass
    canned.hold.set()
    canned.promised_bytes = 1000
    server = client.Server(canned.url, None, silence_timeout_s=TIMEOUT_S)
    with pytest.raises(AntiphonError, match="broke the connection"), server.call("GET", "/models") as answer:
        answer.read()


def test_a_server_without_models_cannot_be_asked(antiphon: Terminal, canned: Canned) -> None:
    canned.answers["GET /v1/models"] = b'{"data":[]}'
    ended = antiphon("responses", "create", "x", "--url", canned.url)
    assert (ended.code, ended.err) == (1, "antiphon: the server lists no model\n")


def test_where_no_server_answers_it_says_how_to_start_one(antiphon: Terminal, free: int) -> None:
    ended = antiphon("responses", "create", "x", "--url", f"http://127.0.0.1:{free}/v1")
    assert ended.code == 1
    assert "Connection refused" in ended.err
    assert "start one: antiphon serve" in ended.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--url", "localhost:8000"), 1, "'localhost:8000' is no address such as http://127.0.0.1:8000/v1"),
        (("--key-env", "NOT_SET"), 2, "the environment variable NOT_SET is not set"),
    ],
)
def test_a_wrong_address_or_key_is_one_line(
    antiphon: Terminal, words: tuple[str, ...], code: int, message: str
) -> None:
    ended = antiphon("responses", "create", "x", *words)
    assert (ended.code, ended.err.count("\n")) == (code, 1)
    assert message in ended.err


def test_ctrl_c_is_quiet(canned: Canned) -> None:
    canned.answers["GET /v1/models"] = b""  # held back until the client has gone
    canned.hold.clear()
    words = [sys.executable, "-m", "antiphon", "responses", "create", "x", "--url", canned.url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
        assert canned.is_asked.wait(TIMEOUT_S)
        asking.send_signal(signal.SIGINT)
        out, err = asking.communicate(timeout=TIMEOUT_S)
    canned.hold.set()
    assert (asking.returncode, out, err) == (130, "", "")


# The whole way, in processes of their own.


def address_in(server: subprocess.Popen[str]) -> str:
    """Waits for the log line that says where it serves; a server that ends instead ends the wait."""
    lines: list[str] = []
    assert server.stderr
    for line in server.stderr:
        lines.append(line)
        if line.startswith("{") and (address := json.loads(line).get("address")):
            return str(address)
    pytest.fail("".join(lines))


def test_a_served_model_is_asked_from_the_terminal_and_remembers(antiphon: Terminal, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "antiphon", "serve", "--scripted", "--port", "0", "--log-format", "json"]
    words += ["--database", str(tmp_path / "a.db")]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = address_in(server)
            first = antiphon("responses", "create", "Hello!", "--url", url)
            assert first.code == 0, first.err
            response_id = first.err.splitlines()[-1].split()[0]
            assert antiphon("responses", "create", "Again!", "--url", url, "--previous", response_id).code == 0
            server.send_signal(signal.SIGINT)
            assert server.wait(TIMEOUT_S) in (0, 130)
        finally:
            server.kill()
