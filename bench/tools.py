"""What a hosted tool costs: an MCP call pooled and not, a list cached and not, one more turn. Prints medians, in
milliseconds: of the clock, and of CPU.

python -m bench.tools [ROUNDS]

The MCP server, the antiphon server with the scripted model, and the client share one process, so what is compared are
ratios: every figure holds both ends. On a busy machine only CPU tells anything.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec import structs

from antiphon import config
from antiphon.net.fetch import Fetcher
from antiphon.observe import configure
from antiphon.tools.mcp_place import Place
from antiphon.tools.mcp_speech import Speech
from tests.conftest import serve
from tests.mcpserver import Remote
from tests.rawclient import create

ROUNDS = 50
ADD = 'call docs__add {"a": 1, "b": 2}'


async def measured(name: str, rounds: int, once: Callable[[], Awaitable[Any]]) -> None:
    await once()
    waited, used = [], []
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.process_time()
        await once()
        waited.append(time.perf_counter() - began)
        used.append(time.process_time() - spent)
    figures = (statistics.median(times) * 1000 for times in (waited, used))
    print(f"{name:<58}", *(f"{figure:8.2f}" for figure in figures))


async def calls(remote: Remote, rounds: int) -> None:
    fetcher = Fetcher(config.Fetch(allow=("127.0.0.1",)), 4)
    place = Place(url=remote.url)
    pooled = Speech(config.McpSettings(), fetcher, print)

    async def call(speech: Speech) -> None:
        output, _ = await speech.call("bench", place, "add", {"a": 1, "b": 2})
        assert output == "3"

    async def call_alone() -> None:
        speech = Speech(config.McpSettings(), fetcher, print)
        await call(speech)
        await speech.close()

    await measured("a call on a connection that is kept", rounds, lambda: call(pooled))
    await measured("a call on a connection of its own", rounds, call_alone)
    await measured("a list from the server", rounds, lambda: pooled.list("bench", place))
    await pooled.close()
    await fetcher.close()


async def responses(remote: Remote, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = config.Settings(
            models=(config.ScriptedModel(),),
            storage=config.Storage(database=str(Path(folder) / "bench.db")),
            tools=config.Tools(scripted=config.ScriptedToolSettings(enabled=True)),
            fetch=config.Fetch(allow=("127.0.0.1",)),
        )
        uncached = structs.replace(settings, tools=config.Tools(mcp=config.McpSettings(listing_s=1e-6)))
        local: Any = {"type": "antiphon:scripted"}

        async def asked(url: str, text: str, *tools: Any) -> None:
            answer = await create(url, input=text, tools=tools)
            assert answer.value["status"] == "completed"

        async with serve(settings) as url:
            for name, text, tools in (
                ("a plain response", "say hi", ()),
                ("a response with one more turn (a tool that does nothing)", 'call scripted {"text": "a"}', (local,)),
                ("a response with a list from memory", "say hi", (remote.tool(),)),
                ("a response with that and an MCP call", ADD, (remote.tool(),)),
            ):
                await measured(name, rounds, lambda text=text, tools=tools: asked(url, text, *tools))  # type: ignore[misc]
        async with serve(uncached) as url:
            await measured(
                "a response with a list from the server", rounds, lambda: asked(url, "say hi", remote.tool())
            )


async def main(rounds: int) -> None:
    configure("json", "error")
    async with Remote().serving() as remote:
        await calls(remote, rounds)
        await responses(remote, rounds)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
