"""Three nodes on one PostgreSQL, each a process, as clients of the official SDK see them come and go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import httpx2
import openai
import pytest
import pytest_asyncio

from antiphon.core.fold import fold
from tests.chaos import FAILING
from tests.chaosnodes import PostgresDatabase, Server, in_flight, until
from tests.conftest import WAIT_S
from tests.postgres import Cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOL: Any = {"type": "antiphon:scripted"}
THOUGHTS = " ".join("abcdefghijklmnopqrstuvwxyz")
SCRIPT = f'pace 40 | think {THOUGHTS} | call scripted {{"text":"wait 20"}} => pace 10 | think a b | say all is well'
ENDLESS = f"pace 40 | think {THOUGHTS * 99}"
TERMINAL = ("response.completed", "response.incomplete", "response.failed")
GONE = (openai.APIConnectionError, openai.APIStatusError, httpx2.TransportError)
"""What is met at a node that dies, stops, or is not there yet."""


class Nodes:
    """One that only answers, one that only makes background responses, and one that does all."""

    def __init__(self, database: PostgresDatabase, servers: Sequence[Server], sdks: Sequence[openai.AsyncOpenAI]):
        self.database = database
        self.servers = servers
        self.api, self.worker, self.all = servers
        self.sdks = sdks
        """Of those that answer."""

    async def is_busy(self, *servers: Server) -> bool:
        """Whether each of them makes something."""
        owners = [owner for (owner,) in await self.database.rows("SELECT owner FROM runs WHERE is_over = 0")]
        return all(any(owner.endswith(f"_{server.pid}") for owner in owners) for server in servers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    database = PostgresDatabase(cluster.make("nodes"), folder, cluster)
    database.environment["ANTIPHON_LIMITS__BACKGROUND_RUNS_MAX"] = "3"  # so that one alone cannot make them all
    servers = [Server(database, folder, role) for role in ("api", "worker", "all")]
    async with AsyncExitStack() as stack:
        for server in servers:
            server.flags = ("--role", server.name)
            stack.push_async_callback(server.kill)
        await asyncio.gather(*(server.start() for server in servers))
        sdks = [
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=WAIT_S)
            for server in (servers[0], servers[2])
        ]
        yield Nodes(database, servers, [await stack.enter_async_context(sdk) for sdk in sdks])


class Reader:
    """Of one response, at whatever node."""

    def __init__(self, nodes: Nodes, at: int) -> None:
        self._nodes = nodes
        self._at = at
        self.events: list[Any] = []
        self.seen_at: list[int] = []
        """At which node each of them."""

    @property
    def id(self) -> str:
        response_id: str = self.events[0].response.id
        return response_id

    async def read(self, script: str) -> None:
        """Asks for it at one node, leaves, and goes on at the next, and wherever there is one, until the end."""
        async with asyncio.timeout(WAIT_S):
            while not self.events or self.events[-1].type not in TERMINAL:
                try:
                    await (self._go_on() if self.events else self._begin(script))
                except GONE:
                    await asyncio.sleep(0.05)
                self._at = (self._at + 1) % len(self._nodes.sdks)

    async def has_begun(self) -> bool:
        return bool(self.events)

    async def _begin(self, script: str) -> None:
        sdk = self._nodes.sdks[self._at]
        async with await sdk.responses.create(
            model="scripted", input=script, tools=[TOOL], background=True, stream=True
        ) as stream:
            async for event in stream:
                self._see(event)
                if event.type == "response.queued":
                    break

    async def _go_on(self) -> None:
        after = self.events[-1].sequence_number
        sdk = self._nodes.sdks[self._at]
        async for event in await sdk.responses.retrieve(self.id, stream=True, starting_after=after):
            self._see(event)

    def _see(self, event: Any) -> None:
        self.events.append(event)
        self.seen_at.append(self._at)

    def final(self) -> Any:
        """What it saw, all in all; raises where that breaks a law of streams."""
        return fold([event.to_dict(warnings=False) for event in self.events])


async def happens(is_so: Callable[[], Awaitable[bool]]) -> None:
    await asyncio.wait_for(until(is_so), WAIT_S)


def outcome(response: Any) -> str:
    """What it says, or why it says nothing."""
    if response["status"] == "failed":
        message: str = response["error"]["message"]
        return next(reason for reason in FAILING if reason in message)
    (said,) = (item["content"][0]["text"] for item in response["output"] if item["type"] == "message")
    return str(said)


async def test_a_cancel_at_any_node_ends_what_another_makes(nodes: Nodes) -> None:
    readers = [Reader(nodes, at) for at in (0, 1)]
    async with asyncio.TaskGroup() as reading:
        for reader in readers:
            reading.create_task(reader.read(ENDLESS))
        for sdk, reader in zip(nodes.sdks[::-1], readers, strict=True):
            await happens(reader.has_begun)
            assert (await sdk.responses.cancel(reader.id)).status == "cancelled"

    async def all_are_idle() -> bool:
        return not await nodes.is_busy(nodes.worker) and not await nodes.is_busy(nodes.all)

    await happens(all_are_idle)
    assert [reader.final()["status"] for reader in readers] == ["cancelled"] * 2


async def test_streams_go_on_while_one_node_of_each_role_dies_and_one_is_upgraded(nodes: Nodes) -> None:
    """The upgrade is one of settings here: it is told to stop, and started anew."""
    readers: list[Reader] = []
    is_over = asyncio.Event()

    async def client(number: int) -> None:
        while not is_over.is_set():
            readers.append(reader := Reader(nodes, number % len(nodes.sdks)))
            await reader.read(SCRIPT)

    async with asyncio.TaskGroup() as clients:
        for number in range(6):
            clients.create_task(client(number))
        await happens(partial(nodes.is_busy, nodes.worker, nodes.all))
        await asyncio.gather(nodes.api.kill(), nodes.worker.kill())
        orphans = await in_flight(nodes.database, nodes.worker.pid)
        await asyncio.gather(nodes.api.start(), nodes.worker.start())
        await happens(partial(nodes.is_busy, nodes.all))
        await nodes.all.stop()
        nodes.all.flags += ("--strict",)
        await nodes.all.start()
        is_over.set()

    outcomes = [outcome(reader.final()) for reader in readers]
    assert orphans
    assert set(outcomes) <= {"all is well", *FAILING}
    assert outcomes.count("all is well") > len(readers) / 2
    assert any(len(set(reader.seen_at)) > 1 for reader in readers)
    assert max(sum(server.tool_runs[reader.id] for server in nodes.servers) for reader in readers) == 1
