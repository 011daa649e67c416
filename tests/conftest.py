"""What tests share: a real server on a loopback port, in this process, as the product runs it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import hypothesis
import msgspec
import openai
import pytest
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

from antiphon import app, config
from antiphon.api.routes import Api
from antiphon.config import ScriptedModel, Settings
from tests.postgres import Cluster, binaries

hypothesis.settings.register_profile("the same every time", derandomize=True)
if "FUZZ_FACTOR" not in os.environ:  # `make fuzz` tries new examples; what runs before a landing must not be a lottery
    hypothesis.settings.load_profile("the same every time")
    assert "_get_local_constants" in vars(providers)
    vars(providers)["_get_local_constants"] = Constants  # else it tries what stands in the modules loaded by then

WAIT_S = 60
"""No test waits longer for one thing; what comes takes a fraction of it, also on a slow machine."""

Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[str]]


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[str]:
    """A running server; gives its base address, with /v1."""
    async with app.running(settings) as asgi, listening(asgi, settings) as address:
        yield f"{address}/v1"


@asynccontextmanager
async def listening(asgi: Api, settings: Settings) -> AsyncIterator[str]:
    """The application behind the product's HTTP server, on a free loopback port; gives its address."""
    server = app.http_server(asgi, settings)
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment] # the signals are pytest's
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, WAIT_S)


@pytest.fixture
def scripted(tmp_path: Path) -> Settings:
    """The scripted model and tool, storing in a file of the test's own."""
    return config.Settings(
        models=(ScriptedModel(),),
        storage=config.Storage(database=str(tmp_path / "test.db")),
        tools=config.Tools(scripted=config.ScriptedToolSettings(enabled=True)),
    )


@pytest.fixture
async def url(scripted: Settings) -> AsyncIterator[str]:
    async with serve(scripted) as address:
        yield address


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official SDK; it must not hide a fault by trying again."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=WAIT_S) as sdk:
        yield sdk


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running PostgreSQL. Where CI must have tested with one, its absence is a failure."""
    programs = binaries()
    if programs is None:
        message = "PostgreSQL is not installed: make postgresql"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    made = Cluster(programs)
    yield made
    made.remove()


@pytest.fixture
def database(cluster: Cluster) -> str:
    """The address of an empty PostgreSQL database."""
    return cluster.emptied()


def changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """The settings with some fields of some sections changed."""
    for name, fields in sections.items():
        section = msgspec.structs.replace(getattr(settings, name), **fields)
        settings = msgspec.structs.replace(settings, **{name: section})
    return settings
