"""Many processes: workers that share a socket, a store and a model; and nodes that have a role."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from antiphon import checks
from antiphon.config import Server, Settings, Storage
from antiphon.errors import SettingsError
from antiphon.listener import Port, listen
from antiphon.models.llama_worker import Ready, Template, WorkerFailed
from antiphon.models.shared import News, SharedEngine
from tests.conftest import WAIT_S
from tests.rawclient import ask, create, events_of, exchange, final, streaming
from tests.servers import Served, on, processes, served, started, stat_of, told_of

TWO = ("--scripted", "--workers", "2")
TRIES_MAX = 300
"""Of connections, until each of two workers has accepted one: as many would miss one with a chance of 2^-300."""


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """What servers must be told to share a database."""
    if request.param == "sqlite":
        return on(str(tmp_path / "test.db"), tmp_path)
    return on(request.getfixturevalue("database"), tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Mapping[str, str]:
    return on(str(tmp_path / "test.db"), tmp_path)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await holds():  # noqa: ASYNC110 -- what it waits for is in another process
            await asyncio.sleep(0.01)


async def made_by(one: Served, worker: int, **fields: Any) -> Any:
    """A response that this worker made."""
    for _ in range(TRIES_MAX):
        response = (await create(one.url, **fields)).value
        if await one.maker(response["id"]) == worker:
            return response
    pytest.fail(f"worker {worker} accepted none of {TRIES_MAX} connections")


async def response_of(url: str, response_id: str) -> Any:
    return (await ask(url, "GET", f"/v1/responses/{response_id}")).value


async def ended(url: str, response_id: str) -> Any:
    async def is_over() -> bool:
        return (await response_of(url, response_id))["status"] not in ("queued", "in_progress")

    await until(is_over)
    return await response_of(url, response_id)


# -- workers


async def test_what_one_worker_made_the_other_goes_on_with(shared: Mapping[str, str]) -> None:
    async with served(*TWO, **shared) as one:
        first = await made_by(one, 1, input="say one")
        second = await made_by(one, 2, input="tell items", previous_response_id=first["id"])
        assert "one" in second["output"][0]["content"][0]["text"]
        assert await response_of(one.url, first["id"]) == first
        one.process.send_signal(signal.SIGTERM)
        assert await one.wait_ended() == 0
        assert not [line for line in one.other if "Traceback" in line]


async def test_a_killed_worker_comes_back_and_requests_go_on(file: Mapping[str, str]) -> None:
    async with served(*TWO, ANTIPHON_LIMITS__BACKGROUND_LEASE_S="1", **file) as one:
        left = [
            (await create(one.url, background=True, input="pace 20 | say a b c d e f g h i j")).value["id"]
            for _ in range(6)
        ]
        victim = (await one.wait_said(event="a worker serves", worker=1))["pid"]
        os.kill(victim, signal.SIGKILL)
        lost = await one.wait_said(event="a worker ended; it is started again", worker=1)
        assert "SIGKILL" in lost["how"]
        while len(one.said(event="a worker serves", worker=1)) < 2:
            assert (await create(one.url)).status == 200
        await made_by(one, 1)
        for response_id in left:
            assert (await ended(one.url, response_id))["status"] == "completed"


async def test_told_to_stop_each_worker_ends_its_streams_and_takes_nothing_new(file: Mapping[str, str]) -> None:
    async with served(*TWO, **file) as one:
        await made_by(one, 1)
        await made_by(one, 2)
        async with streaming(one.url, input="pace 20 | long 200") as stream:
            await stream.head()
            frames = await stream.frames_until("response.output_text.delta")
            one.process.send_signal(signal.SIGTERM)

            async def is_refused() -> bool:
                try:
                    return (await ask(one.url, "GET", "/ready")).status == 503
                except (ConnectionError, asyncio.IncompleteReadError):  # that worker had nothing to end
                    return False

            await until(is_refused)
            whole = final([*frames, *await stream.frames()])
        assert whole["status"] == "completed"
        assert await one.wait_ended() == 0


async def test_workers_are_replaced_one_by_one_and_no_request_fails(file: Mapping[str, str]) -> None:
    async with served(*TWO, **file) as one:
        async with streaming(one.url, input="pace 20 | long 40") as stream:
            await stream.head()
            one.process.send_signal(signal.SIGHUP)
            while not one.said(event="the workers are replaced"):
                assert (await create(one.url)).status == 200
            assert final(await stream.frames())["status"] == "completed"
        pids = {line["pid"] for line in one.said(event="a worker serves")}
        assert len(pids) == 4


async def test_workers_do_not_outlive_their_supervisor(file: Mapping[str, str]) -> None:
    async with served(*TWO, **file) as one:
        one.process.kill()
        assert await one.wait_ended() == -signal.SIGKILL  # standard error is closed: they are gone
        assert len(one.said(event="a worker serves")) == 2


# -- what cannot be served


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--scripted", "--workers", "2", "--database", ":memory:"), 2, "2 workers: processes share a database"),
        (("--scripted", "--role", "api", "--database", ":memory:"), 2, "role api: processes share a database"),
        (("--scripted", "--workers", "2", "--host", "0.0.0.0"), 2, "can be reached from other machines"),
        (("--model", __file__, "--workers", "2"), 2, "cannot run"),
        (("--scripted", "--workers", "0"), 2, "server.workers"),
    ],
)
async def test_what_no_worker_can_serve_ends_the_start(
    file: Mapping[str, str], words: tuple[str, ...], code: int, message: str
) -> None:
    async with started(*words, **file) as one:
        assert await one.wait_ended() == code
        said = [line for line in one.other if line.startswith("antiphon: ")]
        assert len(said) == 1
        assert message in said[0]
        assert not [line for line in one.other if "Traceback" in line]


async def test_a_port_that_is_taken_ends_the_start(file: Mapping[str, str]) -> None:
    async with served(*TWO, **file) as one:
        port = one.url.rpartition(":")[2]
        async with started(*TWO, "--port", port, **file) as other:
            assert await other.wait_ended() == 1
            assert f"127.0.0.1:{port} is in use" in "".join(other.other)


async def test_a_worker_that_dies_at_once_ends_the_start(file: Mapping[str, str], tmp_path: Path) -> None:
    dying = "import os, sys\nif 'antiphon.worker' in sys.orig_argv: os._exit(7)\n"
    (tmp_path / "sitecustomize.py").write_text(dying)
    async with started(*TWO, **file, PYTHONPATH=str(tmp_path)) as one:
        assert await one.wait_ended() == 1
        assert "antiphon: A worker cannot start: it exited with status 7." in "".join(one.other)


def test_where_no_socket_can_be_shared_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(server=Server(workers=2), storage=Storage(database="a.db"))
    checks.refuse_unshared(settings)
    monkeypatch.setattr("os.name", "nt")
    with pytest.raises(SettingsError, match=r"server\.workers"):
        checks.refuse_unshared(settings)


# -- one model for all


def engines_of(one: Served) -> list[int]:
    """The processes of the embedded engine below this server."""
    parents = {pid: int(stat[1]) for pid in processes() if (stat := stat_of(pid))}
    family = {one.process.pid}
    while children := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= children
    return [pid for pid in family if "llama_worker" in told_of(pid, "cmdline")]


async def test_workers_share_one_engine_and_its_successor(file: Mapping[str, str]) -> None:
    asked = {"model": "antiphon-tiny", "input": "Hello!", "max_output_tokens": 4}
    async with served("--workers", "2", **file) as one:
        first = [await made_by(one, worker, **asked) for worker in (1, 2)]
        (engine,) = engines_of(one)
        endless = {"input": "Repeat for ever: " + "ab " * 300, "temperature": 2.0, "max_output_tokens": 7000}
        async with streaming(one.url, model="antiphon-tiny", **endless) as stream:
            await stream.head()
            frames = await stream.frames_until("response.output_text.delta")
            os.kill(engine, signal.SIGKILL)
            failed = final([*frames, *await stream.frames()])
        assert "failed while it answered (it was ended by SIGKILL" in failed["error"]["message"]

        async def is_another() -> bool:
            return engines_of(one) not in ([engine], [])

        await until(is_another)
        second = [await made_by(one, worker, **asked) for worker in (1, 2)]
        assert len(engines_of(one)) == 1
        said = {response["output"][0]["content"][0]["text"] for response in (*first, *second)}
        assert len(said) == 1


def news(**fields: Any) -> News:
    return News(engine=0, **fields)


def runs(pid: int) -> News:
    address = f"http://127.0.0.1:{pid}"
    return news(pid=pid, ready=Ready(address=address, devices=(), threads=1, context_tokens=1, template=Template()))


async def test_an_engine_that_ended_is_waited_for_and_one_that_cannot_run_is_not() -> None:
    engine = SharedEngine(runs(1))
    first = await engine.worker()
    assert await first.ended_within(0) == ""
    engine.hear(news(ended="it crashed"))
    waiting = asyncio.create_task(engine.worker())
    assert await first.ended_within(WAIT_S) == "it crashed"
    assert not waiting.done()
    engine.hear(runs(2))
    assert (await waiting).pid == 2
    engine.hear(news(failure="no memory"))
    with pytest.raises(WorkerFailed, match="no memory"):
        await engine.worker()
    engine.hear(runs(3))
    assert (await engine.worker()).pid == 3
    await engine.close()
    with pytest.raises(WorkerFailed, match="shutting down"):
        await engine.worker()


# -- one port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_shared_by_those_who_are_given_it_alone(host: str) -> None:
    with Port(Server(host=host, port=0)) as port:
        number = int(port.address.removesuffix("/v1").rpartition(":")[2])
        with port.listener() as first, port.listener() as second:
            assert first.getsockname()[:2] == second.getsockname()[:2] == (host, number)
            with pytest.raises(SettingsError, match="in use"):
                listen(Server(host=host, port=number))
            assert checks.fault_of_port(Server(host=host, port=number))
            with socket.create_connection((host, number), timeout=WAIT_S):
                pass


# -- roles


async def test_an_api_node_takes_background_responses_and_a_worker_node_makes_them(shared: Mapping[str, str]) -> None:
    async with served("--scripted", "--role", "api", **shared) as api:
        waiting = (await create(api.url, background=True, input="say done")).value["id"]
        assert (await create(api.url, input="say here")).value["status"] == "completed"
        async with streaming(api.url, background=True, input="pace 5 | say a b c") as stream:
            await stream.head()
            frames = await stream.frames_until("response.queued")
            async with served("--scripted", "--role", "worker", **shared) as worker:
                frames += await stream.frames()
                streamed = final(frames)
                assert (await ended(api.url, waiting))["output"][0]["content"][0]["text"] == "done"
                assert await response_of(api.url, streamed["id"]) == streamed
                for made in (waiting, streamed["id"]):
                    await worker.wait_said(event="response ended", response=made)
                    assert not api.said(event="response ended", response=made)


async def test_an_api_node_resumes_and_cancels_what_a_worker_node_makes(file: Mapping[str, str]) -> None:
    async with served("--scripted", "--role", "api", **file) as api, served("--scripted", "--role", "worker", **file):
        async with streaming(api.url, background=True, input="say a b | stall") as stream:
            await stream.head()
            frames = await stream.frames_until("response.output_text.delta")
        response_id, seen = frames[0].data["response"]["id"], events_of(frames)[-1]["sequence_number"]
        path = f"/v1/responses/{response_id}"
        async with exchange(api.url, "GET", f"{path}?stream=true&starting_after={seen}") as resumed:
            await resumed.head()
            cancelled = (await ask(api.url, "POST", f"{path}/cancel")).value
            rest = await resumed.frames()
        assert cancelled["status"] == "cancelled"
        assert final([*frames, *rest]) == cancelled


async def test_a_worker_node_answers_probes_alone(file: Mapping[str, str]) -> None:
    async with served("--scripted", "--role", "worker", "--host", "0.0.0.0", **file) as worker:
        url = worker.url.replace("0.0.0.0", "127.0.0.1")
        assert (await ask(url, "GET", "/health")).status == 200
        assert (await ask(url, "GET", "/ready")).status == 200
        for refused in (await create(url), await ask(url, "GET", "/v1/models"), await ask(url, "GET", "/openapi.json")):
            assert refused.status == 404
            assert "makes background responses" in refused.error["message"]
