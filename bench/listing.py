"""What a page of stored responses costs, and what the indexes for it cost a save: `python -m bench.listing`.

Everything in one run and one process, without HTTP: a page is read from the store and encoded. Parameters are drawn
anew for each repetition. `loop held` is the longest that the event loop was kept from anything else during a page, the
median of these.
"""

import argparse
import asyncio
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import apsw

from antiphon.config import Limits, Storage
from antiphon.core.ports import ResponseQuery
from antiphon.stores.sqlite import SqliteStore
from antiphon.wire import codec
from antiphon.wire.items import InputText, Message, OutputText
from antiphon.wire.resources import ResponseList
from antiphon.wire.response import Response, ResponseStatus

ROWS = 100_000
GROUP = 250
REPETITIONS = 101
PAUSE_S = 0.0005
SAVES = 4_000
FIRST_S, PER_SECOND = 1_700_000_000, 5
USERS = 20_000
"""So that a user has five responses at 100,000."""
RARE_EVERY = 10_000
STATUSES: Sequence[ResponseStatus] = ("completed", "incomplete", "failed", "cancelled")
SHARES = (96.8, 2.0, 1.0, 0.2)

Draw: TypeAlias = Callable[[random.Random, int], dict[str, Any]]


def any_time(draw: random.Random, rows: int) -> int:
    return FIRST_S + draw.randrange(rows) // PER_SECOND


KINDS: dict[str, Draw] = {
    "newest": lambda _draw, _rows: {},
    "newest, limit 100": lambda _draw, _rows: {"limit": 100},
    "oldest": lambda _draw, _rows: {"order": "asc"},
    "behind any response": lambda draw, rows: {"after": f"resp_{draw.randrange(rows):08}"},
    "created before": lambda draw, rows: {"created_before": any_time(draw, rows)},
    "model, common": lambda _draw, _rows: {"model": "model-1"},
    "model, rare": lambda _draw, _rows: {"model": "rare"},
    "status, common": lambda _draw, _rows: {"status": "completed"},
    "status, rare": lambda _draw, _rows: {"status": "cancelled"},
    "metadata, common": lambda _draw, _rows: {"metadata": (("env", "prod"),)},
    "metadata, rare": lambda draw, _rows: {"metadata": (("user", str(draw.randrange(USERS))),)},
    "metadata, unknown": lambda _draw, _rows: {"metadata": (("user", "nobody"),)},
    "metadata, common and rare": lambda draw, _rows: {
        "metadata": (("env", "prod"), ("user", str(draw.randrange(USERS))))
    },
    "metadata, common, and status failed": lambda draw, rows: {
        "metadata": (("env", "prod"),),
        "status": "failed",
        "created_before": any_time(draw, rows),
    },
    "metadata, common, and status completed": lambda _draw, _rows: {
        "metadata": (("env", "prod"),),
        "status": "completed",
    },
    "metadata, common, and model rare": lambda _draw, _rows: {"metadata": (("env", "prod"),), "model": "rare"},
    "model rare, status failed": lambda _draw, _rows: {"model": "rare", "status": "failed"},
    "metadata, two that never meet": lambda _draw, _rows: {"metadata": (("even", "1"), ("odd", "1"))},
}
INDEXES: dict[str, Sequence[str]] = {
    "with both": (),
    "without responses_by_status": ("responses_by_status",),
    "without responses_by_model": ("responses_by_model",),
    "without both": ("responses_by_model", "responses_by_status"),
}
"""What is dropped from a copy, to see what a save costs then."""


# -- what is stored


def made(draw: random.Random, number: int, prefix: str = "resp") -> tuple[Response, tuple[Message]]:
    (status,) = draw.choices(STATUSES, SHARES)
    model = "rare" if number % RARE_EVERY == 1 else f"model-{draw.randrange(3)}"
    labels = {
        "user": str(draw.randrange(USERS)),
        "env": "prod" if draw.random() < 0.7 else "dev",
        "odd" if number % 2 else "even": "1",
    }
    output = Message(
        id=f"msg_{number:08}", status="completed", role="assistant", content=(OutputText(text="word " * 120),)
    )
    given = Message(id=f"in_{number:08}", status="completed", role="user", content=(InputText(text="word " * 40),))
    created_at = FIRST_S + number // PER_SECOND
    response = Response(
        id=f"{prefix}_{number:08}",
        created_at=created_at,
        status=status,
        model=model,
        metadata=labels,
        output=(output,),
    )
    return response, (given,)


def opened(database: Path) -> SqliteStore:
    return SqliteStore(Storage(database=str(database)), Limits())


async def fill(database: Path, rows: int) -> None:
    draw = random.Random(1)
    store = opened(database)
    for begin in range(0, rows, GROUP):
        group = [made(draw, number) for number in range(begin, min(begin + GROUP, rows))]
        await asyncio.gather(*(store.save("p", response, given, ()) for response, given in group))
    await store.close()


# -- pages


async def measure_pages(database: Path, rows: int) -> None:
    draw = random.Random(2)
    store = opened(database)
    print(f"{'a page of':42} | {'responses':>9} | {'median ms':>9} | {'p95 ms':>7} | {'loop held ms':>12}")
    for kind, asked in KINDS.items():
        times, counts, held = [], [], []
        for _ in range(REPETITIONS):
            fields: dict[str, Any] = {"limit": 20, "order": "desc"} | asked(draw, rows)
            taken, count, gap = await page(store, ResponseQuery(**fields))
            times.append(taken)
            counts.append(count)
            held.append(gap)
        median, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        count, gap = round(statistics.median(counts)), statistics.median(held)
        print(f"{kind:42} | {count:9} | {median * 1e3:9.2f} | {p95 * 1e3:7.2f} | {gap * 1e3:12.2f}", flush=True)
    await store.close()


async def page(store: SqliteStore, query: ResponseQuery) -> tuple[float, int, float]:
    """Seconds until the page is encoded, its responses, and the longest the loop was held."""
    begun = last = time.perf_counter()
    reading = asyncio.ensure_future(encoded(store, query))
    held, pause_s = 0.0, 0.0  # the first turn is the read's own; a loop that never rested would hold up the far thread
    while not reading.done():
        await asyncio.sleep(pause_s)
        now = time.perf_counter()
        held, last, pause_s = max(held, now - last - pause_s), now, PAUSE_S
    count, ended = reading.result()
    return ended - begun, count, held


async def encoded(store: SqliteStore, query: ResponseQuery) -> tuple[int, float]:
    found = await store.responses("p", query)
    codec.encode(ResponseList.of(found.responses, has_more=found.has_more))
    return len(found.responses), time.perf_counter()


# -- saves


async def measure_saves(database: Path, rows: int) -> None:
    """In turn, so that what else the machine does hits all alike."""
    files = {name: database.with_suffix(f".{number}") for number, name in enumerate(INDEXES)}
    for name, dropped in INDEXES.items():
        shutil.copy(database, files[name])
        connection = apsw.Connection(str(files[name]))
        for index in dropped:
            connection.execute(f"DROP INDEX {index}")
        connection.execute("VACUUM")  # the space of what was dropped would be used again, at a price
        connection.close()
    stores = {name: opened(file) for name, file in files.items()}
    alone, grouped = await alone_us(stores, rows), await grouped_us(stores, rows)
    print(f"\n{'a save':42} | {'alone us':>9} | {f'of {GROUP} at once us':>18}")
    for name, store in stores.items():
        print(f"{name:42} | {alone[name]:9.1f} | {grouped[name]:18.1f}")
        await store.close()


async def alone_us(stores: dict[str, SqliteStore], rows: int) -> dict[str, float]:
    draw = random.Random(3)
    times: dict[str, list[float]] = {name: [] for name in stores}
    for number in range(SAVES):
        response, given = made(draw, rows + number)
        for name, store in sorted(stores.items(), key=lambda _: draw.random()):
            begun = time.perf_counter()
            await store.save("p", response, given, ())
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) * 1e6 for name, taken in times.items()}


async def grouped_us(stores: dict[str, SqliteStore], rows: int) -> dict[str, float]:
    draw = random.Random(4)
    times: dict[str, list[float]] = {name: [] for name in stores}
    for begin in range(0, SAVES * 2, GROUP):
        group = [made(draw, rows + begin + number, "grouped") for number in range(GROUP)]
        for name, store in sorted(stores.items(), key=lambda _: draw.random()):
            begun = time.perf_counter()
            await asyncio.gather(*(store.save("p", response, given, ()) for response, given in group))
            times[name].append((time.perf_counter() - begun) / GROUP)
    return {name: statistics.median(taken) * 1e6 for name, taken in times.items()}


async def measure(rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder:
        database = Path(folder) / "listing.db"
        begun = time.perf_counter()
        await fill(database, rows)
        size = database.stat().st_size / 2**20
        versions = f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}"
        stored_s = time.perf_counter() - begun
        print(f"{rows} responses, {size:.0f} MiB, stored in {stored_s:.0f} s; {REPETITIONS} repetitions; {versions}\n")
        await measure_pages(database, rows)
        await measure_saves(database, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.listing", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    asyncio.run(measure(parser.parse_args().rows))


if __name__ == "__main__":
    main()
