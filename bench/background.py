"""What background responses cost, and how soon others notice: `python -m bench.background`.

Stores, servers and clients of one run share the machine. PostgreSQL is one of the run's own, as in bench.stores, with
its usual durability; SQLite has `synchronous = normal`.

    events      written by 1 and 3 servers, from 32 runs that each append 4 at a time, one append after the other
    lag         from a model's word at one server to a reader at another
    cancel      from POST …/cancel at one server to its answer, and to the end of the model's work at another
    takeover    from SIGKILL to the first event that another server writes
    foreground  CPU a request, beside a server that makes no background responses
"""

import argparse
import asyncio
import base64
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import uvloop
from msgspec.structs import replace

from antiphon import observe
from antiphon.config import Limits, Settings, Storage
from antiphon.core.deltas import Finish, Text
from antiphon.core.ports import Store
from antiphon.core.runs import Lease, NewRun
from antiphon.stores import build, postgres_bell, postgres_play, postgres_writer
from antiphon.stores.postgres import PostgresStore
from antiphon.stores.postgres_connection import Connection
from antiphon.wire.events import OutputTextDelta
from antiphon.wire.request import CreateResponse
from antiphon.wire.response import Response
from bench import proctree
from bench.service import Service, free_port
from bench.stores import started
from tests.chaosnodes import Server, SqliteFile, in_flight
from tests.rawclient import Exchange, Played, ask, create, exchange, serving

RUNS, BATCH, SECONDS = 32, 4, 2.0
LAGS, CANCELS, TAKEOVERS, REQUESTS, ROUNDS = 101, 31, 5, 1_000, 7
SECRET: Final = base64.b64encode(b"s" * 32).decode()
FAR_MS: Final = 2**45
SILENCE_S, IDLE_S = 0.4, 5.0


# -- events


async def begun(store: Store, name: str) -> tuple[Store, object]:
    response = Response(id=name, created_at=1, status="queued", model="m", background=True)
    run = NewRun(
        response=response, request=CreateResponse(model="m"), given=(), history=(), opening=_words(0), now_ms=0
    )
    assert await store.runs.add("p", run, queue_max=10_000, per_project_max=10_000)
    claimed = await store.runs.seize("p", name, Lease(owner="bench", until_ms=FAR_MS))
    assert claimed is not None
    return store, claimed.ticket


def _words(first: int) -> tuple[OutputTextDelta, ...]:
    return tuple(OutputTextDelta(first + number, "msg_" + "0" * 32, 0, 0, " word") for number in range(BATCH))


async def events_a_second(stores: Sequence[Store], name: str) -> tuple[float, float]:
    """And the milliseconds of an append, the median."""
    until, times = time.perf_counter() + SECONDS, list[float]()

    async def write(number: int) -> None:
        store, ticket = await begun(stores[number % len(stores)], f"{name}_{number}")
        first = BATCH
        while (at := time.perf_counter()) < until:
            assert await store.runs.append(ticket, _words(first), 0, FAR_MS)  # type: ignore[arg-type]
            times.append(time.perf_counter() - at)
            first += BATCH

    begin = time.perf_counter()
    await asyncio.gather(*map(write, range(RUNS)))
    return len(times) * BATCH / (time.perf_counter() - begin), statistics.median(times) * 1000


@contextmanager
def telling(how: str) -> Iterator[None]:
    """What messages cost: "as it is" (behind the commit), "none", or "in the commit"."""
    tell, commit = postgres_bell.Bell.tell, postgres_writer.__dict__["commit"]

    async def notify_and_commit(connection: Connection) -> None:
        await connection.execute("SELECT pg_notify('antiphon_runs', 'bench resp_0123456789')")
        await postgres_play.commit(connection)

    if how != "as it is":
        postgres_bell.Bell.tell = lambda *_: None  # type: ignore[method-assign]
    if how == "in the commit":
        vars(postgres_writer)["commit"] = notify_and_commit
    try:
        yield
    finally:
        postgres_bell.Bell.tell = tell  # type: ignore[method-assign]
        vars(postgres_writer)["commit"] = commit


async def measure_events(databases: dict[str, str]) -> None:
    print("events a second, and ms an append: messages none | as it is, behind the commit | in the commit")
    for kind, database in databases.items():
        for servers in (1, 3):
            stores = [build(Storage(database=database), Limits()) for _ in range(servers)]
            listeners = [asyncio.create_task(_listen(store)) for store in stores]
            found: dict[str, list[tuple[float, float]]] = {
                how: [] for how in (("none", "as it is", "in the commit") if kind == "PostgreSQL" else ("as it is",))
            }
            for number in range(ROUNDS):
                for how, rates in found.items():
                    with telling(how):
                        rates.append(await events_a_second(stores, f"{kind}{servers}{how}{number}"))
            medians = [map(statistics.median, zip(*rates, strict=True)) for rates in found.values()]
            cells = [f"{rate:8.0f}/s {ms:6.2f} ms" for rate, ms in medians]
            print(f"{kind:10} {servers} server{'s' * (servers > 1)} | " + " | ".join(cells), flush=True)
            for listener in listeners:
                listener.cancel()
            for store in stores:
                await store.close()


async def _listen(store: Store) -> None:
    while isinstance(store, PostgresStore):
        await store.runs.changed(1)


# -- two servers of this process


@asynccontextmanager
async def node(database: str, folder: Path) -> AsyncIterator[tuple[str, Played]]:
    settings = Settings(storage=Storage(database=database, files=str(folder)))
    if settings.storage.is_postgres:
        settings = replace(settings, server=replace(settings.server, secret=SECRET))
    store, model = build(settings.storage, settings.limits), Played()
    async with serving(settings, store, model) as url:
        yield url, model
    await store.close()


async def measure_notice(databases: dict[str, str], folder: Path) -> None:
    for kind, database in databases.items():
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(node(database, folder)) for _ in range(2)]
            lags = await _lags(nodes)
            answered, stopped = await _cancels(nodes)
        print(f"{kind:10} lag {_spread(lags)} | cancel answered {_spread(answered)}, model stopped {_spread(stopped)}")


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{statistics.median(ordered) * 1000:.1f} ms (max {ordered[-1] * 1000:.0f})"


async def _asked(nodes: Sequence[tuple[str, Played]]) -> tuple[str, Played, str]:
    """Its id, its model, and the address of the other server."""
    for _, model in nodes:
        model.is_asked.clear()
        model.is_over.clear()
    response_id = (await create(nodes[0][0], background=True, stream=False, model="played")).value["id"]
    return response_id, *await _made_by(nodes)


async def _made_by(nodes: Sequence[tuple[str, Played]]) -> tuple[Played, str]:
    while True:
        for (_, model), (other, _) in (nodes, nodes[::-1]):
            if model.is_asked.is_set():
                return model, other
        await asyncio.sleep(0)


async def _lags(nodes: Sequence[tuple[str, Played]]) -> list[float]:
    fields = {"model": "played", "input": "x", "background": True, "stream": True}
    async with exchange(nodes[0][0], "POST", "/v1/responses", fields) as one:
        await one.head()
        response_id = (await one.frames_until("response.queued"))[0].data["response"]["id"]
    model, other = await _made_by(nodes)
    lags = []
    async with exchange(other, "GET", f"/v1/responses/{response_id}?stream=true") as reader:
        await reader.head()
        for _ in range(LAGS):
            at = time.perf_counter()
            model.say(Text("word"))
            await reader.frames_until("response.output_text.delta")
            lags.append(time.perf_counter() - at)
            await asyncio.sleep(0.01)
        model.say(Finish("stop"))
        await reader.frames()
    return lags


async def _cancels(nodes: Sequence[tuple[str, Played]]) -> tuple[list[float], list[float]]:
    answered, stopped = [], []
    for number in range(CANCELS):
        response_id, model, other = await _asked(nodes)
        await asyncio.sleep(0.1 + number / 97 % 0.3)  # any moment between two looks
        at = time.perf_counter()
        await ask(other, "POST", f"/v1/responses/{response_id}/cancel")
        answered.append(time.perf_counter() - at)
        await model.is_over.wait()
        stopped.append(time.perf_counter() - at)
    return answered, stopped


# -- server processes


async def measure_takeover(folder: Path, lease_s: float) -> None:
    database = SqliteFile(folder)
    servers = [Server(database, folder, f"server{number}", lease_s) for number in range(2)]
    await asyncio.gather(*(server.start() for server in servers))
    try:
        seconds = [await _takeover(servers, database) for _ in range(TAKEOVERS)]
    finally:
        await asyncio.gather(*(server.kill() for server in servers))
    print(f"SQLite     takeover, lease {lease_s:g} s: {_spread(seconds)}", flush=True)


async def _takeover(servers: Sequence[Server], database: SqliteFile) -> float:
    fields = {"model": "scripted", "input": f"pace 50 | think {'a ' * 9_999}", "background": True, "stream": True}
    async with exchange(servers[0].url, "POST", "/v1/responses", fields) as one:
        await one.head()
        response_id = (await one.frames_until("response.reasoning_text.delta"))[0].data["response"]["id"]
    first = await in_flight(database, servers[0].pid)
    victim, other = servers if first else servers[::-1]
    async with exchange(other.url, "GET", f"/v1/responses/{response_id}?stream=true") as reader:
        await reader.head()
        await reader.frames_until("response.reasoning_text.delta")
        await asyncio.sleep(0.2)
        await victim.kill()
        at = last = time.perf_counter()
        while True:  # what was written before it died is behind us when there is silence
            await reader.frames_until("response.reasoning_text.delta")
            if (now := time.perf_counter()) - last > SILENCE_S:
                break
            last = now
    await ask(other.url, "POST", f"/v1/responses/{response_id}/cancel")
    await victim.start()
    return now - at


async def measure_foreground(folder: Path) -> None:
    roles = {"with": "all", "without": "api"}
    cpu_us: dict[str, list[float]] = {name: [] for name in roles}
    with ExitStack() as stack:
        services = {}
        for name, role in roles.items():
            port = free_port()
            flags = [
                "serve",
                "--scripted",
                "--role",
                role,
                "--port",
                str(port),
                "--database",
                str(folder / f"{name}.db"),
            ]
            command = [sys.executable, "-m", "antiphon", *flags]
            service = Service(name, command, port=port, folder=Path.cwd(), log_folder=folder)
            services[name] = stack.enter_context(service)
            services[name].wait_ready("/ready")
        for number in range(ROUNDS + 1):
            for name, service in services.items():
                taken = await _foreground(service)
                if number:  # the first warms up
                    cpu_us[name].append(taken)
        idle = {name: proctree.cpu_us(service.pid) for name, service in services.items()}
        await asyncio.sleep(IDLE_S)
        used = {name: (proctree.cpu_us(services[name].pid) - before) / IDLE_S for name, before in idle.items()}
    ratios = [one / other for one, other in zip(*cpu_us.values(), strict=True)]
    for name, values in cpu_us.items():
        print(
            f"foreground, {name} background responses: {statistics.median(values):.0f} us a request, "
            f"idle {used[name]:.0f} us a second"
        )
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


async def _foreground(service: Service) -> float:
    """Microseconds of CPU a request."""
    before = proctree.cpu_us(service.pid)
    async with await Exchange.open(f"http://127.0.0.1:{service.port}") as one:
        for _ in range(REQUESTS):
            one.send("POST", "/v1/responses", {"model": "scripted", "input": "say a b c d e f g h"})
            assert (await one.answer()).status == 200
    return (proctree.cpu_us(service.pid) - before) / REQUESTS


# -- the command

PARTS: Final = ("events", "notice", "takeover", "foreground")


async def measure(parts: Sequence[str], folder: Path, address: str) -> None:
    databases = {"SQLite": str(folder / "store.db"), "PostgreSQL": address}
    if "events" in parts:
        await measure_events(databases)
    if "notice" in parts:
        await measure_notice(databases, folder / "files")
    if "takeover" in parts:
        for lease_s in (1, Limits().background_lease_s):
            await measure_takeover(Path(tempfile.mkdtemp(dir=folder)), lease_s)
    if "foreground" in parts:
        await measure_foreground(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.background", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", choices=PARTS, action="append", default=[])
    parts = parser.parse_args().only or PARTS
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder, started() as address:
        observe.configure(level="warning")
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(parts, Path(folder), address))


if __name__ == "__main__":
    main()
