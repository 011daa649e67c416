"""What the same work costs in SQLite and in PostgreSQL: `python -m bench.stores`.

Everything in one run and one process, without HTTP, stores in turn. PostgreSQL is one of the run's own, on a loopback
port of this machine, with its usual durability (fsync on); SQLite with `synchronous = normal`, its own. `--database`
takes another one instead, which must be empty.
"""

import argparse
import asyncio
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import psycopg
import uvloop
from msgspec.structs import replace

from antiphon.config import Limits, Storage
from antiphon.core.ports import ResponseQuery, Store
from antiphon.stores import build
from bench.listing import made
from tests.postgres import Cluster, binaries

ALONE, GROUP, GROUPS = 1_000, 250, 40
TURNS = 100
REPETITIONS = 51
DURABLE = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on"}

Work: TypeAlias = Callable[[Store, int], Coroutine[Any, Any, None]]


async def save_one(store: Store, number: int) -> None:
    response, given = made(random.Random(number), number, "alone")
    await store.save("p", response, given, ())


async def save_group(store: Store, number: int) -> None:
    numbers = range(number * GROUP, (number + 1) * GROUP)
    await asyncio.gather(*(store.save("p", *made(random.Random(each), each, "grouped"), ()) for each in numbers))


async def fill_chain(store: Store) -> None:
    before = None
    for number in range(TURNS):
        response, given = made(random.Random(number), number, "turn")
        await store.save("p", replace(response, previous_response_id=before), given, ())
        before = response.id


async def read_context(store: Store, _: int) -> None:
    found = await store.context("p", f"turn_{TURNS - 1:08}")
    assert found is not None
    assert len(found) == 2 * TURNS


async def read_response(store: Store, number: int) -> None:
    assert await store.response("p", f"alone_{number:08}")


async def look_up(store: Store, number: int) -> None:
    assert await store.has("p", f"alone_{number:08}")


async def list_page(store: Store, _: int) -> None:
    page = await store.responses("p", ResponseQuery(limit=20, order="desc"))
    assert len(page.responses) == 20


async def ask_keys(store: Store, _: int) -> None:
    await store.keys()


WORK: dict[str, tuple[Work, int, int]] = {
    "a save, alone": (save_one, ALONE, 1),
    f"a save, of {GROUP} at once": (save_group, GROUPS, GROUP),
    f"the context of {TURNS} turns, cold": (read_context, REPETITIONS, 1),
    "a response": (read_response, ALONE, 1),
    "whether a response exists": (look_up, ALONE, 1),
    "a page of 20 responses": (list_page, REPETITIONS, 1),
    "the keys, asked for each request": (ask_keys, ALONE, 1),
}
"""What is done, how often, and how many things it is at once."""


async def measure(databases: dict[str, str]) -> None:
    stores = {name: build(Storage(database=database), Limits()) for name, database in databases.items()}
    for store in stores.values():
        await fill_chain(store)
        await store.keys()
    await asyncio.sleep(1)
    print(f"{'median us, and how many a second':38} | " + " | ".join(f"{name:>22}" for name in stores))
    for name, (work, times, parts) in WORK.items():
        taken: dict[str, list[float]] = {kind: [] for kind in stores}
        for number in range(times):
            for kind, store in stores.items():
                begun = time.perf_counter()
                await work(store, number)
                taken[kind].append((time.perf_counter() - begun) / parts)
        cells = []
        for seconds in taken.values():
            rate = len(seconds) / sum(seconds)
            cells.append(f"{statistics.median(seconds) * 1e6:10.1f} {rate:10.0f}/s")
        print(f"{name:38} | " + " | ".join(f"{cell:>22}" for cell in cells), flush=True)
    for store in stores.values():
        await store.close()


@contextmanager
def started() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        raise SystemExit("PostgreSQL is not installed: make postgresql")
    cluster = Cluster(programs, **DURABLE)
    try:
        yield cluster.url()
    finally:
        cluster.remove()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.stores", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--database", help="an empty PostgreSQL database, postgresql://…")
    address = parser.parse_args().database
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-bench-"))
        address = address or stack.enter_context(started())
        with psycopg.connect(address) as connection:
            version = connection.info.parameter_status("server_version")
        print(f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, PostgreSQL {version}\n")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure({"SQLite": str(Path(folder) / "store.db"), "PostgreSQL": address}))


if __name__ == "__main__":
    main()
